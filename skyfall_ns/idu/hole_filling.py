"""Filling of empty pixels of a render from the pixels around them, so that refiners do not paint on black borders."""

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

EMPTY_VIEW_GRAY = 0.5  # of a view without any valid pixel


def fill_holes(rgb: Float[ndarray, "h w 3"], valid: Bool[ndarray, "h w"]) -> Float[ndarray, "h w 3"]:
    """Fill invalid pixels with smooth colors from around them; valid pixels are unchanged.

    Pull-push (Gortler et al. 1996): a pyramid of averages over valid pixels; each invalid pixel has the color of the
    finest level that has an average there."""
    rgb, weight = np.asarray(rgb, np.float32), np.asarray(valid, np.float32)
    if not valid.any():
        return np.full_like(rgb, EMPTY_VIEW_GRAY)
    return np.where(valid[..., None], rgb, _fill_level(np.where(valid[..., None], rgb, 0.0), weight))


def _fill_level(color: Float[ndarray, "h w 3"], weight: Float[ndarray, "h w"]) -> Float[ndarray, "h w 3"]:
    """Known color times its weight, plus the coarser level where weight is missing; `color` is 0 where `weight` is."""
    height, width = weight.shape
    if weight.min() > 0 or max(height, width) == 1:
        return color
    size = ((width + 1) // 2, (height + 1) // 2)
    share = cv2.resize(weight, size, interpolation=cv2.INTER_AREA)
    total = cv2.resize(color * weight[..., None], size, interpolation=cv2.INTER_AREA)
    average = np.where(share[..., None] > 1e-6, total / np.maximum(share, 1e-6)[..., None], 0.0).astype(np.float32)
    coarse = _fill_level(average, np.minimum(4 * share, 1.0) * (share > 1e-6))
    upsampled = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)
    return weight[..., None] * color + (1 - weight[..., None]) * upsampled
