"""Heights for cells without a match, from the matched cells around them.

What is hidden from a view lies beside something tall, and is street or court rather than roof: such cells follow the
lower side of their rim, and so do deep shadow and water, which lie low. What is blank and bright lies in the sun and is
seen: such cells take the middle of their rim, the roof's inside a roof.
"""

import math

import numpy as np
from jaxtyping import Bool, Float32
from numba import njit, prange
from numpy import ndarray

DIRECTIONS = 16
REACH_M = 80.0  # matched cells farther away say nothing about a cell
LEAST_DIRECTIONS = 4  # with a matched cell within reach, for a cell to be filled
LOWER_SHARE = 0.25  # of the directions have at most the height of a rim's lower side


def rim_heights(
    height_m: Float32[ndarray, "h w"], matched: Bool[ndarray, "h w"], cell_m: float
) -> Float32[ndarray, "4 h w"]:
    """Lowest, lower (the quantile LOWER_SHARE), highest and middle height (the median, weighted by 1 / distance) of the
    nearest matched cells in sixteen directions around each unmatched cell; matched cells have their own; NaN where too
    few directions meet one."""
    angles = 2 * math.pi * np.arange(DIRECTIONS) / DIRECTIONS
    steps = np.stack([np.sin(angles), np.cos(angles)], 1).astype(np.float32)
    rims = np.full((4, *height_m.shape), np.nan, np.float32)
    _look_around(height_m, matched, steps, int(REACH_M / cell_m), rims)
    return rims


@njit(parallel=True, cache=True)
def _look_around(height, matched, steps, reach, rims):
    rows, columns = height.shape
    for row in prange(rows):
        found = np.empty(steps.shape[0], np.float32)
        weight = np.empty(steps.shape[0], np.float32)
        for column in range(columns):
            if matched[row, column]:
                rims[:, row, column] = height[row, column]
                continue
            count = 0
            for k in range(steps.shape[0]):
                for step in range(1, reach + 1):
                    r = int(np.floor(row + steps[k, 0] * step + np.float32(0.5)))
                    c = int(np.floor(column + steps[k, 1] * step + np.float32(0.5)))
                    if r < 0 or c < 0 or r >= rows or c >= columns:
                        break
                    if matched[r, c]:
                        found[count] = height[r, c]
                        weight[count] = np.float32(1.0) / step
                        count += 1
                        break
            if count < LEAST_DIRECTIONS:
                continue
            order = np.argsort(found[:count])
            rims[0, row, column], rims[2, row, column] = found[order[0]], found[order[count - 1]]
            rims[1, row, column] = found[order[int(LOWER_SHARE * (count - 1))]]
            rims[3, row, column] = _weighted_median(found, weight, order)


@njit(cache=True)
def _weighted_median(values, weight, order):
    """The first of the ordered values at which half of the weight is reached."""
    rest = np.float32(0.0)
    for k in order:
        rest += weight[k] / 2
    for k in order:
        rest -= weight[k]
        if rest <= 0:
            return values[k]
    return values[order[-1]]
