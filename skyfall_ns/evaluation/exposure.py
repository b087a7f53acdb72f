"""Exposure and color statistics, to compare renderings with the images that a scene was trained on."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from numpy import ndarray

CLIPPED_LEVEL = 254
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def exposure_statistics(pixels: Sequence[UInt8[ndarray, "n 3"]]) -> dict[str, float]:
    """Mean and median luma, share of pixels with a channel at or above CLIPPED_LEVEL, and 99th percentile of chroma
    (largest minus smallest channel) of the pixels of all images together; 0..255."""
    values = np.concatenate(list(pixels)).astype(np.float64)
    luma, chroma = values @ LUMA, values.max(1) - values.min(1)
    return {
        "luma": float(luma.mean()),
        "median_luma": float(np.median(luma)),
        "clipped": float((values.max(1) >= CLIPPED_LEVEL).mean()),
        "chroma_p99": float(np.percentile(chroma, 99)),
    }
