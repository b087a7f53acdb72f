"""Noise is found by large windows, up to its border; texture of several dates is not."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.matching_cost import PlaneWarp
from skyfall_ns.geo.window_support import find_noise, window_correlation

SIZE = 120
GRID = Grid(0.0, float(SIZE), 1.0, SIZE, SIZE)
NADIR = AffineCamera(np.array([[1.0, 0, 0, -0.5], [0, -1.0, 0, SIZE - 0.5]]), None, (SIZE, SIZE), (0.0, 0.0))
PAIRS = [(0, 1), (0, 2), (1, 2)]


def make_views(noise_columns: slice, shared: float = 0.8) -> list[np.ndarray]:
    """Three views of one texture, each with some noise of its own, and only with noise in some columns."""
    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=(SIZE, SIZE)), 1.5)
    texture /= texture.std()
    views = []
    for _ in range(3):
        own = gaussian_filter(rng.normal(size=(SIZE, SIZE)), 0.7)
        image = shared * texture + (1 - shared) * own / own.std()
        image[:, noise_columns] = (own / own.std())[:, noise_columns]
        views.append((120 + 40 * image[..., None]).astype(np.float32))
    return views


def test_noise_is_found_and_texture_is_not():
    warps = [PlaneWarp(NADIR, GRID) for _ in range(3)]
    noise = find_noise(make_views(slice(60, SIZE)), warps, PAIRS, np.zeros((SIZE, SIZE), np.float32), 0.4)
    assert noise[:, 62:].mean() > 0.95
    assert noise[:, :58].mean() < 0.01


def test_texture_that_changes_between_dates_is_no_noise():
    warps = [PlaneWarp(NADIR, GRID) for _ in range(3)]
    views = make_views(slice(0, 0), shared=0.65)
    assert find_noise(views, warps, PAIRS, np.zeros((SIZE, SIZE), np.float32), 0.4).mean() < 0.03


@pytest.mark.parametrize("fraction", [0.4, 1.0])
def test_correlation_is_the_mean_of_the_best_pairs(fraction):
    views, height = make_views(slice(0, 0)), np.zeros((SIZE, SIZE), np.float32)
    found = window_correlation(views, [PlaneWarp(NADIR, GRID)] * 3, PAIRS, height, 9, fraction)
    row, column = 50, 70
    patches = [view[row - 4 : row + 5, column - 4 : column + 5, 0].ravel() for view in views]
    expected = sorted((np.corrcoef(patches[i], patches[j])[0, 1] for i, j in PAIRS), reverse=True)
    assert found[row, column] == pytest.approx(np.mean(expected[: 2 if fraction < 1 else 3]), abs=0.01)
