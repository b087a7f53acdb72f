"""How low and how high the scene is: from a coarse surface, or from tie points where there is none."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy import ndarray
from scipy.ndimage import distance_transform_edt, maximum_filter, minimum_filter
from scipy.spatial import KDTree

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.coarse_surface import coarse_surface
from skyfall_ns.geo.raster import Grid
from skyfall_ns.geo.surface_evidence import MATCHED

CELL_M = 2.0
SEARCH_BELOW_M, SEARCH_ABOVE_M = 100.0, 300.0  # of the ties' 1st and 99th percentiles: towers and ravines without ties
BELOW_M, ABOVE_M = 10.0, 8.0  # of the lowest and the highest matched cell
ABOVE_TIES_M = 60.0  # of the ties' 99th percentile if no surface is looked for: ties prefer the ground to roofs
FEW_TIES = 20  # fewer within the area say too little, and all of them count
REACH_M = 6.0  # walls: crops show the lowest and the highest height within so much of a cell


@dataclass(frozen=True)
class Relief:
    """Rough heights over a grid, local meters, known everywhere."""

    grid: Grid
    height_m: Float32[ndarray, "h w"]

    def cells_m(self) -> Float64[ndarray, "n 3"]:
        """Every cell's center at its height."""
        x, y = np.meshgrid(self.grid.x_m(), self.grid.y_m())
        return np.stack([x, y, self.height_m], -1).reshape(-1, 3).astype(np.float64)

    def outer_points_m(self) -> Float64[ndarray, "n 3"]:
        """Every cell at the lowest and at the highest height near it, cells at the border moved to its edge: all that
        an image of the surface has to show."""
        x, y = np.meshgrid(_edges_included(self.grid.x_m(), self.grid), _edges_included(self.grid.y_m(), self.grid))
        size = 2 * round(REACH_M / self.grid.resolution_m) + 1
        heights = (near(self.height_m, size) for near in (minimum_filter, maximum_filter))
        return np.concatenate([np.stack([x, y, h], -1).reshape(-1, 3) for h in heights]).astype(np.float64)

    def at(self, grid: Grid) -> Float32[ndarray, "r c"]:
        """Heights of the nearest cells, for the cells of another grid."""
        columns = ((grid.x_m() - self.grid.x_min_m) / self.grid.resolution_m).astype(int)
        rows = ((self.grid.y_max_m - grid.y_m()) / self.grid.resolution_m).astype(int)
        return self.height_m[np.ix_(rows.clip(0, self.grid.height - 1), columns.clip(0, self.grid.width - 1))]


def _edges_included(centers: Float64[ndarray, " n"], grid: Grid) -> Float64[ndarray, " n"]:
    half = 0.5 * grid.resolution_m * (1 if centers[-1] >= centers[0] else -1)
    return np.concatenate([[centers[0] - half], centers[1:-1], [centers[-1] + half]])


def search_heights_m(ties_m: Float64[ndarray, "n 3"], rpc_range_m: tuple[float, float]) -> tuple[float, float]:
    """Heights among which the surface is looked for: around those of the ties, within the RPCs' range."""
    low, high = np.percentile(ties_m[:, 2], [1, 99])
    return max(rpc_range_m[0], float(low) - SEARCH_BELOW_M), min(rpc_range_m[1], float(high) + SEARCH_ABOVE_M)


def ties_within(ties_m: Float64[ndarray, "n 3"], area_m: Float64[ndarray, "2 2"]) -> Float64[ndarray, "k 3"]:
    """The ties over an area (min and max), or all where those are few."""
    inside = ((ties_m[:, :2] >= area_m[0]) & (ties_m[:, :2] <= area_m[1])).all(1)
    return ties_m[inside] if inside.sum() >= FEW_TIES else ties_m


def relief_of_surface(
    views: Sequence[tuple[ndarray, AffineCamera]],
    box_m: Float64[ndarray, "2 3"],
    ties_m: Float64[ndarray, "n 3"],
    clusters: Sequence[int] | None,
) -> tuple[Relief, tuple[float, float]] | None:
    """The coarse surface of (gray image, camera) views over a box with some ties, and its lowest and highest matched
    heights; None where nothing is matched."""
    low, high = np.percentile(ties_m[:, 2], [1, 99])
    found = coarse_surface([v[0] for v in views], [v[1] for v in views], box_m, CELL_M, (low, high), clusters)
    if found is None or not (found.source == MATCHED).any():
        return None
    matched = found.height_m[found.source == MATCHED]
    relief = Relief(found.grid, with_nearest(found.height_m, found.source > 0))
    return relief, (float(matched.min()), float(matched.max()))


def relief_of_ties(ties_m: Float64[ndarray, "n 3"], area_m: Float64[ndarray, "2 2"]) -> Relief:
    """Each cell has the height of the nearest tie."""
    grid = Grid.over(area_m, CELL_M)
    x, y = np.meshgrid(grid.x_m(), grid.y_m())
    nearest = KDTree(ties_m[:, :2]).query(np.stack([x, y], -1))[1]
    return Relief(grid, ties_m[nearest, 2].astype(np.float32))


def box_heights_m(
    ties_m: Float64[ndarray, "n 3"], matched_m: tuple[float, float] | None, above_m: float = ABOVE_M
) -> tuple[float, float]:
    """Bottom and top of the scene's box: around the heights of the ties, and of the matched surface if there is one."""
    low, high = (float(v) for v in np.percentile(ties_m[:, 2], [1, 99]))
    lowest, highest = matched_m or (low, high)
    return min(low, lowest) - BELOW_M, max(high, highest) + above_m


def with_nearest(height_m: Float32[ndarray, "h w"], known: Bool[ndarray, "h w"]) -> Float32[ndarray, "h w"]:
    """Heights in which unknown cells have that of the nearest known one."""
    near = np.asarray(distance_transform_edt(~known, return_distances=False, return_indices=True))
    return height_m[tuple(near)]
