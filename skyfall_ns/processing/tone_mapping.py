"""One tone curve for all images of a scene, from the digital numbers of their common ground.

The model assumes gamma-encoded images: light = value ** DISPLAY_GAMMA. Deliveries of more than 8 bits are proportional
to light, and a tone curve of gamma 2.2 encodes them exactly. Those of 8 bits may already be gamma-encoded, and a second
encoding would wash them out. Their gamma brings the median to mid-gray, within 1 (as delivered) to 2.2.
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
    """Fit a tone curve to the valid pixels of all images ("h w b" and bool "h w"): percentiles per band and gamma.

    Without a given `gamma` it follows from the images' bits and median (see above). Digital numbers from `full_well`
    on, the lowest at which an image is saturated, become 1. Raises RasterError if images have different numbers of
    bands, no valid pixel, or no contrast.
    """
    bands = {image.shape[2] for image in images}
    if len(bands) != 1:
        raise RasterError("Some of the --images are gray and some are in color. Process them as two scenes.")
    samples = np.concatenate([_sample_pixels(image, mask) for image, mask in zip(images, masks, strict=True)])
    if not len(samples):
        raise RasterError("No pixel of the --images is valid in the area of interest. Choose another area.")
    low, high = np.percentile(samples, PERCENTILES, axis=0)
    high = np.minimum(high, full_well)
    if (high <= low).any():
        raise RasterError("The --images have no contrast in the area of interest. Choose another area or other images.")
    stretched = Tone(tuple(map(float, low)), tuple(map(float, high)), 1.0)
    if gamma is None:
        eight_bits = all(image.dtype.itemsize == 1 for image in images)
        gamma = median_gamma(float(np.median(stretched.apply_curve(samples)))) if eight_bits else DISPLAY_GAMMA
    return replace(stretched, gamma=gamma)


def check_gamma(gamma: float | None) -> None:
    """Raise RasterError unless gamma is None or positive and finite."""
    if gamma is not None and not 0 < gamma < math.inf:
        raise RasterError(f"--gamma {gamma:g} is not a positive number. Pass 1 to 2.2, or leave the flag out.")


def median_gamma(median: float) -> float:
    """The gamma that brings a median in 0..1 to mid-gray, limited to 1..2.2."""
    darkest = MID_GRAY**DISPLAY_GAMMA
    return max(1.0, math.log(max(median, darkest)) / math.log(MID_GRAY))


def _sample_pixels(image: ndarray, mask: ndarray) -> ndarray:
    """At most about _SAMPLES valid pixels, evenly spaced."""
    values = image[mask]
    return values[:: max(1, len(values) // _SAMPLES)].astype(np.float64)
