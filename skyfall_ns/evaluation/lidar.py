"""DSMs compared with classified airborne lidar, by the protocol of the field (Sat-NeRF, EOGS: JAX and OMA scenes).

Water is left out, the prediction is shifted by whole cells to the best correlation, and the mean difference is removed.
A single blunder can change a mean, so the same scores with the median removed are given as well.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from jaxtyping import Float64
from numpy import ndarray
from rasterio.warp import Resampling

from skyfall_ns.errors import RasterError
from skyfall_ns.evaluation.cells import resample_raster, shift_cells
from skyfall_ns.geo.raster import Raster, read_raster

GROUND, TREES, BUILDINGS, WATER = 2, 5, 6, 9  # LAS classes
SEARCH_CELLS = 12
MIN_CELLS = 1000  # with both heights, for a meaningful correlation
OUTLIER_M = 10.0


@dataclass(frozen=True)
class LidarTruth:
    """Georeferenced lidar heights, and their LAS classes "h w"."""

    dsm: Raster
    classes: ndarray


@dataclass(frozen=True)
class LidarScore:
    """The report, and the differences (meters, median removed) on the lidar's cells; `shift` is (rows, columns)."""

    report: dict[str, Any]
    difference_m: Float64[ndarray, "h w"]
    shift: tuple[int, int]


def read_lidar(dsm: Path, classes: Path, georeference: Path, crs: str) -> LidarTruth:
    """Read lidar rasters with their georeference, a text file of x_min, y_min, cells per side and cell size in the unit
    of `crs`.

    Raises RasterError if the text file is damaged, or if the rasters are not of its size.
    """
    try:
        x_min, y_min, cells, size = (float(word) for word in georeference.read_text().split())
    except (OSError, ValueError) as error:
        raise RasterError(f"{georeference} does not hold x_min, y_min, cells and cell size. Copy it again.") from error
    bands, labels = read_raster(dsm).bands, read_raster(classes).bands[0]
    for path, shape in ((dsm, bands.shape[1:]), (classes, labels.shape)):
        if shape != (cells, cells):
            raise RasterError(
                f"{path} is not of the {cells:.0f} x {cells:.0f} cells of {georeference}. Copy them again."
            )
    return LidarTruth(Raster(bands, crs, Affine(size, 0, x_min, 0, -size, y_min + cells * size)), labels)


def score_lidar(pred: Raster, truth: LidarTruth, leave_out: tuple[int, ...] = (WATER,)) -> LidarScore:
    """Score a DSM over all cells except those of some classes, by default water.

    Raises RasterError if fewer than MIN_CELLS cells have both heights.
    """
    reference = np.where(np.isin(truth.classes, leave_out), np.nan, truth.dsm.band_values())
    heights = resample_raster(pred, truth.dsm, Resampling.bilinear)
    correlation, rows, columns = _find_cell_shift(heights, reference)
    difference = shift_cells(heights, rows, columns) - reference
    report: dict[str, Any] = {
        "correlation": correlation,
        "shift_cells": [rows, columns],
        "completeness": float(np.isfinite(heights + reference).sum() / np.isfinite(reference).sum()),
    }
    for name, offset in (("mean_z", np.nanmean(difference)), ("median_z", np.nanmedian(difference))):
        report[name] = _statistics_by_class(difference - offset, truth.classes)
    return LidarScore(report, difference - np.nanmedian(difference), (rows, columns))


def _find_cell_shift(pred: Float64[ndarray, "h w"], ref: Float64[ndarray, "h w"]) -> tuple[float, int, int]:
    """Find the shift by whole cells with the best correlation: (correlation, rows, columns)."""
    best = (-np.inf, 0, 0)
    for rows in range(-SEARCH_CELLS, SEARCH_CELLS + 1):
        for columns in range(-SEARCH_CELLS, SEARCH_CELLS + 1):
            shifted = shift_cells(pred, rows, columns)
            both = np.isfinite(shifted) & np.isfinite(ref)
            if both.sum() >= MIN_CELLS:
                best = max(best, (float(np.corrcoef(shifted[both], ref[both])[0, 1]), rows, columns))
    if not np.isfinite(best[0]):
        raise RasterError("The DSM and the lidar heights hardly overlap. Check that they show the same place.")
    return best


def _statistics_by_class(difference_m: Float64[ndarray, "h w"], classes: ndarray) -> dict[str, dict[str, float]]:
    known = np.isfinite(difference_m)
    groups = {"all": known, "no_trees": known & (classes != TREES)}
    groups |= {n: known & (classes == k) for n, k in (("ground", GROUND), ("trees", TREES), ("buildings", BUILDINGS))}
    return {name: error_statistics(difference_m[cells]) for name, cells in groups.items() if cells.any()}


def error_statistics(difference_m: Float64[ndarray, " n"]) -> dict[str, float]:
    """Mean, median, root mean square and 99th percentile of |d| in meters, and the shares below 1 m and above 10 m."""
    error = np.abs(difference_m)
    return {
        "mae_m": float(error.mean()),
        "median_m": float(np.median(error)),
        "rmse_m": float(np.sqrt((error**2).mean())),
        "p99_m": float(np.percentile(error, 99)),
        "within_1m": float((error < 1.0).mean()),
        "off_10m": float((error > OUTLIER_M).mean()),
    }
