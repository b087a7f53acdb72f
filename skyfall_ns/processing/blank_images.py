"""Images that show nothing of the area: no data, or no contrast at all, as under a thick cloud."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool
from numpy import ndarray

from skyfall_ns.errors import RasterError
from skyfall_ns.processing.vendor_images import Crop

LEAST_DATA = 0.02  # share of the crop's pixels
LEAST_CONTRAST = 0.04  # of the image with the most
SCALE_PX = 4.0  # contrast is what remains after smoothing by so much: clouds are smooth


def blank_images(crops: Sequence[Crop]) -> Bool[ndarray, " v"]:
    """Which of the images have no data or no local contrast in their crops."""
    contrast = np.array([_local_contrast(crop) for crop in crops])
    return contrast <= LEAST_CONTRAST * contrast.max()


def _local_contrast(crop: Crop) -> float:
    """Root mean square of the digital numbers' differences from their surroundings; 0 without data."""
    if crop.valid.mean() < LEAST_DATA:
        return 0.0
    inner = cv2.erode(crop.valid.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0  # not the edges of missing data
    gray = np.where(crop.valid, crop.dn.astype(np.float32).mean(-1), 0)
    difference = (gray - cv2.GaussianBlur(gray, (0, 0), SCALE_PX))[inner]
    return float(np.sqrt(np.mean(difference**2))) if len(difference) else 0.0


def check_enough(names: Sequence[str], blank: Bool[ndarray, " v"], held_out: set[str]) -> None:
    """Raise RasterError unless two images remain to work with."""
    left = [name for name, empty in zip(names, blank, strict=True) if not empty and name not in held_out]
    if len(left) < 2:
        without = ", ".join(name for name, empty in zip(names, blank, strict=True) if empty)
        raise RasterError(
            f"Fewer than two images show the area of interest: {without} has no data or no contrast there. "
            "Choose another area, or add images that show it."
        )
