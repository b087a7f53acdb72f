"""Void in a render filled from around it, so that no refiner sees black borders and paints on them."""

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

GRAY = 0.5  # of a view that shows nothing at all


def fill_void(rgb: Float[ndarray, "h w 3"], valid: Bool[ndarray, "h w"]) -> Float[ndarray, "h w 3"]:
    """The picture with smooth colours of its surroundings where it is not valid; valid pixels stay as they are.

    A pyramid of averages over valid pixels alone: each invalid pixel takes the finest average that there is around it
    (pull-push, Gortler et al. 1996)."""
    rgb, weight = np.asarray(rgb, np.float32), np.asarray(valid, np.float32)
    if not valid.any():
        return np.full_like(rgb, GRAY)
    return np.where(valid[..., None], rgb, _filled(np.where(valid[..., None], rgb, 0.0), weight))


def _filled(color: Float[ndarray, "h w 3"], weight: Float[ndarray, "h w"]) -> Float[ndarray, "h w 3"]:
    """Known colour times its weight, plus the coarser level where weight is missing; `color` is 0 where `weight` is."""
    height, width = weight.shape
    if weight.min() > 0 or max(height, width) == 1:
        return color
    size = ((width + 1) // 2, (height + 1) // 2)
    share = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(color * weight[..., None], size, interpolation=cv2.INTER_AREA)
    average = np.where(share[..., None] > 1e-6, total / np.maximum(share, 1e-6)[..., None], 0.0).astype(np.float32)
    coarse = _filled(average, np.minimum(4 * share, 1.0) * (share > 1e-6))
    around = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return weight[..., None] * color + (1 - weight[..., None]) * around
