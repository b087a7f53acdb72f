"""Change between two DSMs: differences with propagated sigma, and volumes in polygons."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray
from rasterio.features import geometry_mask
from rasterio.warp import Resampling, transform_geom

from skyfall_ns.errors import CrsError, RasterError, SkyfallError
from skyfall_ns.evaluation.cells import resample_raster
from skyfall_ns.geo.frame import check_frame_crs
from skyfall_ns.geo.raster import Raster

SIGNIFICANT_SIGMA = 2.0


@dataclass(frozen=True)
class HeightChange:
    """Later minus earlier heights on the cells of the earlier DSM, meters (NaN: unknown), and their standard deviation
    (None: unknown)."""

    difference_m: Float64[ndarray, "h w"]
    sigma_m: Float64[ndarray, "h w"] | None
    grid: Raster

    @property
    def cell_area_m2(self) -> float:
        """Area of a cell."""
        return abs(self.grid.transform.a * self.grid.transform.e)

    def significant(self) -> Bool[ndarray, "h w"] | None:
        """Cells whose change is more than SIGNIFICANT_SIGMA standard deviations; None without sigma."""
        if self.sigma_m is None:
            return None
        return np.abs(self.difference_m) > SIGNIFICANT_SIGMA * self.sigma_m


def height_change(
    earlier: Raster, later: Raster, sigmas: tuple[Raster, Raster] | None, names: tuple[str, str]
) -> HeightChange:
    """Change between two DSMs; sigma² is the sum of both variances.

    Raises CrsError for a DSM without CRS or not in meters, RasterError if the two do not overlap.
    """
    for raster, name in zip((earlier, later), names, strict=True):
        if raster.crs is None:
            raise CrsError(f"{name} has no coordinate reference system. Write it as a georeferenced GeoTIFF.")
    assert earlier.crs is not None
    check_frame_crs(earlier.crs)
    difference = resample_raster(later, earlier, Resampling.bilinear) - earlier.band_values()
    if not np.isfinite(difference).any():
        raise RasterError(f"{names[0]} and {names[1]} do not overlap. Check that they cover the same place.")
    if sigmas is None:
        return HeightChange(difference, None, earlier)
    first, second = (resample_raster(raster, earlier, Resampling.bilinear) for raster in sigmas)
    return HeightChange(difference, np.hypot(first, second), earlier)


def summarize_change(change: HeightChange, region: Bool[ndarray, "h w"] | None = None) -> dict[str, Any]:
    """Statistics of a change in a region (None: everywhere): cells with a difference, mean, volumes of rise and fall in
    cubic meters. With sigma, also those of significant cells alone, and the standard deviation of the net volume if
    errors are independent from cell to cell, and if they are common to all cells: the truth is between the two."""
    known = np.isfinite(change.difference_m)
    known &= True if region is None else region
    d, area = change.difference_m[known], change.cell_area_m2
    report: dict[str, Any] = {
        "cells": len(d),
        "area_m2": len(d) * area,
        "mean_m": float(d.mean()) if len(d) else None,
        "rise_m3": float(d[d > 0].sum() * area),
        "fall_m3": float(-d[d < 0].sum() * area),
        "net_m3": float(d.sum() * area),
    }
    significant = change.significant()
    if change.sigma_m is None or significant is None:
        return report
    kept = change.difference_m[known & significant]
    sigma = change.sigma_m[known & np.isfinite(change.sigma_m)]
    return report | {
        "significant_cells": len(kept),
        "significant_rise_m3": float(kept[kept > 0].sum() * area),
        "significant_fall_m3": float(-kept[kept < 0].sum() * area),
        "net_sigma_independent_m3": float(np.sqrt((sigma**2).sum()) * area),
        "net_sigma_common_m3": float(sigma.sum() * area),
    }


def polygon_regions(path: Path, grid: Raster) -> dict[str, Bool[ndarray, "h w"]]:
    """Cells of a raster in each polygon of a GeoJSON file (lon, lat), by the name of its feature, or its number.

    Raises SkyfallError if the file has no polygon.
    """
    try:
        data = json.loads(path.read_text())
        features = data["features"] if data.get("type") == "FeatureCollection" else [data]
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise SkyfallError(f"{path} is not GeoJSON ({error}). Export polygons in lon, lat.") from error
    regions = {}
    for number, feature in enumerate(features, start=1):
        geometry: Mapping[str, Any] = feature.get("geometry") or feature
        if geometry.get("type") not in ("Polygon", "MultiPolygon"):
            continue
        name = str((feature.get("properties") or {}).get("name", number))
        projected = transform_geom("EPSG:4326", grid.crs, geometry)
        regions[name] = geometry_mask([projected], grid.bands.shape[1:], grid.transform, invert=True)
    if not regions:
        raise SkyfallError(f"{path} has no polygon. Export polygons in lon, lat.")
    return regions
