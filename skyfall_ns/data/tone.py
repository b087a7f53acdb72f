"""One tone curve for all images of a scene, from the digital numbers of the ground that they share."""

from collections.abc import Sequence

import numpy as np
from numpy import ndarray

from skyfall_ns.data.scene import Tone
from skyfall_ns.errors import RasterError

PERCENTILES = (0.5, 99.5)
GAMMA = 2.2
_SAMPLES = 400_000  # per image


def fit_tone(images: Sequence[ndarray], masks: Sequence[ndarray]) -> Tone:
    """Shared percentiles per band of the usable pixels of all images ("h w b" and bool "h w").

    Raises RasterError if images have different numbers of bands, or no usable pixel, or no contrast.
    """
    bands = {image.shape[2] for image in images}
    if len(bands) != 1:
        raise RasterError("Some of the --images are gray and some are in colour. Process them as two scenes.")
    samples = np.concatenate([_sample(image, mask) for image, mask in zip(images, masks, strict=True)])
    if not len(samples):
        raise RasterError("No pixel of the --images is usable in the area of interest. Choose another area.")
    low, high = np.percentile(samples, PERCENTILES, axis=0)
    if (high <= low).any():
        raise RasterError("The --images have no contrast in the area of interest. Choose another area or other images.")
    return Tone(tuple(map(float, low)), tuple(map(float, high)), GAMMA)


def _sample(image: ndarray, mask: ndarray) -> ndarray:
    values = image[mask]
    return values[:: max(1, len(values) // _SAMPLES)].astype(np.float64)
