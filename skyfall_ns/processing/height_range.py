"""Height range of the scene: from a coarse surface, or from tie points where there is none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy import ndarray
from scipy.ndimage import distance_transform_edt, maximum_filter, minimum_filter
from scipy.spatial import KDTree

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.coarse_surface import match_coarse_surface
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.surface_evidence import MATCHED

CELL_M = 2.0
# Search range beyond the tie points' 1st and 99th percentiles: towers and ravines may have no tie points.
SEARCH_BELOW_M, SEARCH_ABOVE_M = 100.0, 300.0
ABOVE_TIE_POINTS_M = 60.0  # margin from the tie points' 99th percentile without a surface: few are on roofs
MIN_TIE_POINTS = 20  # with fewer in the area, all tie points are used
WALL_REACH_M = 6.0  # crops show the lowest and the highest height within this distance of a cell, because of walls


@dataclass(frozen=True)
class Relief:
    """Rough heights over a grid in local meters, without NaN."""

    grid: Grid
    height_m: Float32[ndarray, "h w"]

    def cell_points_m(self) -> Float64[ndarray, "n 3"]:
        """The center of every cell at its height."""
        x, y = np.meshgrid(self.grid.x_m(), self.grid.y_m())
        return np.stack([x, y, self.height_m], -1).reshape(-1, 3).astype(np.float64)

    def extreme_points_m(self) -> Float64[ndarray, "n 3"]:
        """Points that an image must show to contain the surface: every cell at the lowest and the highest height within
        WALL_REACH_M, with the outermost cells moved to the grid's edge."""
        x, y = np.meshgrid(
            _centers_with_edges(self.grid.x_m(), self.grid), _centers_with_edges(self.grid.y_m(), self.grid)
        )
        size = 2 * round(WALL_REACH_M / self.grid.resolution_m) + 1
        heights = (extreme_filter(self.height_m, size) for extreme_filter in (minimum_filter, maximum_filter))
        return np.concatenate([np.stack([x, y, h], -1).reshape(-1, 3) for h in heights]).astype(np.float64)

    def sample_nearest(self, grid: Grid) -> Float32[ndarray, "r c"]:
        """Sample the heights of the nearest cells for the cells of another grid."""
        columns = ((grid.x_m() - self.grid.x_min_m) / self.grid.resolution_m).astype(int)
        rows = ((self.grid.y_max_m - grid.y_m()) / self.grid.resolution_m).astype(int)
        return self.height_m[np.ix_(rows.clip(0, self.grid.height - 1), columns.clip(0, self.grid.width - 1))]


def _centers_with_edges(centers: Float64[ndarray, " n"], grid: Grid) -> Float64[ndarray, " n"]:
    half = 0.5 * grid.resolution_m * (1 if centers[-1] >= centers[0] else -1)
    return np.concatenate([[centers[0] - half], centers[1:-1], [centers[-1] + half]])


def search_height_range_m(
    tie_points_m: Float64[ndarray, "n 3"], rpc_range_m: tuple[float, float]
) -> tuple[float, float]:
    """Heights among which the surface is searched: around those of the tie points, within the RPCs' range."""
    low, high = np.percentile(tie_points_m[:, 2], [1, 99])
    return max(rpc_range_m[0], float(low) - SEARCH_BELOW_M), min(rpc_range_m[1], float(high) + SEARCH_ABOVE_M)


def tie_points_within(
    tie_points_m: Float64[ndarray, "n 3"], area_m: Float64[ndarray, "2 2"]
) -> Float64[ndarray, "k 3"]:
    """Tie points over an area (min and max), or all of them where there are fewer than MIN_TIE_POINTS."""
    inside = ((tie_points_m[:, :2] >= area_m[0]) & (tie_points_m[:, :2] <= area_m[1])).all(1)
    return tie_points_m[inside] if inside.sum() >= MIN_TIE_POINTS else tie_points_m


def relief_from_surface(
    views: Sequence[tuple[ndarray, AffineCamera]],
    box_m: Float64[ndarray, "2 3"],
    tie_points_m: Float64[ndarray, "n 3"],
    clusters: Sequence[int] | None,
) -> tuple[Relief, tuple[float, float]] | None:
    """Match a coarse surface of (gray image, camera) views over a box with tie points in local meters.

    Its heights, filled where it is unknown, with its lowest and highest matched height; None if nothing is matched."""
    low, high = np.percentile(tie_points_m[:, 2], [1, 99])
    found = match_coarse_surface([v[0] for v in views], [v[1] for v in views], box_m, CELL_M, (low, high), clusters)
    if found is None or not (found.source == MATCHED).any():
        return None
    matched = found.height_m[found.source == MATCHED]
    relief = Relief(found.grid, fill_with_nearest(found.height_m, found.source > 0))
    return relief, (float(matched.min()), float(matched.max()))


def relief_from_tie_points(tie_points_m: Float64[ndarray, "n 3"], area_m: Float64[ndarray, "2 2"]) -> Relief:
    """Interpolate a relief over an area (min and max): each cell has the height of the nearest tie point."""
    grid = Grid.covering_box(area_m, CELL_M)
    x, y = np.meshgrid(grid.x_m(), grid.y_m())
    nearest = KDTree(tie_points_m[:, :2]).query(np.stack([x, y], -1))[1]
    return Relief(grid, tie_points_m[nearest, 2].astype(np.float32))


def box_heights_m(
    tie_points_m: Float64[ndarray, "n 3"], matched_m: tuple[float, float] | None, below_m: float, above_m: float
) -> tuple[float, float]:
    """Bottom and top of the scene's box: around the heights of the tie points, and of the matched surface if any."""
    low, high = (float(v) for v in np.percentile(tie_points_m[:, 2], [1, 99]))
    lowest, highest = matched_m or (low, high)
    return min(low, lowest) - below_m, max(high, highest) + above_m


def fill_with_nearest(height_m: Float32[ndarray, "h w"], known: Bool[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Fill unknown cells with the height of the nearest known one."""
    nearest = np.asarray(distance_transform_edt(~known, return_distances=False, return_indices=True))
    return height_m[tuple(nearest)]
