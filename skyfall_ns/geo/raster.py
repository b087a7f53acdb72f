"""Reading and writing of GeoTIFFs."""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy import ndarray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.io import MemoryFile
from rasterio.windows import Window

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.io.files import atomic_write

_COLORS = (ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha)


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


def read_data_extent(path: str | os.PathLike[str]) -> Raster:
    """Read the part of a raster's first band that has data: the smallest window with all cells that are neither nodata
    nor NaN, found block by block, so that large margins of nodata take no memory. RasterError if it cannot be read, or
    has no data."""
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                window = _data_window(source)
                if window is None:
                    raise RasterError(f"{path} has no height at all. Check its nodata value.")
                bands = source.read([1], window=window)
                transform = source.window_transform(window)
                return Raster(bands, _crs_name(source.crs), transform, source.nodata, dict(source.tags()))
    except RasterioIOError as error:
        what = "cannot be read as a raster" if path.exists() else "does not exist"
        raise RasterError(f"{path} {what}. Check the path, or copy the file again.") from error


def _data_window(source: rasterio.DatasetReader) -> Window | None:
    """The smallest window of the first band with all of its data; None if there are none."""
    low, high = np.array([source.height, source.width]), np.array([-1, -1])
    for _, block in source.block_windows(1):
        values = source.read(1, window=block)
        known = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
        if source.nodata is not None:
            known &= values != source.nodata
        if known.any():
            first = np.array([block.row_off, block.col_off])
            rows, columns = np.flatnonzero(known.any(1)), np.flatnonzero(known.any(0))
            low = np.minimum(low, first + [rows[0], columns[0]])
            high = np.maximum(high, first + [rows[-1], columns[-1]])
    if (high < low).any():
        return None
    height, width = (int(v) for v in high - low + 1)
    return Window(int(low[1]), int(low[0]), width, height)  # pyright: ignore[reportCallIssue]  # untyped attrs


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
    color: bool = False,
) -> None:
    """Write bands "b h w" as GeoTIFF through a temporary file; `cog` makes it Cloud-optimized. `color`: the bands are
    red, green, blue and, if there are four, opacity.

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
    if cog and bands.dtype == np.uint8 and not color:
        profile["overview_resampling"] = "nearest"  # averages of class numbers are not classes
    if bands.shape[0] == 3 and not cog:
        profile["photometric"] = "RGB"  # else OpenCV reads 16-bit color as gray with two extra bands
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with MemoryFile() as memory:  # Python writes the file: a full disk is then an OSError, not a GDAL message
            with memory.open(**profile) as target:
                target.write(bands)
                target.update_tags(**(tags or {}))
                if color:
                    target.colorinterp = _COLORS[: bands.shape[0]]
                for index, name in enumerate(band_names, start=1):
                    target.set_band_description(index, name)
                if rpc is not None:
                    target.rpcs = rpc.to_rasterio()
            atomic_write(path, memory.getbuffer())
