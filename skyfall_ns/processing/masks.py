"""Masks of the pixels that show the area: their line of sight meets the surface inside it."""

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera, quadratic_monomials
from skyfall_ns.geo.compilation import njit
from skyfall_ns.geo.grid import Grid

MAX_STEP_M = 2.0  # of height along a line of sight; smaller where that would skip a cell


def visible_area_mask(
    camera: AffineCamera, grid: Grid, height_m: Float32[ndarray, "h w"], area_m: Float64[ndarray, "2 2"]
) -> Bool[ndarray, "r c"]:
    """Pixels whose line of sight, followed down from the satellite, first meets the surface inside the area.

    `area_m` is (min, max) in local meters. The surface has a height in every cell of the grid, and none outside it."""
    width, height = camera.size
    inverse = np.linalg.inv(camera.matrix[:, :2])
    colrow = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float64)
    start = (colrow - camera.matrix[:, 3]) @ inverse.T
    if camera.quadratic is not None:
        start -= quadratic_monomials(np.dstack([start, np.zeros(start.shape[:2])])) @ camera.quadratic.T @ inverse.T
    direction = camera.view_direction()
    slope = direction[:2] / direction[2]
    step = min(MAX_STEP_M, grid.resolution_m / max(float(np.linalg.norm(slope)), 1e-6))
    layout = np.array([grid.x_min_m, grid.y_max_m, grid.resolution_m])
    height_m, area_m = np.ascontiguousarray(height_m, np.float32), np.asarray(area_m, np.float64)
    return _trace_lines_of_sight(start, slope, height_m, layout, step, area_m)


@njit(nogil=True, cache=True)
def _trace_lines_of_sight(start, slope, height, layout, step, area):
    """Follow each line of sight from the highest height down in steps; `start` is its point at height 0.

    `layout` is (x of the west edge, y of the north edge, cell size) of the grid."""
    rows, columns = start.shape[:2]
    highest, lowest = float(height.max()), float(height.min())
    shown = np.zeros((rows, columns), np.bool_)
    for row in range(rows):
        for column in range(columns):
            z = highest
            while z > lowest - step:
                z = max(z, lowest)
                x, y = start[row, column, 0] + z * slope[0], start[row, column, 1] + z * slope[1]
                c = int(np.floor((x - layout[0]) / layout[2]))
                r = int(np.floor((layout[1] - y) / layout[2]))
                if 0 <= r < height.shape[0] and 0 <= c < height.shape[1] and height[r, c] >= z:
                    shown[row, column] = area[0, 0] <= x <= area[1, 0] and area[0, 1] <= y <= area[1, 1]
                    break
                z -= step
    return shown
