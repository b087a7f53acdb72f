"""Rendered heights as a georeferenced GeoTIFF: float32, ellipsoidal, Cloud-optimized."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from affine import Affine
from jaxtyping import Float, UInt8
from numpy import ndarray
from scipy.ndimage import map_coordinates

from skyfall_ns.errors import CrsError
from skyfall_ns.geo.frame import TOPOCENTRIC, LocalFrame, check_frame_crs, parse_crs, utm_crs
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.raster import write_raster

NODATA = -9999.0
TAGS = {"HEIGHTS": "ellipsoidal (WGS84), meters", "SOFTWARE": "skyfall-ns"}


class HeightRenderer(Protocol):
    """Renders heights (local meters, NaN: no surface) of a grid; see `models/geometry/height_map.py`."""

    def render_heights(self, grid: Grid) -> Float[ndarray, "h w"]: ...


@dataclass(frozen=True)
class Dsm:
    """Ellipsoidal heights "h w" (NaN: unknown) in a CRS; `transform` maps (col, row) of cell corners to it."""

    height_m: Float[ndarray, "h w"]
    crs: str
    transform: Affine

    def write_heights(self, path: Path) -> None:
        """Write the heights as a Cloud-optimized GeoTIFF."""
        self.write_layer(path, self.height_m, "ellipsoidal height")

    def write_layer(self, path: Path, values: Float[ndarray, "h w"], name: str) -> None:
        """Write a quantity of the cells (NaN: unknown) on the same grid, float32; nodata where there is no height."""
        band = np.where(np.isfinite(values) & np.isfinite(self.height_m), values, NODATA).astype(np.float32)
        self._write_band(path, band, name, NODATA)

    def write_classes(self, path: Path, classes: UInt8[ndarray, "h w"], name: str) -> None:
        """Write classes of the cells on the same grid, 8 bits."""
        self._write_band(path, classes, name, None)

    def _write_band(self, path: Path, band: ndarray, name: str, nodata: float | None) -> None:
        georeference = {"crs": self.crs, "transform": self.transform}
        write_raster(path, band[None], nodata=nodata, tags=TAGS, band_names=(name,), cog=True, **georeference)

    def local_cell_centers(self, frame: LocalFrame) -> Float[ndarray, "h w 3"]:
        """Cell centers with their heights, in local meters; cells without a height are placed at about z = 0."""
        rows, columns = np.indices(self.height_m.shape) + 0.5
        x, y = self.transform.c + columns * self.transform.a, self.transform.f + rows * self.transform.e
        height = np.where(np.isfinite(self.height_m), self.height_m, frame.origin[2])
        return frame.from_crs(np.stack([x, y, height], -1), self.crs)


def render_dsm(
    renderer: HeightRenderer, frame: LocalFrame, box_m: ndarray, resolution_m: float, crs: str | None = None
) -> Dsm:
    """Render the scene's heights on a north-up grid of `resolution_m`.

    In the frame's own CRS the grid is rendered directly. For another one (by default the UTM zone if the frame is
    topocentric), a finer local grid is rendered and resampled. Raises CrsError for a CRS that is not projected in
    meters, or that has a vertical component.
    """
    if crs is None:
        crs = frame.crs if frame.crs != TOPOCENTRIC else utm_crs(*frame.origin[:2])
    check_frame_crs(crs)  # cells of a geographic system would not be square meters
    if parse_crs(crs).is_compound:  # without geoid grids, PROJ would leave heights unchanged
        raise CrsError(
            f"{crs} has a vertical component, but the DSM's heights are ellipsoidal. Give its horizontal part only."
        )
    if parse_crs(crs) == (parse_crs(frame.crs) if frame.crs != TOPOCENTRIC else None):
        grid = Grid.covering_box(box_m, resolution_m)
        return Dsm(_render_grid(renderer, grid) + frame.origin[2], crs, grid.affine_transform(frame.origin))
    return _render_resampled(renderer, frame, box_m, resolution_m, crs)


def _render_grid(renderer: HeightRenderer, grid: Grid) -> Float[ndarray, "h w"]:
    return renderer.render_heights(grid).astype(np.float64)


def _render_resampled(
    renderer: HeightRenderer, frame: LocalFrame, box_m: ndarray, resolution_m: float, crs: str
) -> Dsm:
    """Render a finer local grid, sample it at the cell centers of the target grid, and convert the heights.

    The centers are transformed at ground level: the verticals of both systems differ by millimeters over the height of
    a building.
    """
    source = Grid.covering_box(box_m, resolution_m / 2)
    height = _render_grid(renderer, source)
    corners = np.array([[x, y, 0.0] for x in box_m[:, 0] for y in box_m[:, 1]])
    outline = frame.to_crs(corners, crs)
    target = Grid.covering_box(np.stack([outline.min(0), outline.max(0)]), resolution_m)
    x, y = np.meshgrid(target.x_m(), target.y_m())
    local = frame.from_crs(np.stack([x, y, np.full_like(x, outline[:, 2].mean())], -1), crs)
    row, column = source.locate(local[..., 0], local[..., 1])
    sampled = map_coordinates(np.nan_to_num(height), [row, column], order=1, mode="constant", cval=0.0)
    known = map_coordinates(np.isfinite(height).astype(np.float32), [row, column], order=1, mode="constant", cval=0.0)
    projected = frame.to_crs(np.stack([local[..., 0], local[..., 1], sampled], -1), crs)
    return Dsm(np.where(known > 0.999, projected[..., 2], np.nan), crs, target.affine_transform())
