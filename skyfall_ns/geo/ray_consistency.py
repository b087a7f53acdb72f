"""Consistency of a surface with the views: each line of sight meets the surface once, at its voxel of minimum cost.

This is the left-right check of stereo, done in a ground volume. The height of a cell has the minimum cost in its own
column by construction; a view confirms it if it also has (nearly) the minimum cost along the view's line of sight. A
false height beside a building is not confirmed, because another voxel on the same line of sight matches better.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Float64, UInt16
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.compilation import njit
from skyfall_ns.geo.threads import thread_pool


def distances_along_rays_m(
    aggregated_cost: UInt16[ndarray, "h w d"],
    levels_m: Float64[ndarray, " d"],
    base_m: Float32[ndarray, "h w"],
    index: ndarray,
    cameras: Sequence[AffineCamera],
    cell_m: float,
) -> Float32[ndarray, "v h w"]:
    """Height of the best voxel on each view's line of sight through each cell, relative to the cell's height, meters.

    `aggregated_cost` belongs to the heights `base_m` + `levels_m`; `index` is the level of each cell. About 0: the view
    confirms the height. Positive: a better match lies in front of the cell. Negative: a better match lies behind it.
    """

    def distances_of_view(camera: AffineCamera) -> Float32[ndarray, "h w"]:
        direction = camera.view_direction()
        east, north = direction[:2] / direction[2] / cell_m  # cells per meter up
        levels = np.asarray(levels_m, np.float32)
        top = float(np.abs(base_m).max() + np.abs(levels).max())
        pad = int(np.ceil(max(abs(east), abs(north)) * top)) + 2
        cell_levels = index.astype(np.int32)
        return _view_distances(aggregated_cost, levels, base_m, cell_levels, np.float32(east), np.float32(north), pad)

    with thread_pool() as pool:
        return np.stack(list(pool.map(distances_of_view, cameras)))


@njit(nogil=True, cache=True)
def _view_distances(aggregated_cost, levels, base, index, east, north, pad):
    """Distances of one view. A line of sight is identified by the cell in which it meets height 0; `pad` cells around
    the grid hold those that meet it outside."""
    rows, columns, depth = aggregated_cost.shape
    min_cost = np.full((rows + 2 * pad, columns + 2 * pad), np.uint16(65535), np.uint16)
    best_height = np.full(min_cost.shape, np.float32(np.nan), np.float32)
    for row in range(rows):
        for column in range(columns):
            for k in range(depth):
                z = base[row, column] + levels[k]
                r = int(np.floor(row + north * z + np.float32(0.5))) + pad
                c = int(np.floor(column - east * z + np.float32(0.5))) + pad
                cost = aggregated_cost[row, column, k]
                if cost < min_cost[r, c]:
                    min_cost[r, c] = cost
                    best_height[r, c] = z
    distance = np.empty((rows, columns), np.float32)
    for row in range(rows):
        for column in range(columns):
            z = base[row, column] + levels[index[row, column]]
            r = int(np.floor(row + north * z + np.float32(0.5))) + pad
            c = int(np.floor(column - east * z + np.float32(0.5))) + pad
            distance[row, column] = best_height[r, c] - z
    return distance
