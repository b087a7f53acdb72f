"""Rendered heights as a GeoTIFF that lands on the map: float32, ellipsoidal, Cloud-optimized."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from affine import Affine
from jaxtyping import Float, UInt8
from numpy import ndarray
from scipy.ndimage import map_coordinates

from skyfall_ns.errors import CrsError
from skyfall_ns.geo.frame import TOPOCENTRIC, LocalFrame, parse_crs, utm_crs
from skyfall_ns.geo.raster import Grid, write_raster

NODATA = -9999.0
TAGS = {"HEIGHTS": "ellipsoidal (WGS84), metres", "SOFTWARE": "skyfall-ns"}


class HeightRenderer(Protocol):
    """What a trained model offers: heights (local metres, NaN where there is no surface) of a north-up grid."""

    def render_heights(
        self, x_min_m: float, y_max_m: float, resolution_m: float, width: int, height: int
    ) -> Float[ndarray, "h w"]: ...


@dataclass(frozen=True)
class Dsm:
    """Ellipsoidal heights "h w" (NaN: none) in a CRS; `transform` maps corners of (col, row) to it."""

    height_m: Float[ndarray, "h w"]
    crs: str
    transform: Affine

    def write(self, path: Path) -> None:
        """As a Cloud-optimized GeoTIFF."""
        self.write_layer(path, self.height_m, "ellipsoidal height")

    def write_layer(self, path: Path, values: Float[ndarray, "h w"], name: str) -> None:
        """A quantity of the cells (NaN: none) on the same grid, float32, with nodata where there is no height."""
        band = np.where(np.isfinite(values) & np.isfinite(self.height_m), values, NODATA).astype(np.float32)
        self._write(path, band, name, NODATA)

    def write_classes(self, path: Path, classes: UInt8[ndarray, "h w"], name: str) -> None:
        """Classes of the cells on the same grid, 8 bits."""
        self._write(path, classes, name, None)

    def _write(self, path: Path, band: ndarray, name: str, nodata: float | None) -> None:
        place = {"crs": self.crs, "transform": self.transform}
        write_raster(path, band[None], nodata=nodata, tags=TAGS, band_names=(name,), cog=True, **place)

    def local_cells(self, frame: LocalFrame) -> Float[ndarray, "h w 3"]:
        """Cell centers with their heights in local meters; cells without a height get one at z = 0 or near it."""
        rows, columns = np.indices(self.height_m.shape) + 0.5
        x, y = self.transform.c + columns * self.transform.a, self.transform.f + rows * self.transform.e
        height = np.where(np.isfinite(self.height_m), self.height_m, frame.origin[2])
        return frame.from_crs(np.stack([x, y, height], -1), self.crs)


def render_dsm(
    model: HeightRenderer, frame: LocalFrame, box_m: ndarray, resolution_m: float, crs: str | None = None
) -> Dsm:
    """The scene's heights on a north-up grid of `resolution_m`.

    In the frame's own CRS the grid is rendered as it is; in another one (or for topocentric frames: the UTM zone by
    default) a finer local grid is rendered and resampled. Raises CrsError for a CRS that is not projected in metres, or
    that has heights of its own.
    """
    if crs is None:
        crs = frame.crs if frame.crs != TOPOCENTRIC else utm_crs(*frame.origin[:2])
    LocalFrame(crs, (0.0, 0.0, 0.0))  # complain about geographic systems: cells would not be square metres
    if parse_crs(crs).is_compound:  # geoid grids may be missing, and then PROJ would not change heights at all
        raise CrsError(f"{crs} has heights of its own, but the DSM's are ellipsoidal. Name its horizontal part only.")
    if parse_crs(crs) == (parse_crs(frame.crs) if frame.crs != TOPOCENTRIC else None):
        grid = Grid.over(box_m, resolution_m)
        return Dsm(_heights(model, grid) + frame.origin[2], crs, grid.transform(frame.origin))
    return _resampled(model, frame, box_m, resolution_m, crs)


def _heights(model: HeightRenderer, grid: Grid) -> Float[ndarray, "h w"]:
    height = model.render_heights(grid.x_min_m, grid.y_max_m, grid.resolution_m, grid.width, grid.height)
    return height.astype(np.float64)


def _resampled(model: HeightRenderer, frame: LocalFrame, box_m: ndarray, resolution_m: float, crs: str) -> Dsm:
    """Cell centres of the target grid are brought to the local frame (at ground level: verticals of both systems differ
    by millimetres over a building's height), looked up there, and their height brought back."""
    source = Grid.over(box_m, resolution_m / 2)
    height = _heights(model, source)
    corners = np.array([[x, y, 0.0] for x in box_m[:, 0] for y in box_m[:, 1]])
    outline = frame.to_crs(corners, crs)
    target = Grid.over(np.stack([outline.min(0), outline.max(0)]), resolution_m)
    x, y = np.meshgrid(target.x_m(), target.y_m())
    local = frame.from_crs(np.stack([x, y, np.full_like(x, outline[:, 2].mean())], -1), crs)
    column = (local[..., 0] - source.x_min_m) / source.resolution_m - 0.5
    row = (source.y_max_m - local[..., 1]) / source.resolution_m - 0.5
    looked_up = map_coordinates(np.nan_to_num(height), [row, column], order=1, mode="constant", cval=0.0)
    known = map_coordinates(np.isfinite(height).astype(np.float32), [row, column], order=1, mode="constant", cval=0.0)
    back = frame.to_crs(np.stack([local[..., 0], local[..., 1], looked_up], -1), crs)
    return Dsm(np.where(known > 0.999, back[..., 2], np.nan), crs, target.transform())
