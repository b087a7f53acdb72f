"""Digital surface models compared: as they are, and registered by one 3-D shift; no clipping, every number in metres.

The prediction is sampled at the reference's cells, whatever the grids and CRSs. Horizontal shifts are searched where
they make the spread of the differences least; the vertical shift is the median difference. Published protocols differ
in masks and clipping (satnerf, EOGS, Skyfall-GS), so numbers of different papers do not compare; here neither is done.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from affine import Affine
from jaxtyping import Float64
from numpy import ndarray
from pyproj import Transformer
from scipy.ndimage import distance_transform_edt, gaussian_filter, map_coordinates
from scipy.optimize import minimize

from skyfall_ns.errors import CrsError, RasterError
from skyfall_ns.geo.frame import parse_crs
from skyfall_ns.geo.raster import Raster

EDGES_M = 1.5  # how far from an edge counts as near it
JUMP_M = 1.5  # heights of neighbouring cells that differ by more have an edge between them
SEARCH_M = 10.0  # largest horizontal shift looked for, east and north
NMAD = 1.4826  # times the median absolute deviation is the standard deviation of a normal distribution
_COARSE_CELLS, _FINE_CELLS = 15_000, 60_000
_SMOOTH_CELLS = 3.0
_ROBUST_M = 3.0  # larger differences (changes, blunders) count no more than this when registering
_METRES_PER_DEGREE = 111_320.0


@dataclass(frozen=True)
class DsmComparison:
    """The report, and the registered difference (prediction minus reference) on the reference's grid."""

    report: dict[str, Any]
    difference_m: Float64[ndarray, "h w"]


def compare_dsm(
    pred: Raster, ref: Raster, names: tuple[str, str] = ("prediction", "reference"), edges_m: float = EDGES_M
) -> DsmComparison:
    """Scores of the first band of a predicted DSM against a reference's, over all cells where both have a height.

    `shift_m` (east, north, up) is what was added to the prediction to register it. `completeness` is the share of the
    reference's heights that have a prediction. `registered` holds `edges` too: see `edge_scores`.
    Raises CrsError for a DSM without CRS, RasterError for one without any height and where the two do not overlap;
    `names` tell which in the messages.
    """
    for raster, name in zip((pred, ref), names, strict=True):
        if raster.crs is None:
            raise CrsError(f"{name} has no coordinate reference system. Write it as a georeferenced GeoTIFF.")
        if not np.isfinite(raster.values()).any():
            raise RasterError(f"{name} holds no height at all. Check its nodata value.")
    truth = ref.values()
    sample = _Sampler(pred, ref, pred.values())
    plain = sample(0.0, 0.0) - truth
    if not np.isfinite(plain).any():
        raise RasterError(f"{names[0]} and {names[1]} do not overlap. Check that they show the same place.")
    dx, dy = _best_shift(pred, ref)
    registered = sample(dx, dy) - truth
    dz = -float(np.nanmedian(registered))
    registered += dz
    report = {
        "unregistered": scores(plain),
        "registered": scores(registered) | {"edges": edge_scores(registered, ref, edges_m)},
        "shift_m": [dx, dy, dz],
        "completeness": float(np.isfinite(plain).sum() / np.isfinite(truth).sum()),
        "pixels": int(np.isfinite(registered).sum()),
        "resolution_m": float(np.mean(_cell_m(ref))),
    }
    return DsmComparison(report, registered)


def scores(difference_m: ndarray) -> dict[str, float]:
    """MAE, median |d|, NMAD, RMSE, the share within 1 m and the bias (median d) of all finite differences."""
    d = difference_m[np.isfinite(difference_m)]
    return {
        "mae_m": float(np.abs(d).mean()),
        "median_m": float(np.median(np.abs(d))),
        "nmad_m": float(NMAD * np.median(np.abs(d - np.median(d)))),
        "rmse_m": float(np.sqrt((d * d).mean())),
        "within_1m": float((np.abs(d) < 1.0).mean()),
        "bias_m": float(np.median(d)),
    }


def edge_scores(difference_m: Float64[ndarray, "h w"], ref: Raster, distance_m: float) -> dict[str, float | None]:
    """MAE of the cells whose centre is at most `distance_m` from that of a cell with an edge, and their share of all
    cells that have a difference; None where there is none.

    Edges are where the reference's heights of two cells side by side differ by more than JUMP_M; both have it.
    """
    near = _from_edges_m(ref) <= distance_m
    d = difference_m[near & np.isfinite(difference_m)]
    share = len(d) / max(1, int(np.isfinite(difference_m).sum()))
    return {"distance_m": distance_m, "mae_m": float(np.abs(d).mean()) if len(d) else None, "share": share}


def _from_edges_m(ref: Raster) -> Float64[ndarray, "h w"]:
    """Distance of each cell from the nearest one with an edge; infinite without any."""
    height = ref.values()
    edge = np.zeros(height.shape, bool)
    for a, b in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
        jump = np.abs(height[a] - height[b]) > JUMP_M  # never where a height is unknown
        edge[a] |= jump
        edge[b] |= jump
    east_m, north_m = _cell_m(ref)
    return np.asarray(distance_transform_edt(~edge, (north_m, east_m))) if edge.any() else np.full(height.shape, np.inf)


class _Sampler:
    """Heights of `pred` ("h w", NaN where unknown) at the cells of `ref`, after a move by (dx, dy) metres."""

    def __init__(self, pred: Raster, ref: Raster, values: ndarray, pick: ndarray | slice = slice(None)) -> None:
        """`pick` chooses flat cell numbers of the reference; all of them keep its shape."""
        assert pred.crs is not None and ref.crs is not None
        rows, columns = ref.bands.shape[1:]
        self._shape = (rows, columns) if isinstance(pick, slice) else (len(pick),)
        row, column = np.divmod(np.arange(rows * columns)[pick], columns)
        x, y = _apply(ref.transform, column + 0.5, row + 0.5)
        if pred.crs != ref.crs:
            x, y = Transformer.from_crs(parse_crs(ref.crs), parse_crs(pred.crs), always_xy=True).transform(x, y)
        inverse = ~pred.transform
        column, row = _apply(inverse, x, y)
        self._rowcol = np.stack([row, column]) - 0.5
        self._values, self._known = np.nan_to_num(values), np.isfinite(values).astype(np.float32)
        east_m, north_m = _metres_per_unit(pred)
        self._rowcol_per_m = np.array(
            [[inverse.d / east_m, inverse.e / north_m], [inverse.a / east_m, inverse.b / north_m]]
        )

    def __call__(self, dx_m: float, dy_m: float) -> Float64[ndarray, "*shape"]:
        """Bilinear; NaN outside and where one of the four neighbours is unknown."""
        where = self._rowcol - (self._rowcol_per_m @ [dx_m, dy_m])[:, None]
        height = map_coordinates(self._values, where, order=1, mode="grid-constant", cval=0.0)
        known = map_coordinates(self._known, where, order=1, mode="grid-constant", cval=0.0)
        return np.where(known > 0.99, height / np.maximum(known, 0.5), np.nan).reshape(self._shape)


def _apply(transform: Affine, column: Any, row: Any) -> tuple[Any, Any]:
    t = transform
    return t.a * column + t.b * row + t.c, t.d * column + t.e * row + t.f


def _metres_per_unit(raster: Raster) -> tuple[float, float]:
    """Metres east and north of one unit of a raster's CRS at its centre."""
    assert raster.crs is not None
    crs = parse_crs(raster.crs)
    if not crs.is_geographic:
        return crs.axis_info[0].unit_conversion_factor, crs.axis_info[1].unit_conversion_factor
    rows, columns = raster.bands.shape[1:]
    _, lat = _apply(raster.transform, columns / 2, rows / 2)
    return _METRES_PER_DEGREE * float(np.cos(np.radians(lat))), _METRES_PER_DEGREE


def _cell_m(raster: Raster) -> tuple[float, float]:
    """Cell size in metres east and north."""
    east_m, north_m = _metres_per_unit(raster)
    return abs(raster.transform.a) * east_m, abs(raster.transform.e) * north_m


def _best_shift(pred: Raster, ref: Raster) -> tuple[float, float]:
    """Metres east and north to move the prediction by: a grid over all shifts, then Nelder-Mead on more cells.

    Both surfaces are smoothed first: what interpolation smooths at half cells but not at whole ones would pull the
    shift to either. Of trained cities of 0.5 m whose true shift is known, smoothing by one cell finds it to 0.06 m east
    and 0.12 m north, by three to 0.05 and 0.03 m; read with upright walls, whose roofs end a little early in the south,
    to 0.07 and 0.2 m.
    """
    sigma_m = _SMOOTH_CELLS * max(*_cell_m(pred), *_cell_m(ref))
    moving, fixed = _smooth(pred, sigma_m), _smooth(ref, sigma_m).ravel()
    known = np.flatnonzero(np.isfinite(fixed))

    def spread_over(cells: int):
        pick = known[:: max(1, len(known) // cells)]
        sample, values = _Sampler(pred, ref, moving, pick), fixed[pick]
        enough = 0.5 * np.isfinite(sample(0.0, 0.0)).sum()

        def spread(shift: ndarray) -> float:
            d = sample(*shift) - values
            d = d[np.isfinite(d)]
            if len(d) <= enough:
                return np.inf
            return float(np.minimum(np.abs(d - np.median(d)), _ROBUST_M).mean())

        return spread

    steps = np.arange(-SEARCH_M, SEARCH_M + 0.5, 1.0)
    grid = sorted(((x, y) for x in steps for y in steps), key=lambda s: s[0] ** 2 + s[1] ** 2)  # ties: the nearest
    start = np.array(min(grid, key=spread_over(_COARSE_CELLS)))
    simplex = start + np.array([[0.0, 0.0], [0.6, 0.0], [0.0, 0.6]])
    options = {"initial_simplex": simplex, "xatol": 0.002, "fatol": 1e-6}
    best = minimize(spread_over(_FINE_CELLS), start, method="Nelder-Mead", options=options).x
    return float(best[0]), float(best[1])


def _smooth(raster: Raster, sigma_m: float) -> Float64[ndarray, "h w"]:
    """Heights after a Gaussian that leaves out what is unknown; unknown cells stay so."""
    values = raster.values()
    known = np.isfinite(values)
    east_m, north_m = _cell_m(raster)
    sigma = (sigma_m / north_m, sigma_m / east_m)
    weight = gaussian_filter(known.astype(np.float64), sigma, truncate=3.0)
    smooth = gaussian_filter(np.nan_to_num(values), sigma, truncate=3.0) / np.maximum(weight, 1e-9)
    return np.where(known, smooth, np.nan)
