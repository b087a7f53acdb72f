"""The standard deviation of stereo heights, in meters.

Four things say how far a matched height may be off: how wide the minimum of the aggregated cost is and how high, how
far the lines of sight of the views are from agreeing on it, and how rough the surface is around it (near an edge a cell
may belong to the other side). Their weights are those of a regression of the 68th percentile of |error| on them, over
matched cells of a hard synthetic city (nine and two views) and of lidar heights of Jacksonville
(benchmarks/real_scenes.md). What is filled is as uncertain as its rim is high.
"""

import numpy as np
from jaxtyping import Float32, UInt16
from numpy import ndarray
from scipy.ndimage import maximum_filter, minimum_filter

from skyfall_ns.geo.surface_evidence import MATCHED, Judged

WIDE_COST = 160  # aggregated costs (1/100, eight directions) within so much of the least are nearly as good
FAR_M = 3.0  # lines of sight count as at most so far apart
FINE_CELLS, COARSE_CELLS = 3, 7  # windows in which the surface's range of heights is its roughness
CONSTANT, WIDTH, FINE, COARSE, APART, COST = -0.95, 0.278, 0.2, 0.509, 0.357, 0.138
FILLED_M, RIM_SHARE = 1.0, 0.3  # sigma of a filled cell with a level rim, and share of the rim's height


def height_sigma_m(
    total: UInt16[ndarray, "h w d"], index: ndarray, step_m: float, apart_m: Float32[ndarray, "v h w"], judged: Judged,
) -> Float32[ndarray, "h w"]:  # fmt: skip
    """Sigma of each cell of a judged surface. `total` are aggregated costs, `index` the chosen level, `apart_m` how far
    each view's line of sight is from the height (see `ray_consistency`)."""
    least = np.take_along_axis(total, index[..., None], axis=2)
    width_m = ((total <= least + np.uint16(WIDE_COST)).sum(2) * step_m).astype(np.float32)
    fine, coarse = (_range_m(judged.height_m, cells) for cells in (FINE_CELLS, COARSE_CELLS))
    apart = np.minimum(np.nan_to_num(np.abs(apart_m), nan=FAR_M), FAR_M).mean(0)
    log_sigma = (
        CONSTANT
        + WIDTH * np.log(width_m)
        + FINE * np.log(fine + 0.05)
        + COARSE * np.log(coarse + 0.1)
        + APART * apart
        + COST * least[..., 0] / 1000.0
    )
    filled = np.hypot(FILLED_M, RIM_SHARE * judged.rim_m)
    return np.where(judged.source == MATCHED, np.exp(log_sigma), filled).astype(np.float32)


def _range_m(height_m: Float32[ndarray, "h w"], cells: int) -> Float32[ndarray, "h w"]:
    return maximum_filter(height_m, cells) - minimum_filter(height_m, cells)
