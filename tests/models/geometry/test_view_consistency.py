"""Sheared views: pixels move as geometry says, and what is consistent costs nothing."""

import pytest
import torch

from skyfall_ns.models.geometry.view import parallel_view
from skyfall_ns.models.geometry.view_consistency import COLOR_SHARE, heights, shear_loss, sheared
from skyfall_ns.models.rasterizers import Rendering

SCALE = 0.01
ROWS = torch.tensor([[40.0, 3.0, 12.0, 20.0], [2.0, -40.0, -9.0, 24.0], [0.2, 0.1, -0.97, 20.0]], dtype=torch.float64)


def view():
    return parallel_view(ROWS, None, 40, 48)


def pixels(view, points):
    seen = points @ view.camera_from_model[:3, :3].T + view.camera_from_model[:3, 3]
    return seen[:, :2] + view.intrinsics[:2, 2], seen[:, 2]


def drawing(view, surface, color):
    """What an exact rasterizer would draw of the level surface z = surface, painted by color(x, y)."""
    y, x = torch.meshgrid(torch.arange(view.height) + 0.5, torch.arange(view.width) + 0.5, indexing="ij")
    linear, offset = view.camera_from_model[:2, :3], view.intrinsics[:2, 2]
    right = torch.stack([x, y], -1).double() - offset - linear[:, 2] * surface
    ground = right @ torch.linalg.inv(linear[:, :2]).T
    points = torch.cat([ground, torch.full_like(ground[..., :1], surface)], -1)
    depth = points @ view.camera_from_model[2, :3] + view.camera_from_model[2, 3]
    painted = color(ground[..., 0], ground[..., 1])
    picture = torch.stack([painted] * 3, -1).float()
    return Rendering(picture, depth.float(), torch.ones(view.height, view.width))


def waves(x, y):
    return 0.5 + 0.3 * torch.sin(4 * x) * torch.cos(3 * y)


def test_pixels_move_by_shear_times_height():
    torch.manual_seed(0)
    shear = sheared(view(), 40.0)
    points = torch.randn(20, 3, dtype=torch.float64)
    before, depth = pixels(view(), points)
    after, depth_after = pixels(shear.view, points)
    torch.testing.assert_close(after - before, points[:, 2:] * shear.px)
    torch.testing.assert_close(depth, depth_after)
    assert 0 < shear.px.abs().max() <= 0.1 * 40.0


@pytest.mark.parametrize("surface", [-0.3, 0.0, 0.4])
def test_heights_of_a_level_surface(surface):
    drawn = drawing(view(), surface, waves)
    torch.testing.assert_close(heights(drawn, view()), torch.full((48, 40), surface), atol=1e-5, rtol=0)


def test_one_surface_in_both_views_costs_nothing_and_two_cost_their_difference():
    torch.manual_seed(1)
    shear = sheared(view(), 40.0)
    first = drawing(view(), 0.4, waves)
    same = shear_loss(first, drawing(shear.view, 0.4, waves), view(), shear, SCALE)
    assert same < 2e-4  # bilinear lookup
    brighter = shear_loss(first, drawing(shear.view, 0.4, lambda x, y: waves(x, y) + 0.2), view(), shear, SCALE)
    assert float(brighter - same) == pytest.approx(COLOR_SHARE * 0.2, rel=0.1)
    other = shear_loss(first, drawing(shear.view, 0.4 + 1.0 * SCALE, waves), view(), shear, SCALE)
    assert other == 0.0  # a metre apart: another surface, nothing is compared
