"""Rendered heights as a georeferenced GeoTIFF: float32, Cloud-optimized."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from affine import Affine
from jaxtyping import Float, UInt8
from numpy import ndarray

from skyfall_ns.errors import CrsError
from skyfall_ns.export.map_cells import cover_box, default_crs, local_centers, render_on_cells
from skyfall_ns.geo.frame import GEODETIC, LocalFrame, parse_crs
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.raster import write_raster
from skyfall_ns.geo.vertical import VerticalDatum, compound_crs, geoid_undulation_m

NODATA = -9999.0
SOFTWARE_TAGS = {"SOFTWARE": "skyfall-ns"}


class HeightRenderer(Protocol):
    """Renders heights (local meters, NaN: no surface) of a grid; see `models/geometry/height_map.py`."""

    def render_heights(self, grid: Grid) -> Float[ndarray, "h w"]: ...


@dataclass(frozen=True)
class Dsm:
    """Heights "h w" (NaN: unknown) above a vertical datum, in a horizontal CRS; `transform` maps (col, row) of cell
    corners to it. `tags` are written to every file."""

    height_m: Float[ndarray, "h w"]
    crs: str
    transform: Affine
    vertical: VerticalDatum = "ellipsoid"
    tags: Mapping[str, str] = field(default_factory=dict)

    def write_heights(self, path: Path) -> None:
        """Write the heights as a Cloud-optimized GeoTIFF."""
        self.write_layer(path, self.height_m, f"height above {self.vertical}")

    def above_datum(self, vertical: VerticalDatum) -> "Dsm":
        """The same DSM with heights above another datum; `self` must have ellipsoidal heights. Raises CrsError if PROJ
        has no grid of the datum."""
        if vertical == "ellipsoid":
            return self
        undulation = geoid_undulation_m(self.cell_lonlath(), vertical)
        return replace(self, height_m=self.height_m - undulation, vertical=vertical)

    def cell_lonlath(self) -> Float[ndarray, "h w 3"]:
        """(lon deg, lat deg, 0) of the cell centers."""
        from pyproj import Transformer

        rows, columns = np.indices(self.height_m.shape) + 0.5
        x, y = self.transform.c + columns * self.transform.a, self.transform.f + rows * self.transform.e
        lon, lat = Transformer.from_crs(parse_crs(self.crs), parse_crs(GEODETIC).to_2d(), always_xy=True).transform(
            x, y
        )
        return np.stack([lon, lat, np.zeros_like(lon)], -1)

    def write_layer(self, path: Path, values: Float[ndarray, "h w"], name: str) -> None:
        """Write a quantity of the cells (NaN: unknown) on the same grid, float32; nodata where there is no height."""
        band = np.where(np.isfinite(values) & np.isfinite(self.height_m), values, NODATA).astype(np.float32)
        self._write_band(path, band, name, NODATA)

    def write_classes(self, path: Path, classes: UInt8[ndarray, "h w"], name: str) -> None:
        """Write classes of the cells on the same grid, 8 bits."""
        self._write_band(path, classes, name, None)

    def _write_band(self, path: Path, band: ndarray, name: str, nodata: float | None) -> None:
        datum = "ellipsoidal (WGS84)" if self.vertical == "ellipsoid" else f"above the geoid {self.vertical}"
        tags = {"HEIGHTS": f"{datum}, meters", **SOFTWARE_TAGS, **self.tags}
        crs = compound_crs(self.crs, self.vertical)
        write_raster(
            path, band[None], crs=crs, transform=self.transform, nodata=nodata, tags=tags, band_names=(name,), cog=True
        )

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
    crs = default_crs(frame, crs)
    if parse_crs(crs).is_compound:  # without geoid grids, PROJ would leave heights unchanged
        raise CrsError(
            f"{crs} has a vertical component, but the DSM's heights are ellipsoidal. Give its horizontal part only."
        )
    cells = cover_box(frame, box_m, resolution_m, crs)
    height = render_on_cells(cells, frame, box_m, lambda grid: renderer.render_heights(grid)[..., None])[..., 0]
    if cells.is_local:
        return Dsm(height + frame.origin[2], crs, cells.transform)
    local = local_centers(cells, frame)
    projected = frame.to_crs(np.concatenate([local[..., :2], np.nan_to_num(height)[..., None]], -1), crs)
    return Dsm(np.where(np.isfinite(height), projected[..., 2], np.nan), crs, cells.transform)
