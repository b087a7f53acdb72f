"""Semi-global aggregation of a cost volume (Hirschmüller 2008), over a ground grid instead of an image.

Numba kernels on 16-bit integers: the height loop is innermost and becomes vector instructions. Scanlines of one
direction never share a cell, so the result is the same for any number of threads.
"""

import numpy as np
from jaxtyping import Int16, Int64, UInt8, UInt16
from numba import njit, prange
from numpy import ndarray

DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0), (1, 1), (-1, -1), (1, -1), (-1, 1))  # (row, column) steps
_FAR = 8000  # above every path cost (255 + P2); eight of them still fit 16 bits


def aggregate(cost: UInt8[ndarray, "h w d"], p1: int, p2: Int16[ndarray, "h w"]) -> UInt16[ndarray, "h w d"]:
    """Sum over eight directions of the cheapest paths that end in each cell and height.

    A change by one height step costs `p1`, a larger one `p2` of the cell it leads to; both in units of the cost.
    """
    if int(p2.max()) + 255 >= _FAR or p2.min() < p1:
        raise ValueError(f"p2 must lie between p1 = {p1} and {_FAR - 256}")
    total = np.zeros(cost.shape, np.uint16)
    for row_step, column_step in DIRECTIONS:
        starts = _starts(*cost.shape[:2], row_step, column_step)
        _sweep(cost, total, np.ascontiguousarray(p2, np.int16), starts, row_step, column_step, np.int16(p1))
    return total


def _starts(height: int, width: int, row_step: int, column_step: int) -> Int64[ndarray, "n 2"]:
    """First cells of all scanlines of a direction, (row, column)."""
    rows, columns = np.mgrid[:height, :width].astype(np.int64)
    first = np.zeros((height, width), bool)
    if row_step:
        first[0 if row_step > 0 else -1] = True
    if column_step:
        first[:, 0 if column_step > 0 else -1] = True
    return np.stack([rows[first], columns[first]], axis=1)


@njit(parallel=True, cache=True)
def _sweep(cost, total, p2, starts, row_step, column_step, p1):
    """All scanlines of one direction."""
    for line in prange(starts.shape[0]):
        buffers = np.empty((2, cost.shape[2] + 2), np.int16)
        _scanline(cost, total, p2, starts[line, 0], starts[line, 1], row_step, column_step, p1, buffers)


@njit(cache=True)
def _scanline(cost, total, p2, row, column, row_step, column_step, p1, buffers):
    """Path costs along one scanline, added to `total`; `buffers` hold those of the last two cells, padded by one.

    Every operation is cast back to 16 bits: Numba's integers grow to 64, and four times fewer would fit a vector.
    """
    height, width, depth = cost.shape
    previous, current = buffers[0], buffers[1]
    previous[:] = 0
    previous[0] = previous[depth + 1] = current[0] = current[depth + 1] = np.int16(_FAR)
    lowest = np.int16(0)
    while 0 <= row < height and 0 <= column < width:
        cell, sums = cost[row, column], total[row, column]
        jump = np.int16(lowest + p2[row, column])
        new_lowest = np.int16(_FAR)
        for d in range(depth):
            best = previous[d + 1]
            below = np.int16(previous[d] + p1)
            above = np.int16(previous[d + 2] + p1)
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
