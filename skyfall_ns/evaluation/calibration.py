"""Whether a standard deviation that comes with each height says how wrong the heights are."""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray


def sigma_calibration(
    difference_m: Float64[ndarray, "*n"], sigma_m: Float64[ndarray, "*n"]
) -> dict[str, float]:  # fmt: skip
    """Shares of the errors within one and two sigma (0.683 and 0.954 of a normal distribution), and the mean error of
    the half with the smallest sigma relative to that of all. Cells where either is NaN are left out; NaN without any.
    """
    known = np.isfinite(difference_m) & np.isfinite(sigma_m)
    error, sigma = np.abs(difference_m[known]), sigma_m[known]
    if not len(error):
        return {"within_1_sigma": np.nan, "within_2_sigma": np.nan, "best_half": np.nan, "cells": 0}
    best = np.argsort(sigma, kind="stable")[: (len(sigma) + 1) // 2]
    return {
        "within_1_sigma": float((error <= sigma).mean()),
        "within_2_sigma": float((error <= 2 * sigma).mean()),
        "best_half": float(error[best].mean() / max(error.mean(), 1e-12)),
        "cells": len(error),
    }
