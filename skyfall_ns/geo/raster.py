"""Reading and writing of GeoTIFFs, and north-up grids in local meters."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from jaxtyping import Float64
from numpy import ndarray
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.io import MemoryFile

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.io.files import atomic_write


@dataclass(frozen=True)
class Grid:
    """North-up cells in local meters: centers at x_min + (col + 0.5) r and y_max - (row + 0.5) r."""

    x_min_m: float
    y_max_m: float
    resolution_m: float
    width: int
    height: int

    @classmethod
    def covering_box(cls, box_m: ndarray, resolution_m: float) -> "Grid":
        """The smallest grid with edges at multiples of the resolution that covers a box ([2, 2 or 3], min and max)."""
        low, high = np.asarray(box_m, np.float64)[:, :2]
        first = np.floor(low / resolution_m + 1e-9).astype(int)
        last = np.ceil(high / resolution_m - 1e-9).astype(int)
        width, height = (int(v) for v in np.maximum(last - first, 1))
        return cls(float(first[0] * resolution_m), float(last[1] * resolution_m), resolution_m, width, height)

    def x_m(self) -> Float64[ndarray, " w"]:
        """x of the columns' centers."""
        return self.x_min_m + (np.arange(self.width) + 0.5) * self.resolution_m

    def y_m(self) -> Float64[ndarray, " h"]:
        """y of the rows' centers."""
        return self.y_max_m - (np.arange(self.height) + 0.5) * self.resolution_m

    def crop_cells(self, window: tuple[slice, slice]) -> "Grid":
        """The grid of a window (rows, columns) of cells."""
        rows, columns = window
        west, north = self.x_min_m + columns.start * self.resolution_m, self.y_max_m - rows.start * self.resolution_m
        size = columns.stop - columns.start, rows.stop - rows.start
        return Grid(west, north, self.resolution_m, *size)

    def affine_transform(self, origin: Sequence[float] = (0.0, 0.0)) -> Affine:
        """Transform from pixel corners (col, row) to coordinates of a CRS in which the local origin is `origin`."""
        west, north = origin[0] + self.x_min_m, origin[1] + self.y_max_m
        return Affine(self.resolution_m, 0.0, west, 0.0, -self.resolution_m, north)


@dataclass(frozen=True)
class Raster:
    """Georeferenced bands "b h w"; `transform` maps (col, row) of pixel corners to the CRS."""

    bands: ndarray
    crs: str | None
    transform: Affine
    nodata: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)

    def band_values(self, band: int = 0) -> ndarray:
        """One band as float64 "h w" with NaN where there is no data."""
        values = self.bands[band].astype(np.float64)
        if self.nodata is not None:
            values[self.bands[band] == self.nodata] = np.nan
        return values


def read_raster(path: str | os.PathLike[str]) -> Raster:
    """Read a whole raster; RasterError if it cannot be read."""
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                crs = _crs_name(source.crs)
                return Raster(source.read(), crs, source.transform, source.nodata, dict(source.tags()))
    except RasterioIOError as error:
        what = "cannot be read as a raster" if path.exists() else "does not exist"
        raise RasterError(f"{path} {what}. Check the path, or copy the file again.") from error


def _crs_name(crs: CRS | None) -> str | None:
    """EPSG code or WKT of a CRS; None without one."""
    if not crs:
        return None
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else crs.to_wkt()


def write_raster(
    path: str | os.PathLike[str],
    bands: ndarray,
    *,
    crs: str | None = None,
    transform: Affine | None = None,
    nodata: float | None = None,
    tags: Mapping[str, str] | None = None,
    band_names: Sequence[str] = (),
    rpc: RPC | None = None,
    cog: bool = False,
) -> None:
    """Write bands "b h w" as GeoTIFF through a temporary file; `cog` makes it Cloud-optimized.

    Plain files are deflated without predictor and pixel-interleaved, so that OpenCV reads the same values.
    """
    path = Path(path)
    profile: dict[str, Any] = {
        "count": bands.shape[0],
        "height": bands.shape[1],
        "width": bands.shape[2],
        "dtype": bands.dtype,
        "crs": crs,
        "nodata": nodata,
        "compress": "deflate",
    }
    if transform is not None:
        profile["transform"] = transform
    profile |= {"driver": "COG"} if cog else {"driver": "GTiff", "interleave": "pixel"}
    if cog and bands.dtype == np.uint8:
        profile["overview_resampling"] = "nearest"  # averages of class numbers are not classes
    if bands.shape[0] == 3 and not cog:
        profile["photometric"] = "RGB"  # else OpenCV reads 16-bit color as gray with two extra bands
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile() as memory:  # Python writes the file: a full disk is then an OSError, not a GDAL message
            with memory.open(**profile) as target:
                target.write(bands)
                target.update_tags(**(tags or {}))
                for index, name in enumerate(band_names, start=1):
                    target.set_band_description(index, name)
                if rpc is not None:
                    target.rpcs = rpc.to_rasterio()
            atomic_write(path, memory.getbuffer())
