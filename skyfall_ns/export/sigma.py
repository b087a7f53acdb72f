"""Standard deviation of exported heights, from stereo sigma, displacement in training and spread over views.

sigma² = max(sigma_surface, displacement)² + spread². A displacement of the height in training that is within the
surface's sigma is consistent with it and adds nothing; after a larger one, one of the two heights is wrong by that much
(the scale factor of Birge, 1932, for two measurements). The spread is that of the heights at which the training views
see the scene.
"""

import warnings

import numpy as np
from jaxtyping import Float
from numpy import ndarray

OCCLUSION_M = 2.0  # a cell is hidden from a view that sees something this much higher on the line of sight
MAX_DIFFERENCE_M = 2.0  # upper bound of a difference: at an edge, a view may see the street far below


def view_spread_m(above_m: Float[ndarray, "v *n"]) -> Float[ndarray, "*n"]:
    """Root mean square of the differences between the heights of cells and those at which views see them, each at most
    MAX_DIFFERENCE_M; NaN where no view sees a cell.

    `above_m` is the height above the cell at which each view sees the scene (NaN: the view shows nothing there). Large
    negative values count: the view sees through the cell.
    """
    differences = np.where(above_m <= OCCLUSION_M, np.minimum(np.abs(above_m), MAX_DIFFERENCE_M), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the mean of no value is NaN
        return np.sqrt(np.nanmean(np.square(differences), axis=0))


def combined_sigma_m(
    surface_sigma_m: Float[ndarray, "*n"], displacement_m: Float[ndarray, "*n"], spread_m: Float[ndarray, "*n"]
) -> Float[ndarray, "*n"]:
    """Sigma of exported heights that differ by `displacement_m` from the surface's.

    Where no view sees a cell (spread NaN), it is that of surface and displacement alone. It is NaN where the surface
    has no sigma, because the views of a trained scene agree even on heights that nothing measured.
    """
    return np.hypot(np.maximum(surface_sigma_m, displacement_m), np.nan_to_num(spread_m))
