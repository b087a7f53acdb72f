"""Images that are blank over the area: no data, or no contrast, as under a thick cloud."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from skyfall_ns.errors import RasterError
from skyfall_ns.processing.image_windows import Crop

MIN_DATA_FRACTION = 0.02  # of the crop's pixels
MIN_CONTRAST_RATIO = 0.04  # to the contrast of the image with the most
SMOOTHING_PX = 4.0  # contrast is measured against a smoothed image (standard deviation), because clouds are smooth


def find_blank_images(crops: Sequence[Crop]) -> Bool[ndarray, " v"]:
    """Find the images that have no data or no local contrast in their crops."""
    contrast = np.array([_local_contrast(crop) for crop in crops])
    return contrast <= MIN_CONTRAST_RATIO * contrast.max()


def _local_contrast(crop: Crop) -> float:
    """Root mean square of the digital numbers' differences from the smoothed crop; 0 without data."""
    if crop.valid.mean() < MIN_DATA_FRACTION:
        return 0.0
    inner = cv2.erode(crop.valid.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0  # not the edges of missing data
    gray = np.where(crop.valid, crop.dn.astype(np.float32).mean(-1), 0)
    difference = (gray - cv2.GaussianBlur(gray, (0, 0), SMOOTHING_PX))[inner]
    return float(np.sqrt(np.mean(difference**2))) if len(difference) else 0.0


def check_remaining_images(names: Sequence[str], blank: Bool[ndarray, " v"], held_out: frozenset[str]) -> None:
    """Raise RasterError unless at least two training images are not blank."""
    remaining = [name for name, is_blank in zip(names, blank, strict=True) if not is_blank and name not in held_out]
    if len(remaining) < 2:
        blank_names = ", ".join(name for name, is_blank in zip(names, blank, strict=True) if is_blank)
        raise RasterError(
            f"Fewer than two images show the area of interest: {blank_names} has no data or no contrast there. "
            "Choose another area, or add images that show it."
        )
