"""Tone curves of the images of a scene, one for all where it can be, from the digital numbers of their common ground.

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
MAX_RANGE_RATIO = 5.0  # of the brightest digital numbers of two images with one tone curve
MEDIAN_TOLERANCE = 0.15  # of tone-mapped images: the medians of two dates of one place differ by that
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


def fit_tones(
    images: Sequence[ndarray], masks: Sequence[ndarray], gamma: float | None, full_wells: Sequence[float]
) -> tuple[list[Tone], str | None]:
    """One tone curve for all images, or one per image with a note where their digital numbers have different ranges.

    Arguments are those of `fit_tone`; `full_wells` has one number per image."""
    ranges = [_upper_range(image, mask) for image, mask in zip(images, masks, strict=True)]
    depths = {image.dtype.itemsize == 1 for image in images}
    if len(depths) == 1 and max(ranges) <= MAX_RANGE_RATIO * min(ranges):
        return [fit_tone(images, masks, gamma, min(full_wells))] * len(images), None
    if len({image.shape[2] for image in images}) != 1:
        fit_tone(images, masks)  # raises the error of gray and color images
    tones = [
        fit_tone([image], [mask], gamma, well) for image, mask, well in zip(images, masks, full_wells, strict=True)
    ]
    if gamma is None and len(depths) == 2:
        tones = _match_display_ready(tones, images, masks)
    return tones, (
        "the digital numbers of the images have different ranges (bit depths or units): each image has its own tone "
        "curve"
    )


def _match_display_ready(tones: Sequence[Tone], images: Sequence[ndarray], masks: Sequence[ndarray]) -> list[Tone]:
    """The tones, with gammas for 8-bit images: 2.2 as for the deeper ones if that makes their medians similar, or that
    which makes them equal, within 1 to 2.2."""
    samples = [_sample_pixels(image, mask) for image, mask in zip(images, masks, strict=True)]
    deep = [k for k, image in enumerate(images) if image.dtype.itemsize > 1]
    target = float(np.mean([np.median(tones[k].apply_curve(samples[k])) for k in deep]))
    matched = list(tones)
    for k in set(range(len(images))) - set(deep):
        median = float(np.median(replace(tones[k], gamma=1.0).apply_curve(samples[k])))
        is_linear = abs(median ** (1 / DISPLAY_GAMMA) - target) <= MEDIAN_TOLERANCE
        matched[k] = replace(tones[k], gamma=DISPLAY_GAMMA if is_linear else median_gamma(median, target))
    return matched


def _upper_range(image: ndarray, mask: ndarray) -> float:
    """The largest digital number of an image, but for the brightest ones; at least a small positive number."""
    samples = _sample_pixels(image, mask)
    return max(float(np.percentile(samples, PERCENTILES[1])) if samples.size else 0.0, 1e-6)


def check_gamma(gamma: float | None) -> None:
    """Raise RasterError unless gamma is None or positive and finite."""
    if gamma is not None and not 0 < gamma < math.inf:
        raise RasterError(f"--gamma {gamma:g} is not a positive number. Pass 1 to 2.2, or leave the flag out.")


def median_gamma(median: float, target: float = MID_GRAY) -> float:
    """The gamma that brings a median in 0..1 to a target (by default mid-gray), limited to 1..2.2."""
    median, target = min(max(median, 1e-3), 0.999), min(max(target, 1e-3), 0.999)
    return min(max(1.0, math.log(median) / math.log(target)), DISPLAY_GAMMA)


def _sample_pixels(image: ndarray, mask: ndarray) -> ndarray:
    """At most about _SAMPLES valid pixels, evenly spaced."""
    values = image[mask]
    return values[:: max(1, len(values) // _SAMPLES)].astype(np.float64)
