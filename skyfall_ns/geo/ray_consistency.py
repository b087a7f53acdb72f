"""Do views agree with a surface? Each line of sight of a view meets the surface once, at its best voxel.

The check is that of stereo in image space, left against right, in a ground volume: a cell's height is best in its own
column by construction; it is confirmed by a view if it is also (nearly) the best along that view's line of sight. A
false height beside a building is not: the pixel that it claims shows something else, which matches better.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, UInt16
from numba import njit
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.threads import thread_pool


def distances_along_rays_m(
    total: UInt16[ndarray, "h w d"],
    levels_m: Float64[ndarray, " d"],
    base_m: Float32[ndarray, "h w"],
    index: ndarray,
    cameras: Sequence[AffineCamera],
    cell_m: float,
) -> Float32[ndarray, "v h w"]:
    """Per view and cell, how far above the cell's height the best voxel lies on the view's line of sight through it.

    `total` are aggregated costs of heights `base_m` + `levels_m`, `index` the level of each cell. About 0: the view
    confirms the height. Positive: the view sees something higher in front of the cell. Negative: it sees through it.
    """

    def one(camera: AffineCamera) -> Float32[ndarray, "h w"]:
        direction = camera.view_direction()
        east, north = direction[:2] / direction[2] / cell_m  # cells per meter up
        levels = np.asarray(levels_m, np.float32)
        top = float(np.abs(base_m).max() + np.abs(levels).max())
        pad = int(np.ceil(max(abs(east), abs(north)) * top)) + 2
        return _distances(total, levels, base_m, index.astype(np.int32), np.float32(east), np.float32(north), pad)

    with thread_pool() as pool:
        return np.stack(list(pool.map(one, cameras)))


@njit(nogil=True, cache=True)
def _distances(total, levels, base, index, east, north, pad):
    """One view: the least cost per line of sight (named by where it meets height 0), and its height against each
    cell's."""
    rows, columns, depth = total.shape
    least = np.full((rows + 2 * pad, columns + 2 * pad), np.uint16(65535), np.uint16)
    height = np.full(least.shape, np.float32(np.nan), np.float32)
    for row in range(rows):
        for column in range(columns):
            for k in range(depth):
                z = base[row, column] + levels[k]
                r = int(np.floor(row + north * z + np.float32(0.5))) + pad
                c = int(np.floor(column - east * z + np.float32(0.5))) + pad
                cost = total[row, column, k]
                if cost < least[r, c]:
                    least[r, c] = cost
                    height[r, c] = z
    above = np.empty((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            z = base[row, column] + levels[index[row, column]]
            r = int(np.floor(row + north * z + np.float32(0.5))) + pad
            c = int(np.floor(column - east * z + np.float32(0.5))) + pad
            above[row, column] = height[r, c] - z
    return above
