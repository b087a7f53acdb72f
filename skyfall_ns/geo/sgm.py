"""Semi-global aggregation of a cost volume (SGM; Hirschmüller 2008), over a ground grid instead of an image.

Numba kernels on 16-bit integers: the height loop is innermost and becomes vector instructions. Scanlines of one
direction never share a cell, so the result is the same for any number of threads.
"""

import numpy as np
from jaxtyping import Int16, Int64, UInt8, UInt16
from numba import prange
from numpy import ndarray

from skyfall_ns.geo.compilation import njit

DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))  # (row, column) steps
_INFINITE = 8000  # above every path cost (255 + large penalty); the sum of eight still fits 16 bits


def aggregate_costs(
    cost: UInt8[ndarray, "h w d"], small_step_penalty: int, large_step_penalty: Int16[ndarray, "h w"]
) -> UInt16[ndarray, "h w d"]:
    """Sum over eight directions of the costs of the cheapest paths that end in each cell and height.

    Penalties are in units of the cost: a change by one height step costs `small_step_penalty` (P1 of SGM), a larger one
    the `large_step_penalty` (P2) of the cell that the path enters. Raises ValueError if costs could overflow.
    """
    if int(large_step_penalty.max()) + 255 >= _INFINITE or large_step_penalty.min() < small_step_penalty:
        raise ValueError(
            f"large_step_penalty must lie between small_step_penalty = {small_step_penalty} and {_INFINITE - 256}"
        )
    large_step_penalty = np.ascontiguousarray(large_step_penalty, np.int16)
    aggregated_cost = np.zeros(cost.shape, np.uint16)
    height, width = cost.shape[:2]
    for row_step, column_step in DIRECTIONS:
        starts = _scanline_starts(height, width, row_step, column_step)
        _aggregate_direction(
            cost, aggregated_cost, np.int16(small_step_penalty), large_step_penalty, starts, row_step, column_step
        )
    return aggregated_cost


def _scanline_starts(height: int, width: int, row_step: int, column_step: int) -> Int64[ndarray, "n 2"]:
    """First cells of all scanlines of a direction, (row, column)."""
    rows, columns = np.mgrid[:height, :width].astype(np.int64)
    is_start = np.zeros((height, width), bool)
    if row_step:
        is_start[0 if row_step > 0 else -1] = True
    if column_step:
        is_start[:, 0 if column_step > 0 else -1] = True
    return np.stack([rows[is_start], columns[is_start]], axis=1)


@njit(parallel=True, cache=True)
def _aggregate_direction(cost, aggregated_cost, small_penalty, large_penalty, starts, row_step, column_step):
    """Aggregate all scanlines of one direction."""
    for line in prange(starts.shape[0]):
        buffers = np.empty((2, cost.shape[2] + 2), np.int16)
        row, column = starts[line, 0], starts[line, 1]
        _aggregate_scanline(
            cost, aggregated_cost, small_penalty, large_penalty, row, column, row_step, column_step, buffers
        )


@njit(cache=True)
def _aggregate_scanline(
    cost, aggregated_cost, small_penalty, large_penalty, row, column, row_step, column_step, buffers
):
    """Add the path costs along one scanline to `aggregated_cost`; `buffers` hold those of the last two cells, padded by
    one level on both sides.

    Every operation is cast back to 16 bits: Numba's integers grow to 64 bits, of which a vector holds only a quarter.
    """
    height, width, depth = cost.shape
    previous, current = buffers[0], buffers[1]
    previous[:] = 0
    previous[0] = previous[depth + 1] = current[0] = current[depth + 1] = np.int16(_INFINITE)
    lowest = np.int16(0)
    while 0 <= row < height and 0 <= column < width:
        cell, sums = cost[row, column], aggregated_cost[row, column]
        jump = np.int16(lowest + large_penalty[row, column])
        new_lowest = np.int16(_INFINITE)
        for d in range(depth):
            best = previous[d + 1]
            below = np.int16(previous[d] + small_penalty)
            above = np.int16(previous[d + 2] + small_penalty)
            best = below if below < best else best
            best = above if above < best else best
            best = jump if jump < best else best
            value = np.int16(np.int16(best - lowest) + np.int16(cell[d]))
            current[d + 1] = value
            sums[d] = np.uint16(sums[d] + np.uint16(value))
            new_lowest = value if value < new_lowest else new_lowest
        lowest = new_lowest
        previous, current = current, previous
        row += row_step
        column += column_step
