"""Heights of cells without a match, from the matched cells around them (the rim of the hole).

Occluded cells lie beside tall objects and are street or courtyard rather than roof: they get the lower height of their
rim, and so do deep shadow and water, which lie low. Blank and bright cells are sunlit and visible: they get the middle
height of their rim, which inside a roof is that of the roof.
"""

import math

import numpy as np
from jaxtyping import Bool, Float32
from numba import prange
from numpy import ndarray

from skyfall_ns.geo.compilation import njit

DIRECTION_COUNT = 16
MAX_DISTANCE_M = 80.0  # matched cells farther away are not used
MIN_DIRECTIONS = 4  # with a matched cell within MAX_DISTANCE_M, for a cell to be filled
LOWER_QUANTILE = 0.25  # of the heights of a rim: its lower height


def rim_heights(
    height_m: Float32[ndarray, "h w"], matched: Bool[ndarray, "h w"], cell_m: float
) -> Float32[ndarray, "4 h w"]:
    """Lowest, lower (LOWER_QUANTILE), highest and middle height (the median, weighted by 1 / distance) of the nearest
    matched cells in sixteen directions around each unmatched cell. Matched cells have their own height; NaN where fewer
    than MIN_DIRECTIONS contain a matched cell."""
    angles = 2 * math.pi * np.arange(DIRECTION_COUNT) / DIRECTION_COUNT
    steps = np.stack([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
    rims = np.full((4, *height_m.shape), np.nan, np.float32)
    _scan_directions(height_m, matched, steps, int(MAX_DISTANCE_M / cell_m), rims)
    return rims


@njit(parallel=True, cache=True)
def _scan_directions(height, matched, steps, max_steps, rims):
    """Write the rim heights of every cell to `rims` "4 h w"."""
    rows, columns = height.shape
    for row in prange(rows):
        rim_height = np.empty(steps.shape[0], np.float32)
        weight = np.empty(steps.shape[0], np.float32)
        for column in range(columns):
            if matched[row, column]:
                rims[:, row, column] = height[row, column]
                continue
            count = 0
            for k in range(steps.shape[0]):
                for step in range(1, max_steps + 1):
                    r = int(np.floor(row + steps[k, 0] * step + np.float32(0.5)))
                    c = int(np.floor(column + steps[k, 1] * step + np.float32(0.5)))
                    if r < 0 or c < 0 or r >= rows or c >= columns:
                        break
                    if matched[r, c]:
                        rim_height[count] = height[r, c]
                        weight[count] = np.float32(1.0) / step
                        count += 1
                        break
            if count < MIN_DIRECTIONS:
                continue
            order = np.argsort(rim_height[:count])
            rims[0, row, column], rims[2, row, column] = rim_height[order[0]], rim_height[order[count - 1]]
            rims[1, row, column] = rim_height[order[int(LOWER_QUANTILE * (count - 1))]]
            rims[3, row, column] = _weighted_median(rim_height, weight, order)


@njit(cache=True)
def _weighted_median(values, weight, order):
    """The first of the ordered values at which half of the total weight is reached."""
    half_weight = np.float32(0.0)
    for k in order:
        half_weight += weight[k] / 2
    for k in order:
        half_weight -= weight[k]
        if half_weight <= 0:
            return values[k]
    return values[order[-1]]
