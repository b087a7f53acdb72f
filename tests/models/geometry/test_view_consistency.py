"""Tilted views: pixel displacements, heights, and the loss of consistent and inconsistent surfaces."""

import pytest
import torch

from skyfall_ns.models.geometry.view_consistency import COLOR_WEIGHT, pixel_heights, tilt_view, view_consistency_loss
from skyfall_ns.models.rasterizers import Rendering
from skyfall_ns.view import parallel_view

SCALE = 0.01
ROWS = torch.tensor([[40.0, 3.0, 12.0, 20.0], [2.0, -40.0, -9.0, 24.0], [0.2, 0.1, -0.97, 20.0]], dtype=torch.float64)


def satellite_view():
    return parallel_view(ROWS, None, 40, 48)


def project_pixels(view, points):
    projected = points @ view.camera_from_model[:3, :3].T + view.camera_from_model[:3, 3]
    return projected[:, :2] + view.intrinsics[:2, 2], projected[:, 2]


def exact_rendering(view, surface, color):
    """Exact rendering of the level surface z = surface with the colors color(x, y)."""
    y, x = torch.meshgrid(torch.arange(view.height) + 0.5, torch.arange(view.width) + 0.5, indexing="ij")
    linear, offset = view.camera_from_model[:2, :3], view.intrinsics[:2, 2]
    right = torch.stack([x, y], -1).double() - offset - linear[:, 2] * surface
    ground = right @ torch.linalg.inv(linear[:, :2]).T
    points = torch.cat([ground, torch.full_like(ground[..., :1], surface)], -1)
    depth = points @ view.camera_from_model[2, :3] + view.camera_from_model[2, 3]
    painted = color(ground[..., 0], ground[..., 1])
    image = torch.stack([painted] * 3, -1).float()
    return Rendering(image, depth.float(), torch.ones(view.height, view.width))


def wave_colors(x, y):
    return 0.5 + 0.3 * torch.sin(4 * x) * torch.cos(3 * y)


def test_pixels_move_by_tilt_times_height():
    torch.manual_seed(0)
    tilted = tilt_view(satellite_view(), 40.0)
    points = torch.randn(20, 3, dtype=torch.float64)
    before, depth = project_pixels(satellite_view(), points)
    after, depth_after = project_pixels(tilted.view, points)
    torch.testing.assert_close(after - before, points[:, 2:] * tilted.px_per_unit)
    torch.testing.assert_close(depth, depth_after)
    assert 0 < tilted.px_per_unit.abs().max() <= 0.1 * 40.0


@pytest.mark.parametrize("surface", [-0.3, 0.0, 0.4])
def test_pixel_heights_of_a_level_surface(surface):
    rendering = exact_rendering(satellite_view(), surface, wave_colors)
    torch.testing.assert_close(
        pixel_heights(rendering, satellite_view()), torch.full((48, 40), surface), atol=1e-5, rtol=0
    )


def test_the_loss_of_one_surface_is_zero_and_of_two_colors_their_difference():
    torch.manual_seed(1)
    tilted = tilt_view(satellite_view(), 40.0)
    first = exact_rendering(satellite_view(), 0.4, wave_colors)
    same = view_consistency_loss(first, exact_rendering(tilted.view, 0.4, wave_colors), satellite_view(), tilted, SCALE)
    assert same < 2e-4  # bilinear lookup
    brighter = view_consistency_loss(
        first, exact_rendering(tilted.view, 0.4, lambda x, y: wave_colors(x, y) + 0.2), satellite_view(), tilted, SCALE
    )
    assert float(brighter - same) == pytest.approx(COLOR_WEIGHT * 0.2, rel=0.1)
    other = view_consistency_loss(
        first, exact_rendering(tilted.view, 0.4 + 1.0 * SCALE, wave_colors), satellite_view(), tilted, SCALE
    )
    assert other == 0.0  # a meter apart: another surface, no pixel is compared
