"""Standard deviations of heights: a normal distribution is calibrated, and unknown cells do not count."""

import numpy as np
import pytest

from skyfall_ns.evaluation.calibration import sigma_calibration


def test_normal_errors_are_calibrated():
    rng = np.random.default_rng(0)
    sigma = rng.uniform(0.1, 2.0, 200_000)
    scores = sigma_calibration(rng.normal(0, sigma), sigma)
    assert scores["within_1_sigma"] == pytest.approx(0.683, abs=0.005)
    assert scores["within_2_sigma"] == pytest.approx(0.954, abs=0.005)
    assert scores["best_half"] == pytest.approx((0.1 + 1.05) / (0.1 + 2.0), abs=0.01)  # mean sigma of half, of all


def test_scores_of_given_errors_leave_out_unknown_cells():
    difference = np.array([[1.0, -3.0], [2.0, np.nan], [5.0, 5.0]])
    sigma = np.array([[1.0, 1.0], [2.5, 1.0], [3.0, np.nan]])
    scores = sigma_calibration(difference, sigma)
    assert scores == {"within_1_sigma": 0.5, "within_2_sigma": 0.75, "best_half": pytest.approx(2 / 2.75), "cells": 4}


def test_scores_are_nan_without_known_cells():
    scores = sigma_calibration(np.full(3, np.nan), np.ones(3))
    assert scores["cells"] == 0 and np.isnan(scores["within_1_sigma"])
