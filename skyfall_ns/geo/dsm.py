"""Digital surface models compared: registered by one 3-D shift or as they are, no clipping, every number in metres.

Protocol (reference/satellite: satnerf, EOGS and Skyfall-GS differ in masks and clipping): the prediction is sampled at
the reference's cells; horizontal shifts are searched where they make the differences' spread (NMAD) least, the vertical
shift is the median difference; completeness counts reference cells that have a prediction.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from pyproj import Transformer
from scipy.ndimage import map_coordinates
from scipy.optimize import minimize

from skyfall_ns.errors import CrsError, RasterError
from skyfall_ns.geo.frame import parse_crs
from skyfall_ns.geo.raster import Raster

SEARCH_M = 4.0  # largest horizontal shift tried
NMAD = 1.4826  # of the median absolute deviation, to equal the standard deviation of a normal distribution
_SAMPLE = 60_000


@dataclass(frozen=True)
class DsmComparison:
    """The report, and the registered difference (prediction minus reference) on the reference's grid."""

    report: dict[str, Any]
    difference_m: Float64[ndarray, "h w"]


def compare_dsm(pred: Raster, ref: Raster) -> DsmComparison:
    """Scores of a predicted DSM against a reference one.

    Raises RasterError if one has no height or they do not overlap, CrsError if one has no CRS.
    """
    for raster, name in ((pred, "prediction"), (ref, "reference")):
        if raster.crs is None:
            raise CrsError(f"The {name} has no coordinate reference system. Write it as a georeferenced GeoTIFF.")
        if not np.isfinite(raster.values()).any():
            raise RasterError(f"The {name} holds no height at all. Check its nodata value.")
    truth = ref.values()
    sampler = _Sampler(pred, ref)
    plain = sampler(0.0, 0.0) - truth
    if not np.isfinite(plain).any():
        raise RasterError("The two DSMs do not overlap. Check that they show the same place.")
    shift = _best_shift(sampler, truth)
    moved = sampler(*shift) - truth
    dz = float(np.nanmedian(moved))
    registered = moved - dz
    report = {
        "unregistered": scores(plain),
        "registered": scores(registered),
        "shift_m": [shift[0], shift[1], -dz],
        "completeness": _share(np.isfinite(plain), np.isfinite(truth)),
        "pixels": int(np.isfinite(registered).sum()),
        "resolution_m": abs(ref.transform.a),
    }
    return DsmComparison(report, registered)


def scores(difference_m: ndarray) -> dict[str, float]:
    """MAE, median |d|, NMAD, RMSE and the share within 1 m of all finite differences."""
    d = difference_m[np.isfinite(difference_m)]
    return {
        "mae_m": float(np.abs(d).mean()),
        "median_m": float(np.median(np.abs(d))),
        "nmad_m": _nmad(d),
        "rmse_m": float(np.sqrt((d * d).mean())),
        "within_1m": float((np.abs(d) < 1.0).mean()),
        "bias_m": float(np.median(d)),
    }


def _nmad(d: ndarray) -> float:
    return float(NMAD * np.median(np.abs(d - np.median(d))))


def _share(have: ndarray, wanted: ndarray) -> float:
    return float((have & wanted).sum() / wanted.sum())


class _Sampler:
    """The prediction at the reference's cells, the prediction moved by (dx, dy) metres first."""

    def __init__(self, pred: Raster, ref: Raster) -> None:
        values = pred.values()
        self._values, self._known = np.nan_to_num(values), np.isfinite(values)
        rows, columns = ref.bands.shape[1:]
        column, row = np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5)
        x, y = ref.transform * (column, row)
        self._cell_m = _cell_m(pred)
        if pred.crs != ref.crs:
            assert pred.crs is not None and ref.crs is not None
            transformer = Transformer.from_crs(parse_crs(ref.crs), parse_crs(pred.crs), always_xy=True)
            x, y = transformer.transform(x, y)
        column, row = ~pred.transform * (x, y)
        self._column, self._row = np.asarray(column) - 0.5, np.asarray(row) - 0.5

    def __call__(self, dx_m: float, dy_m: float, pick: ndarray | None = None) -> Float64[ndarray, "*shape"]:
        """Bilinear heights; NaN outside and where a neighbour has no height. `pick` chooses flat cell numbers."""
        column, row = self._column, self._row
        if pick is not None:
            column, row = column.ravel()[pick], row.ravel()[pick]
        where = np.stack([row + dy_m / self._cell_m[1], column - dx_m / self._cell_m[0]])
        height = map_coordinates(self._values, where, order=1, mode="constant", cval=0.0)
        known = map_coordinates(self._known.astype(np.float32), where, order=1, mode="constant", cval=0.0)
        return np.where(known > 0.999, height, np.nan)


def _cell_m(raster: Raster) -> tuple[float, float]:
    """Cell size in metres east and north."""
    assert raster.crs is not None
    crs = parse_crs(raster.crs)
    if not crs.is_geographic:
        return abs(raster.transform.a), abs(raster.transform.e)
    lat = raster.transform.f + raster.transform.e * raster.bands.shape[1] / 2
    degree = 111_320.0
    return abs(raster.transform.a) * degree * np.cos(np.radians(lat)), abs(raster.transform.e) * degree


def _best_shift(sampler: _Sampler, truth: ndarray) -> tuple[float, float]:
    """Horizontal shift (metres east and north) of the prediction that makes the robust spread least: a coarse grid,
    then Nelder-Mead."""
    known = np.flatnonzero(np.isfinite(truth))
    pick = known[:: max(1, len(known) // _SAMPLE)]
    values = truth.ravel()[pick]

    def spread(shift: ndarray) -> float:
        d = sampler(float(shift[0]), float(shift[1]), pick) - values
        d = d[np.isfinite(d)]
        if len(d) < 0.5 * len(values) * np.isfinite(sampler(0.0, 0.0, pick)).mean() or not len(d):
            return 1e9
        d = np.abs(d - np.median(d))
        return float(np.minimum(d, 3.0).mean())  # smoother than the NMAD, as robust

    steps = np.arange(-SEARCH_M, SEARCH_M + 0.5, 1.0)
    coarse = min(((spread(np.array([x, y])), x, y) for x in steps for y in steps), key=lambda c: (c[0], c[1:]))
    start = np.array(coarse[1:])
    simplex = start + np.array([[0.0, 0.0], [0.6, 0.0], [0.0, 0.6]])
    found = minimize(spread, start, method="Nelder-Mead", options={"initial_simplex": simplex, "xatol": 0.005})
    return float(found.x[0]), float(found.x[1])
