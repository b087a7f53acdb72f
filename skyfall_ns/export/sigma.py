"""The standard deviation of exported heights: the stereo surface's, what training changed, and how views disagree.

sigma² = max(sigma_surface, move)² + spread². A move of the trained height within the surface's sigma is what this sigma
allows and adds nothing; a larger one says that one of the two heights is wrong by so much (the scale factor of Birge,
1932, for two measurements). The spread is that of the heights at which the training views see the trained scene there.
"""

import warnings

import numpy as np
from jaxtyping import Float
from numpy import ndarray

HIDDEN_M = 2.0  # a view that sees something so much higher on its way to a cell does not see the cell
LARGEST_M = 2.0  # a view that looks past an edge may see the street far below: no difference counts for more


def view_spread_m(above_m: Float[ndarray, "v *n"]) -> Float[ndarray, "*n"]:
    """Root mean square of the differences between cells' heights and those at which views see them, each at most
    LARGEST_M; NaN where no view sees a cell.

    `above_m` is how much higher than a cell each view sees the scene in its place (NaN: the view shows nothing there).
    What is seen far below counts as seen: the view looks through the cell.
    """
    seen = np.where(above_m <= HIDDEN_M, np.minimum(np.abs(above_m), LARGEST_M), np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # means of nothing are NaN
        return np.sqrt(np.nanmean(np.square(seen), axis=0))


def combined_sigma_m(
    surface_sigma_m: Float[ndarray, "*n"], move_m: Float[ndarray, "*n"], spread_m: Float[ndarray, "*n"]
) -> Float[ndarray, "*n"]:
    """Sigma of exported heights that lie `move_m` from the surface's. Where no view sees a cell (spread NaN) it is that
    of surface and move alone, and NaN where the surface has none: views of one trained scene agree on what nothing
    measured."""
    return np.hypot(np.maximum(surface_sigma_m, move_m), np.nan_to_num(spread_m))
