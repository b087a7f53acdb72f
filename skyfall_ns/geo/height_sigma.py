"""The standard deviation of stereo heights, in meters.

The standard deviation of a matched height is predicted from four quantities: the width and the value of the minimum of
the aggregated cost, the distances of the best matches on the views' lines of sight from the height, and the roughness
of the surface around it (near an edge, a cell may belong to the other side). Their weights are from a regression of the
68th percentile of |error| over matched cells of a hard synthetic city (nine and two views) and of lidar heights of
Jacksonville (benchmarks/real_scenes.md). That of a filled height grows with the height range of its rim.
"""

import numpy as np
from jaxtyping import Float32, UInt16
from numpy import ndarray
from scipy.ndimage import maximum_filter, minimum_filter

from skyfall_ns.geo.surface_evidence import MATCHED, ClassifiedHeights

NEAR_MINIMUM_COST = 160  # aggregated costs (1/100, eight directions) this close to the minimum are nearly as good
MAX_RAY_DISTANCE_M = 3.0  # distances of lines of sight are clipped to this
FINE_WINDOW_CELLS, COARSE_WINDOW_CELLS = 3, 7  # the roughness is the range of heights in these windows
INTERCEPT, WIDTH_WEIGHT, FINE_WEIGHT, COARSE_WEIGHT, RAY_WEIGHT, COST_WEIGHT = -0.95, 0.278, 0.2, 0.509, 0.357, 0.138
FILLED_SIGMA_M = 1.0  # of a filled cell with a level rim
RIM_RANGE_FRACTION = 0.3  # of the rim's range of heights, added to it in quadrature


def height_sigma_m(
    aggregated_cost: UInt16[ndarray, "h w d"],
    index: ndarray,
    step_m: float,
    ray_distance_m: Float32[ndarray, "v h w"],
    classified: ClassifiedHeights,
) -> Float32[ndarray, "h w"]:
    """Standard deviation of the height of each cell, meters.

    `index` is the chosen height level, and `ray_distance_m` the distance of the best match along each view's line of
    sight (see `ray_consistency`).
    """
    minimum = np.take_along_axis(aggregated_cost, index[..., None], axis=2)
    width_m = ((aggregated_cost <= minimum + np.uint16(NEAR_MINIMUM_COST)).sum(2) * step_m).astype(np.float32)
    fine_range_m, coarse_range_m = (
        _height_range_m(classified.height_m, cells) for cells in (FINE_WINDOW_CELLS, COARSE_WINDOW_CELLS)
    )
    ray_distance = np.minimum(np.nan_to_num(np.abs(ray_distance_m), nan=MAX_RAY_DISTANCE_M), MAX_RAY_DISTANCE_M).mean(0)
    log_sigma = (
        INTERCEPT
        + WIDTH_WEIGHT * np.log(width_m)
        + FINE_WEIGHT * np.log(fine_range_m + 0.05)
        + COARSE_WEIGHT * np.log(coarse_range_m + 0.1)
        + RAY_WEIGHT * ray_distance
        + COST_WEIGHT * minimum[..., 0] / 1000.0
    )
    filled_sigma_m = np.hypot(FILLED_SIGMA_M, RIM_RANGE_FRACTION * classified.rim_range_m)
    return np.where(classified.source == MATCHED, np.exp(log_sigma), filled_sigma_m).astype(np.float32)


def _height_range_m(height_m: Float32[ndarray, "h w"], cells: int) -> Float32[ndarray, "h w"]:
    """Highest minus lowest height in a square window of cells."""
    return maximum_filter(height_m, cells) - minimum_filter(height_m, cells)
