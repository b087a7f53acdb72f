"""Rasters on each other's cells, moved by whole cells: the registration of published protocols."""

from dataclasses import replace

import numpy as np
from affine import Affine
from jaxtyping import Float64
from numpy import ndarray
from rasterio.warp import Resampling, reproject

from skyfall_ns.errors import CrsError
from skyfall_ns.geo.raster import Raster


def resample(raster: Raster, target: Raster, how: Resampling = Resampling.nearest) -> Float64[ndarray, "h w"]:
    """First band of a raster on the cells of another one, NaN where there is no data. CrsError for one without CRS."""
    if raster.crs is None or target.crs is None:
        raise CrsError("A raster has no coordinate reference system. Write it as a georeferenced GeoTIFF.")
    resampled = np.full(target.bands.shape[1:], np.nan)
    reproject(
        raster.values(), resampled, src_transform=raster.transform, src_crs=raster.crs, src_nodata=np.nan,
        dst_transform=target.transform, dst_crs=target.crs, dst_nodata=np.nan, resampling=how,
    )  # fmt: skip
    return resampled


def shift_cells(values: Float64[ndarray, "h w"], rows: int, columns: int) -> Float64[ndarray, "h w"]:
    """Values moved down by `rows` and right by `columns`; NaN where nothing comes from."""
    height, width = values.shape
    shifted = np.full_like(values, np.nan)
    target = np.s_[max(rows, 0) : height + min(rows, 0), max(columns, 0) : width + min(columns, 0)]
    source = np.s_[max(-rows, 0) : height + min(-rows, 0), max(-columns, 0) : width + min(-columns, 0)]
    shifted[target] = values[source]
    return shifted


def translate(raster: Raster, east: float, north: float) -> Raster:
    """The raster moved in the unit of its CRS."""
    t = raster.transform
    return replace(raster, transform=Affine(t.a, t.b, t.c + east, t.d, t.e, t.f + north))
