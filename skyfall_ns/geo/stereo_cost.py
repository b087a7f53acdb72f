"""Cost volume of a plane sweep: how badly the views agree if a ground cell lay at a height.

The volume is 8-bit, in units of 1/100 of (1 - correlation): 0 perfect, 100 none, 200 opposite.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32
from numba import njit
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.raster import Grid

UNIT = 100
LEAST_VARIANCE = 1.0  # of images scaled to 0..255


@dataclass(frozen=True)
class Matching:
    """How views are compared: the correlation window in cells, and the share of the pairs (the best) that votes; the
    others may be occluded, in shadow, or of another date."""

    window: int
    best_share: float


class PlaneWarp:
    """Pixels of a grid's cells in one view, at any height: the camera's polynomial with the height split off."""

    def __init__(self, camera: AffineCamera, grid: Grid) -> None:
        x, y = np.meshgrid(grid.x_m(), grid.y_m())
        linear = camera.matrix
        q = np.zeros((2, 6)) if camera.quadratic is None else camera.quadratic
        self._still, self._rising = [], []
        for a, b in zip(linear, q, strict=True):
            still = a[0] * x + a[1] * y + a[3] + b[0] * x * x + b[1] * y * y + b[3] * x * y
            self._still.append(still.astype(np.float32))
            self._rising.append((a[2] + b[4] * x + b[5] * y).astype(np.float32))
        self._square = q[:, 2]

    def __call__(self, image: Float32[ndarray, "r c"], height_m: float) -> Float32[ndarray, "h w"]:
        """The view as seen on a horizontal plane, NaN outside the image."""
        column, row = (
            still + np.float32(height_m) * rising + np.float32(square * height_m**2)
            for still, rising, square in zip(self._still, self._rising, self._square, strict=True)
        )
        return cv2.remap(image, column, row, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=np.nan)


def cost_volume(images, cameras, pairs, grid: Grid, heights, matching: Matching, progress=None):
    """Costs "h w d" and which cells some pair of views sees.

    A pair's cost is 1 - NCC in a square window; a cell's is the mean over the best pairs, so that views in which it is
    hidden do not vote. Cells outside the images cost as much as no correlation.
    """
    warps = [PlaneWarp(camera, grid) for camera in cameras]
    volume = np.empty((grid.height, grid.width, len(heights)), np.uint8)
    index = np.asarray(pairs)

    def level(d: int) -> Bool[ndarray, "h w"]:
        means, deviations, products = _moments(
            [warp(image, heights[d]) for warp, image in zip(warps, images, strict=True)], pairs, matching.window
        )
        seen = np.empty(volume.shape[:2], np.bool_)
        _combine(means, deviations, products, index, matching.best_share, volume[:, :, d], seen)
        return seen

    seen = np.zeros(volume.shape[:2], bool)
    with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, 8))) as pool:
        for done, mask in enumerate(pool.map(level, range(len(heights)))):
            seen |= mask
            if progress is not None:
                progress(done + 1, len(heights))
    return volume, seen


def _moments(warped, pairs, window: int):
    """Window means "v h w", deviations "v h w" (0 where a view is invalid) and mean products "p h w"."""
    means, deviations, flat = [], [], []
    for image in warped:
        valid = np.isfinite(image)
        image = np.where(valid, image, np.float32(0))
        mean = _box(image, window)
        variance = _box(image * image, window) - mean * mean
        means.append(mean)
        deviations.append(np.sqrt(np.maximum(variance, LEAST_VARIANCE)) * valid)
        flat.append(image)
    return np.stack(means), np.stack(deviations), np.stack([_box(flat[i] * flat[j], window) for i, j in pairs])


def _box(values: Float32[ndarray, "h w"], window: int) -> Float32[ndarray, "h w"]:
    return cv2.boxFilter(values, cv2.CV_32F, (window, window), borderType=cv2.BORDER_REFLECT)


@njit(nogil=True, cache=True)
def _combine(means, deviations, products, pairs, share, cost, seen):
    """Mean of the best share of the pairs' costs, in 1/100, into `cost` "h w"; `seen` where there is any pair."""
    height, width = cost.shape
    best = np.empty(pairs.shape[0], np.float32)
    for row in range(height):
        for column in range(width):
            count = 0
            for p in range(pairs.shape[0]):
                i, j = pairs[p, 0], pairs[p, 1]
                scale = deviations[i, row, column] * deviations[j, row, column]
                if scale == 0.0:
                    continue
                covariance = products[p, row, column] - means[i, row, column] * means[j, row, column]
                value = min(max(np.float32(1.0) - covariance / scale, np.float32(0.0)), np.float32(2.0))
                k = count
                while k > 0 and best[k - 1] > value:
                    best[k] = best[k - 1]
                    k -= 1
                best[k] = value
                count += 1
            seen[row, column] = count > 0
            if count == 0:
                cost[row, column] = 100
                continue
            kept = max(1, int(np.ceil(share * count)))
            total = np.float32(0.0)
            for k in range(kept):
                total += best[k]
            cost[row, column] = np.uint8(total / kept * 100 + 0.5)
