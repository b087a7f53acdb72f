"""Calibration of the standard deviations of heights: how well they match the actual errors."""

import numpy as np
from jaxtyping import Float64
from numpy import ndarray


def sigma_calibration(
    difference_m: Float64[ndarray, "*n"], sigma_m: Float64[ndarray, "*n"]
) -> dict[str, float]:  # fmt: skip
    """Calibration scores: the shares of the errors within one and two sigma (0.683 and 0.954 for a normal
    distribution), and the mean error of the half of the cells with the smallest sigma relative to that of all cells.

    Cells where either input is NaN are left out; the scores are NaN if no cell remains.
    """
    known = np.isfinite(difference_m) & np.isfinite(sigma_m)
    error, sigma = np.abs(difference_m[known]), sigma_m[known]
    if not len(error):
        return {"within_1_sigma": np.nan, "within_2_sigma": np.nan, "best_half": np.nan, "cells": 0}
    smallest = np.argsort(sigma, kind="stable")[: (len(sigma) + 1) // 2]
    return {
        "within_1_sigma": float((error <= sigma).mean()),
        "within_2_sigma": float((error <= 2 * sigma).mean()),
        "best_half": float(error[smallest].mean() / max(error.mean(), 1e-12)),
        "cells": len(error),
    }
