"""Exposure and color statistics of known pixels."""

import numpy as np
import pytest

from skyfall_ns.evaluation.exposure import exposure_statistics


def test_statistics_of_known_pixels():
    gray, red, white = (np.array([c] * n, np.uint8) for c, n in (((100,) * 3, 96), ((200, 50, 50), 3), ((255,) * 3, 1)))
    statistics = exposure_statistics([gray, np.concatenate([red, white])])
    red_luma = 0.299 * 200 + 0.701 * 50
    assert statistics["luma"] == pytest.approx((96 * 100 + 3 * red_luma + 255) / 100)
    assert statistics["median_luma"] == pytest.approx(100) and statistics["clipped"] == 0.01
    assert statistics["chroma_p99"] == 150


def test_gray_has_no_chroma_and_254_is_clipped():
    pixels = np.repeat(np.array([[10], [253], [254], [255]], np.uint8), 3, 1)
    statistics = exposure_statistics([pixels])
    assert statistics["chroma_p99"] == 0 and statistics["clipped"] == 0.5
