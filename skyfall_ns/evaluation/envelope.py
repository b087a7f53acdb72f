"""Blunders over the whole area, which a reference that holds only reliable cells hides.

A predicted height is a blunder if it stands above the highest reference height around it, or below the lowest one, by
more than a margin: no building explains it, whether or not the reference has a height right there.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy.ndimage import maximum_filter, minimum_filter

from skyfall_ns.errors import RasterError
from skyfall_ns.evaluation.cells import resample, shift_cells
from skyfall_ns.geo.raster import Raster

RADIUS_M, MARGIN_M = 15.0, 3.0
SEARCH_CELLS = 8


@dataclass(frozen=True)
class Envelope:
    """Shares are of the judged cells: those with a predicted height, and a reference height within the radius."""

    judged: float  # share of the cells with a predicted height
    above: float
    below: float
    towers: int  # connected patches of cells above
    tallest_m: float  # above the highest reference height around it; 0 without towers
    deepest_m: float  # below the lowest


def compare_envelope(
    pred: Raster, ref: Raster, start: tuple[int, int] = (0, 0), radius_m: float = RADIUS_M, margin_m: float = MARGIN_M
) -> Envelope:
    """Blunders of the predicted cells that lie on the reference's grid (square cells, a CRS in metres), after
    registration by whole cells, looked for around `start` (rows, columns). RasterError where the two do not overlap.

    Cells that the registration moves out of the grid count: walls of blunders stand along borders.
    """
    cell_m = abs(ref.transform.a)
    border = round(radius_m / cell_m) + SEARCH_CELLS + max(map(abs, start))
    heights, truth = (np.pad(v, border, constant_values=np.nan) for v in (resample(pred, ref), ref.values()))
    rows, columns, up_m = find_cell_shift(heights, truth, start)
    registered = shift_cells(heights, rows, columns) + up_m
    return measure_envelope(registered, truth, cell_m, radius_m, margin_m)


def find_cell_shift(
    pred: Float64[ndarray, "h w"], ref: Float64[ndarray, "h w"], start: tuple[int, int] = (0, 0)
) -> tuple[int, int, float]:
    """(rows, columns, metres up) to move the prediction by, at most SEARCH_CELLS from `start`: where the median
    absolute deviation of the differences is least, the nearest of equals. RasterError if no cell has both heights."""
    best = (np.inf, 0, 0, 0, 0.0)
    for down in range(-SEARCH_CELLS, SEARCH_CELLS + 1):
        for right in range(-SEARCH_CELLS, SEARCH_CELLS + 1):
            rows, columns = start[0] + down, start[1] + right
            difference = shift_cells(pred, rows, columns) - ref
            difference = difference[np.isfinite(difference)]
            if len(difference):
                middle = float(np.median(difference))
                deviation = float(np.median(np.abs(difference - middle)))
                best = min(best, (deviation, down**2 + right**2, rows, columns, -middle))
    if not np.isfinite(best[0]):
        raise RasterError("The DSM and its reference do not overlap. Check that they show the same place.")
    return best[2:]


def measure_envelope(
    pred: Float64[ndarray, "h w"], ref: Float64[ndarray, "h w"], cell_m: float,
    radius_m: float = RADIUS_M, margin_m: float = MARGIN_M,
) -> Envelope:  # fmt: skip
    """Blunders of registered heights; NaN is unknown. "Around" is a square window of half side `radius_m`."""
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
        towers=cv2.connectedComponents(above.astype(np.uint8), connectivity=4)[0] - 1,  # less the ground
        tallest_m=float(over.max(initial=0.0, where=above)),
        deepest_m=float(under.max(initial=0.0, where=below)),
    )
