"""Sigma of exported heights: closed forms of its parts, and heights of a scene that a view sees."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skyfall_ns.export.sigma import MAX_DIFFERENCE_M, OCCLUSION_M, combined_sigma_m, view_spread_m
from skyfall_ns.export.view_heights import ViewDepth, height_above_m, spread_over_views_m
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.scene.model_space import satellite_rows
from skyfall_ns.view import parallel_view

NAN = np.nan
NORMALIZED = SimpleNamespace(scale=0.01, center_m=(3.0, -2.0, 0.0))


@pytest.mark.parametrize(
    ("above_m", "spread_m"),
    [
        ([0.0, 0.0, 0.0], 0.0),
        ([0.5, -0.5, 0.5, -0.5], 0.5),
        ([0.3], 0.3),
        ([0.3, 0.4], np.sqrt(0.125)),
        ([0.0, 0.0, 0.0, -30.0], 0.5 * MAX_DIFFERENCE_M),  # a view past an edge counts, but with a bounded difference
        ([0.1, OCCLUSION_M + 0.01, 50.0], 0.1),  # views in which the cell is hidden do not count
        ([NAN, 0.2, NAN], 0.2),
        ([NAN, 50.0], NAN),
    ],
)
def test_spread_counts_only_the_views_that_see_the_cell(above_m, spread_m):
    np.testing.assert_allclose(view_spread_m(np.array(above_m)[:, None]), [spread_m])


def test_spread_of_normal_errors_is_their_standard_deviation():
    errors = np.random.default_rng(0).normal(0, 0.3, (2001, 20))
    np.testing.assert_allclose(view_spread_m(errors), 0.3, rtol=0.1)


@pytest.mark.parametrize(
    ("surface", "displacement", "spread", "expected"),
    [
        (0.3, 0.0, 0.0, 0.3),
        (0.3, 0.2, 0.0, 0.3),  # a displacement within sigma
        (0.3, 2.0, 0.0, 2.0),  # a displacement beyond it
        (0.3, 0.0, 0.4, 0.5),
        (0.3, 1.2, 0.5, 1.3),
        (0.3, 0.0, NAN, 0.3),  # no view sees it
        (NAN, NAN, 0.1, NAN),  # nothing measured it
    ],
)
def test_sigma_of_surface_displacement_and_spread(surface, displacement, spread, expected):
    result = combined_sigma_m(np.array(surface), np.array(displacement), np.array(spread))
    np.testing.assert_allclose(result, expected)


def render_plane(height_m: float, tilt: tuple[float, float], size: int = 80) -> ViewDepth:
    """An oblique satellite view of a level plane, half a meter per pixel; depths in closed form."""
    matrix = np.array([[2.0, 0, 2 * tilt[0], size / 2], [0, -2.0, 2 * tilt[1], size / 2]])
    rows, quadratic = satellite_rows(AffineCamera(matrix, None, (size, size)).to_model_space(NORMALIZED.center_m, 0.01))
    view = parallel_view(torch.from_numpy(rows).reshape(3, 4), torch.from_numpy(quadratic).reshape(2, 6), size, size)
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)
    xy = (pixels - size / 2 - 2 * height_m * np.array(tilt)) / [2.0, -2.0]
    points = (np.dstack([xy, np.full((size, size), height_m)]) - NORMALIZED.center_m) * 0.01
    row = rows.reshape(3, 4)[2]
    return ViewDepth(view, (points @ row[:3] + row[3]).astype(np.float32))


@pytest.mark.parametrize("tilt", [(0.0, 0.0), (0.4, 0.1), (-0.3, 0.5)])
@pytest.mark.parametrize("plane_m", [0.0, 6.5])
def test_height_above_any_cell_is_that_of_the_plane(tilt, plane_m):
    cells = np.random.default_rng(0).uniform([-8, -8, 0], [8, 8, 7], (50, 3))
    result = height_above_m(render_plane(plane_m, tilt), cells, NORMALIZED)
    np.testing.assert_allclose(result, plane_m - cells[:, 2], atol=2e-3)


def test_height_is_nan_outside_of_the_image_and_where_nothing_is_opaque():
    view = render_plane(0.0, (0.1, 0.0))
    view.depth[:, :40] = np.nan
    result = height_above_m(view, np.array([[5.0, 0, 0], [-5.0, 0, 0], [500.0, 0, 0]]), NORMALIZED)
    np.testing.assert_allclose(result, [0, np.nan, np.nan], atol=2e-3)


def test_spread_of_views_with_different_heights(monkeypatch):
    monkeypatch.setattr("skyfall_ns.export.view_heights.CELLS_PER_BATCH", 7)
    views = [render_plane(z, tilt) for z, tilt in ((1.0, (0.2, 0)), (0.5, (-0.2, 0.1)), (1.9, (0, 0.3)))]
    x, y = np.meshgrid(np.linspace(-5, 5, 6), np.linspace(-5, 5, 4))
    result = spread_over_views_m(views, np.dstack([x, y, np.full(x.shape, 1.0)]), NORMALIZED)
    np.testing.assert_allclose(result, np.full((4, 6), np.sqrt((0.0 + 0.5**2 + 0.9**2) / 3)), rtol=0.01)
