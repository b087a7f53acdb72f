"""Blunders over the whole area, also where the reference has no height.

A predicted height is a blunder if it is above the highest reference height around it, or below the lowest one, by more
than a margin: no building explains it, whether or not the reference has a height at that cell.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.ndimage import maximum_filter, minimum_filter

from skyfall_ns.errors import RasterError
from skyfall_ns.evaluation.cells import resample_raster, shift_cells
from skyfall_ns.geo.raster import Raster

RADIUS_M, MARGIN_M = 15.0, 3.0
SEARCH_CELLS = 8


@dataclass(frozen=True)
class Envelope:
    """Blunder statistics. `above` and `below` are shares of the judged cells: those with a predicted height, and a
    reference height within the radius."""

    judged: float  # share of the cells with a predicted height
    above: float
    below: float
    towers: int  # connected patches of cells that are `above`
    tallest_m: float  # largest height above the highest reference height around; 0 without towers
    deepest_m: float  # largest depth below the lowest reference height around


def compare_envelope(
    pred: Raster, ref: Raster, start: tuple[int, int] = (0, 0), radius_m: float = RADIUS_M, margin_m: float = MARGIN_M
) -> Envelope:
    """Compare a prediction, resampled to the reference's grid (square cells, a CRS in meters), with the reference after
    registration by whole cells, which is searched around `start` (rows, columns).

    Cells that the registration moves out of the grid count, because blunders are frequent along the borders. Raises
    RasterError if the two do not overlap.
    """
    cell_m = abs(ref.transform.a)
    border = round(radius_m / cell_m) + SEARCH_CELLS + max(map(abs, start))
    layers = (resample_raster(pred, ref), ref.band_values())
    heights, truth = (np.pad(layer, border, constant_values=np.nan) for layer in layers)
    rows, columns, up_m = find_cell_shift(heights, truth, start)
    registered = shift_cells(heights, rows, columns) + up_m
    return measure_envelope(registered, truth, cell_m, radius_m, margin_m)


def find_cell_shift(
    pred: Float64[ndarray, "h w"], ref: Float64[ndarray, "h w"], start: tuple[int, int] = (0, 0)
) -> tuple[int, int, float]:
    """Find the shift (rows, columns, meters up) of the prediction with the smallest median absolute deviation of the
    differences, at most SEARCH_CELLS from `start`; the nearest one if several are equal.

    Raises RasterError if no cell has both heights.
    """
    best = (np.inf, 0, 0, 0, 0.0)
    for down in range(-SEARCH_CELLS, SEARCH_CELLS + 1):
        for right in range(-SEARCH_CELLS, SEARCH_CELLS + 1):
            rows, columns = start[0] + down, start[1] + right
            difference = shift_cells(pred, rows, columns) - ref
            difference = difference[np.isfinite(difference)]
            if len(difference):
                median = float(np.median(difference))
                deviation = float(np.median(np.abs(difference - median)))
                best = min(best, (deviation, down**2 + right**2, rows, columns, -median))
    if not np.isfinite(best[0]):
        raise RasterError("The DSM and its reference do not overlap. Check that they show the same place.")
    return best[2:]


def measure_envelope(
    pred: Float64[ndarray, "h w"], ref: Float64[ndarray, "h w"], cell_m: float,
    radius_m: float = RADIUS_M, margin_m: float = MARGIN_M,
) -> Envelope:  # fmt: skip
    """Measure the blunders of registered heights; NaN is unknown. The surroundings of a cell are a square window with
    half the side `radius_m`."""
    window, known = 2 * round(radius_m / cell_m) + 1, np.isfinite(ref)
    highest = maximum_filter(np.where(known, ref, -np.inf), window)
    lowest = minimum_filter(np.where(known, ref, np.inf), window)
    judged = np.isfinite(pred) & np.isfinite(highest)
    over, under = (np.where(judged, d, -np.inf) for d in (pred - highest, lowest - pred))
    above, below = over > margin_m, under > margin_m
    count = max(1, int(judged.sum()))
    return Envelope(
        judged=float(judged.sum() / max(1, np.isfinite(pred).sum())),
        above=float(above.sum() / count),
        below=float(below.sum() / count),
        towers=cv2.connectedComponents(above.astype(np.uint8), connectivity=4)[0] - 1,  # minus the background
        tallest_m=float(over.max(initial=0.0, where=above)),
        deepest_m=float(under.max(initial=0.0, where=below)),
    )
