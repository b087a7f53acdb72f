"""One tone curve for all images of a scene, from the digital numbers of the ground that they share.

Pictures are display-coded: light = value ** DISPLAY_GAMMA, as far as the model is concerned. Deliveries of more than 8
bits are proportional to light, and a tone of gamma 2.2 codes them exactly. Those of 8 bits may be ready for display; a
second coding would wash them out. Their gamma brings the median to mid-gray, between 1 (as delivered) and 2.2.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy import ndarray

from skyfall_ns.errors import RasterError
from skyfall_ns.scene.scene import DISPLAY_GAMMA, Tone

PERCENTILES = (0.5, 99.5)
MID_GRAY = 0.5
_SAMPLES = 400_000  # per image


def fit_tone(
    images: Sequence[ndarray],
    masks: Sequence[ndarray],
    gamma: float | None = None,
    full_well: float = math.inf,
) -> Tone:
    """Shared percentiles per band of the usable pixels of all images ("h w b" and bool "h w"), and the given gamma, or
    the one that suits their bits and median. Numbers from `full_well` on, the lowest at which an image is saturated,
    become 1.

    Raises RasterError if images have different numbers of bands, or no usable pixel, or no contrast.
    """
    bands = {image.shape[2] for image in images}
    if len(bands) != 1:
        raise RasterError("Some of the --images are gray and some are in colour. Process them as two scenes.")
    samples = np.concatenate([_sample(image, mask) for image, mask in zip(images, masks, strict=True)])
    if not len(samples):
        raise RasterError("No pixel of the --images is usable in the area of interest. Choose another area.")
    low, high = np.percentile(samples, PERCENTILES, axis=0)
    high = np.minimum(high, full_well)
    if (high <= low).any():
        raise RasterError("The --images have no contrast in the area of interest. Choose another area or other images.")
    stretched = Tone(tuple(map(float, low)), tuple(map(float, high)), 1.0)
    if gamma is None:
        eight_bits = all(image.dtype.itemsize == 1 for image in images)
        gamma = median_gamma(float(np.median(stretched.apply(samples)))) if eight_bits else DISPLAY_GAMMA
    return replace(stretched, gamma=gamma)


def check_gamma(gamma: float | None) -> None:
    """RasterError for a gamma that is none."""
    if gamma is not None and not 0 < gamma < math.inf:
        raise RasterError(f"--gamma {gamma:g} is not a positive number. Pass 1 to 2.2, or leave the flag out.")


def median_gamma(median: float) -> float:
    """The gamma that brings a median in 0..1 to mid-gray, within what displays need: 1 to 2.2."""
    darkest = MID_GRAY**DISPLAY_GAMMA
    return max(1.0, math.log(max(median, darkest)) / math.log(MID_GRAY))


def _sample(image: ndarray, mask: ndarray) -> ndarray:
    values = image[mask]
    return values[:: max(1, len(values) // _SAMPLES)].astype(np.float64)
