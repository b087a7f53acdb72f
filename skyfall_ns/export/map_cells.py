"""Cells of an exported raster in a CRS, and images in local meters resampled to them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from affine import Affine
from jaxtyping import Float
from numpy import ndarray
from scipy.ndimage import map_coordinates

from skyfall_ns.geo.frame import TOPOCENTRIC, LocalFrame, check_frame_crs, parse_crs, utm_crs
from skyfall_ns.geo.grid import Grid

MIN_WEIGHT = 0.999  # a resampled cell is known if known cells have this weight


@dataclass(frozen=True)
class MapCells:
    """Cells of a raster: `grid` in the CRS, or in local meters if the CRS is the frame's own; `transform` maps
    (col, row) of cell corners to the CRS."""

    crs: str
    grid: Grid
    transform: Affine
    is_local: bool


def default_crs(frame: LocalFrame, crs: str | None) -> str:
    """The CRS of an export: the given one, or the frame's own, or the UTM zone of a topocentric frame. Raises CrsError
    unless it is projected in meters."""
    if crs is None:
        crs = frame.crs if frame.crs != TOPOCENTRIC else utm_crs(*frame.origin[:2])
    check_frame_crs(crs)  # cells of a geographic system would not be square meters
    return crs


def cover_box(frame: LocalFrame, box_m: ndarray, resolution_m: float, crs: str) -> MapCells:
    """Cells that cover a box of the frame in a CRS, with edges at multiples of the resolution."""
    if frame.crs != TOPOCENTRIC and parse_crs(crs) == parse_crs(frame.crs):
        grid = Grid.covering_box(box_m, resolution_m)
        return MapCells(crs, grid, grid.affine_transform(frame.origin), True)
    corners = np.array([[x, y, 0.0] for x in box_m[:, 0] for y in box_m[:, 1]])
    outline = frame.to_crs(corners, crs)
    grid = Grid.covering_box(np.stack([outline.min(0), outline.max(0)]), resolution_m)
    return MapCells(crs, grid, grid.affine_transform(), False)


def local_centers(cells: MapCells, frame: LocalFrame) -> Float[ndarray, "h w 3"]:
    """Centers of cells at ground level, local meters. The verticals of two frames differ by millimeters over the height
    of a building, so that the same centers serve for every height."""
    x, y = np.meshgrid(cells.grid.x_m(), cells.grid.y_m())
    if cells.is_local:
        return np.stack([x, y, np.zeros_like(x)], -1)
    ground = frame.to_crs(np.zeros(3), cells.crs)[2]
    return frame.from_crs(np.stack([x, y, np.full_like(x, ground)], -1), cells.crs)


def render_on_cells(
    cells: MapCells, frame: LocalFrame, box_m: ndarray, render: Callable[[Grid], Float[ndarray, "h w c"]]
) -> Float[ndarray, "h w c"]:
    """Values of cells from a function that renders a grid in local meters (NaN: unknown): directly, or from a grid of
    half the cell size, resampled bilinearly."""
    if cells.is_local:
        return render(cells.grid).astype(np.float64)
    source = Grid.covering_box(box_m, cells.grid.resolution_m / 2)
    values = render(source)
    local = local_centers(cells, frame)
    where = source.locate(local[..., 0], local[..., 1])
    known = np.isfinite(values).all(-1).astype(np.float32)
    weight = map_coordinates(known, where, order=1, mode="constant", cval=0.0)
    bands = [
        map_coordinates(np.nan_to_num(values[..., band]), where, order=1, mode="constant", cval=0.0)
        for band in range(values.shape[-1])
    ]
    return np.where(weight[..., None] > MIN_WEIGHT, np.stack(bands, -1).astype(np.float64), np.nan)
