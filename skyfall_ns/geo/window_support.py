"""Support of a surface by large windows: noise matches at some height in every small window, but in no large one."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float32
from numpy import ndarray

from skyfall_ns.geo.matching_cost import MIN_VARIANCE, PlaneWarp

LARGE_WINDOW, MIN_LARGE_CORRELATION = 15, 0.3  # noise is below 0.25, real dates are above 0.4
SMALL_WINDOW, MIN_SMALL_CORRELATION = 5, 0.5  # noise is below 0.45: the border of noise, where large windows see both
CERTAIN_CORRELATION = 0.7  # of small windows amid noise: noise is nowhere above
MIN_VALID_FRACTION = 0.2  # of a window


def find_noise(
    images: Sequence[Float32[ndarray, "r c k"]],
    warps: Sequence[PlaneWarp],
    pairs: Sequence[tuple[int, int]],
    height_m: Float32[ndarray, "h w"],
    best_fraction: float,
) -> Bool[ndarray, "h w"]:
    """Find the cells of a surface whose heights match noise: those of little correlation in large windows, and the
    cells of little correlation in small windows within half a large one of them."""
    large, small = (
        window_correlation(images, warps, pairs, height_m, window, best_fraction)
        for window in (LARGE_WINDOW, SMALL_WINDOW)
    )
    noise = (large > -1) & (large < MIN_LARGE_CORRELATION)
    size = (LARGE_WINDOW + 2, LARGE_WINDOW + 2)
    near = cv2.dilate(noise.astype(np.uint8), np.ones(size, np.uint8)) > 0
    mostly = cv2.blur(noise.astype(np.float32), size) > 0.5
    return noise | (near & (small < MIN_SMALL_CORRELATION)) | (mostly & (small < CERTAIN_CORRELATION))


def window_correlation(
    images: Sequence[Float32[ndarray, "r c k"]],
    warps: Sequence[PlaneWarp],
    pairs: Sequence[tuple[int, int]],
    height_m: Float32[ndarray, "h w"],
    window: int,
    best_fraction: float,
) -> Float32[ndarray, "h w"]:
    """Mean over the best fraction of the pairs (at least two) of the correlation of two views on a surface, in square
    windows of `window` cells; -1 for pairs that do not cover a cell.

    Over noise, correlations of 3 x 3 cells are near 0.5 at the height where they are largest. In the same surface,
    those of 15 x 15 cells are below 0.25; over real dates nine months apart they are above 0.4 in 99 % of the matched
    cells (JAX_068)."""
    gray = [warp(image[..., :1], height_m).reshape(height_m.shape) for warp, image in zip(warps, images, strict=True)]
    valid = [np.isfinite(values) for values in gray]
    gray = [np.where(known, values, 0).astype(np.float32) for known, values in zip(valid, gray, strict=True)]
    kept = min(len(pairs), max(2, int(np.ceil(best_fraction * len(pairs)))))
    best = np.full((kept, *height_m.shape), -1, np.float32)
    for i, j in pairs:
        value = _masked_correlation(gray[i], gray[j], (valid[i] & valid[j]).astype(np.float32), window)
        for rank in range(kept):  # insertion into the sorted list of the best
            best[rank], value = np.maximum(best[rank], value), np.minimum(best[rank], value)
    return best.mean(0)


def _masked_correlation(a, b, valid: Float32[ndarray, "h w"], window: int) -> Float32[ndarray, "h w"]:
    """Correlation of two images in windows, over their valid pixels; -1 where there are few.

    In windows that are cut by a border or by invalid pixels, it is reduced by the root of the valid fraction, because
    noise correlates more by chance in fewer pixels."""

    def window_mean(values: Float32[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
        return cv2.blur(values, (window, window), borderType=cv2.BORDER_CONSTANT)

    fraction = window_mean(valid)
    count = np.maximum(fraction, MIN_VALID_FRACTION)
    mean_a, mean_b = (window_mean(values * valid) / count for values in (a, b))
    variance_a, variance_b = (
        np.maximum(window_mean(values * values * valid) / count - mean * mean, MIN_VARIANCE)
        for values, mean in ((a, mean_a), (b, mean_b))
    )
    covariance = window_mean(a * b * valid) / count - mean_a * mean_b
    correlation = covariance / np.sqrt(variance_a * variance_b) * np.sqrt(np.minimum(fraction, 1))
    return np.where(fraction >= MIN_VALID_FRACTION, correlation, -1).astype(np.float32)
