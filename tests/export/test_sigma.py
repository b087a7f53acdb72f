"""Sigma of exported heights: closed forms of its parts, and what a view sees beside a cell."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from skyfall_ns.export.sigma import HIDDEN_M, LARGEST_M, combined_sigma_m, view_spread_m
from skyfall_ns.export.view_heights import ViewDepth, height_above_m, spread_over_views_m
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.models.geometry.view import parallel_view
from skyfall_ns.scene.model_space import satellite_rows

NAN = np.nan
ON_MODEL = SimpleNamespace(scale=0.01, centre_m=(3.0, -2.0, 0.0))


@pytest.mark.parametrize(
    ("above_m", "spread_m"),
    [
        ([0.0, 0.0, 0.0], 0.0),
        ([0.5, -0.5, 0.5, -0.5], 0.5),
        ([0.3], 0.3),
        ([0.3, 0.4], np.sqrt(0.125)),
        ([0.0, 0.0, 0.0, -30.0], 0.5 * LARGEST_M),  # one that looks past an edge counts, but not for thirty meters
        ([0.1, HIDDEN_M + 0.01, 50.0], 0.1),  # what hides a cell says nothing about its height
        ([NAN, 0.2, NAN], 0.2),
        ([NAN, 50.0], NAN),
    ],
)
def test_spread_is_that_of_the_views_that_see_a_cell(above_m, spread_m):
    np.testing.assert_allclose(view_spread_m(np.array(above_m)[:, None]), [spread_m])


def test_spread_of_normal_errors_is_their_standard_deviation():
    errors = np.random.default_rng(0).normal(0, 0.3, (2001, 20))
    np.testing.assert_allclose(view_spread_m(errors), 0.3, rtol=0.1)


@pytest.mark.parametrize(
    ("surface", "move", "spread", "expected"),
    [
        (0.3, 0.0, 0.0, 0.3),
        (0.3, 0.2, 0.0, 0.3),  # a move that sigma allows
        (0.3, 2.0, 0.0, 2.0),  # one that it does not
        (0.3, 0.0, 0.4, 0.5),
        (0.3, 1.2, 0.5, 1.3),
        (0.3, 0.0, NAN, 0.3),  # no view sees it
        (NAN, NAN, 0.1, NAN),  # nothing measured it
    ],
)
def test_sigma_of_surface_move_and_spread(surface, move, spread, expected):
    got = combined_sigma_m(np.array(surface), np.array(move), np.array(spread))
    np.testing.assert_allclose(got, expected)


def view_of_a_plane(height_m: float, lean: tuple[float, float], size: int = 80) -> ViewDepth:
    """A satellite that leans, half a meter a pixel, over a level plane; depths in closed form."""
    matrix = np.array([[2.0, 0, 2 * lean[0], size / 2], [0, -2.0, 2 * lean[1], size / 2]])
    rows, quadratic = satellite_rows(AffineCamera(matrix, None, (size, size)).after(ON_MODEL.centre_m, 0.01))
    view = parallel_view(torch.from_numpy(rows).reshape(3, 4), torch.from_numpy(quadratic).reshape(2, 6), size, size)
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)
    xy = (pixels - size / 2 - 2 * height_m * np.array(lean)) / [2.0, -2.0]
    points = (np.dstack([xy, np.full((size, size), height_m)]) - ON_MODEL.centre_m) * 0.01
    row = rows.reshape(3, 4)[2]
    return ViewDepth(view, (points @ row[:3] + row[3]).astype(np.float32))


@pytest.mark.parametrize("lean", [(0.0, 0.0), (0.4, 0.1), (-0.3, 0.5)])
@pytest.mark.parametrize("plane_m", [0.0, 6.5])
def test_a_view_sees_the_plane_at_its_height_beside_any_cell(lean, plane_m):
    cells = np.random.default_rng(0).uniform([-8, -8, 0], [8, 8, 7], (50, 3))
    got = height_above_m(view_of_a_plane(plane_m, lean), cells, ON_MODEL)
    np.testing.assert_allclose(got, plane_m - cells[:, 2], atol=2e-3)


def test_views_do_not_see_beyond_their_picture_nor_what_is_not_solid():
    view = view_of_a_plane(0.0, (0.1, 0.0))
    view.depth[:, :40] = np.nan
    got = height_above_m(view, np.array([[5.0, 0, 0], [-5.0, 0, 0], [500.0, 0, 0]]), ON_MODEL)
    np.testing.assert_allclose(got, [0, np.nan, np.nan], atol=2e-3)


def test_views_that_disagree_are_a_spread(monkeypatch):
    monkeypatch.setattr("skyfall_ns.export.view_heights.CELLS_AT_ONCE", 7)
    views = [view_of_a_plane(z, lean) for z, lean in ((1.0, (0.2, 0)), (0.5, (-0.2, 0.1)), (1.9, (0, 0.3)))]
    x, y = np.meshgrid(np.linspace(-5, 5, 6), np.linspace(-5, 5, 4))
    got = spread_over_views_m(views, np.dstack([x, y, np.full(x.shape, 1.0)]), ON_MODEL)
    np.testing.assert_allclose(got, np.full((4, 6), np.sqrt((0.0 + 0.5**2 + 0.9**2) / 3)), rtol=0.01)
