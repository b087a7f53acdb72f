"""Shadow maps: the shadow of a tower on a plane has its exact extent."""

import pytest
import torch

from skyfall_ns.models.appearance.shadow_map import ShadowMap, ShadowMapCache, render_shadow_map, sun_view
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer

SCALE = 0.01  # model units per meter


def tower_on_plane():
    """Gaussians 0.5 m apart: a plane of 60 m, and a tower of 10 x 10 x 20 m in its middle (model units)."""
    axis = torch.arange(-30, 30, 0.5) + 0.25
    x, y = (v.flatten() for v in torch.meshgrid(axis, axis, indexing="xy"))
    roof = (x.abs() < 5) & (y.abs() < 5)
    ground = torch.stack([x, y, torch.where(roof, 20.0, 0.0)], -1)
    rise, along = (
        v.flatten() for v in torch.meshgrid(torch.arange(0, 20, 0.5), torch.arange(-5, 5, 0.5), indexing="xy")
    )
    walls = []
    for sign in (-5.0, 5.0):
        side = torch.full_like(rise, sign)
        walls += [torch.stack([side, along, rise], -1), torch.stack([along, side, rise], -1)]
    return torch.cat([ground, *walls]) * SCALE, roof.nonzero().flatten()


def rasterizer_of(means, opacities=None):
    n = len(means)
    opacities = torch.full((n,), 0.95) if opacities is None else opacities
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    gaussians = Gaussians(means, quats, torch.full((n, 3), 0.4 * SCALE), opacities)
    return lambda heights, view: pick_rasterizer("cpu")(gaussians, heights, view)


def test_view_contains_the_box_and_depth_is_positive():
    low, high = torch.tensor([-0.5, -0.4, 0.0]), torch.tensor([0.6, 0.5, 0.2])
    view = sun_view(torch.tensor([0.3, -0.5, 0.8]), low, high, cell=0.01)
    corners = torch.cartesian_prod(*torch.stack([low, high], 1).double())
    projected = corners @ view.camera_from_model[:3, :3].T + view.camera_from_model[:3, 3]
    pixels = projected[:, :2] + view.intrinsics[:2, 2]
    assert pixels.min() >= -1e-9 and (pixels.max(0).values <= torch.tensor([view.width, view.height])).all()
    assert (projected[:, 2] > 0).all()


def test_the_shadow_of_a_tower_has_its_exact_extent():
    means, roof = tower_on_plane()
    sun = (0.0, -(0.5**0.5), 0.5**0.5)  # from the south at 45 degrees: the shadow reaches 20 m north of the wall
    sun_visibility = render_shadow_map(sun, means, SCALE, rasterizer_of(means)).sun_visibility(means)
    x, y, z = (means / SCALE).unbind(-1)
    ground = z < 0.1
    shaded = ground & (x.abs() < 4) & (y > 6.5) & (y < 23)
    assert (sun_visibility[shaded] < 0.5).float().mean() > 0.95
    clear = ground & ((x.abs() > 7) | (y > 27) | (y < -7)) & (x.abs() < 28) & (y.abs() < 28)
    assert (sun_visibility[clear] > 0.9).float().mean() > 0.98
    inner = roof[(x[roof].abs() < 4) & (y[roof].abs() < 4)]
    assert (sun_visibility[inner] > 0.85).float().mean() > 0.95


def test_an_empty_map_is_full_sun():
    view = sun_view(torch.tensor([0.0, 0, 1]), torch.zeros(3), torch.ones(3), 0.1)
    empty = ShadowMap(torch.zeros(view.height, view.width, 3), torch.tensor(0.5), view, SCALE)
    torch.testing.assert_close(empty.sun_visibility(torch.rand(5, 3)), torch.ones(5))


@pytest.mark.parametrize("cover", [0.0, 0.3, 0.8, 1.0])
def test_visibility_below_a_partially_covered_pixel_is_the_uncovered_fraction(cover):
    """A pixel that a roof covers in part: the street below is lit by the rest, the roof fully."""
    view = sun_view(torch.tensor([0.0, 0, 1]), torch.zeros(3), torch.tensor([1.0, 1.0, 0.3]), 0.1)
    roof, street = 0.2, 0.0
    moments = [cover * roof + (1 - cover) * street, cover * roof**2 + (1 - cover) * street**2, 1.0]
    everywhere = torch.tensor(moments).expand(view.height, view.width, 3)
    points = torch.tensor([[0.5, 0.5, street], [0.5, 0.5, roof]])
    sun_visibility = ShadowMap(everywhere, torch.tensor(0.0), view, SCALE).sun_visibility(points)
    torch.testing.assert_close(sun_visibility, torch.tensor([1 - cover, 1.0]), atol=0.03, rtol=0)


def test_the_end_of_a_shadow_has_a_gradient_to_the_edge_of_its_roof():
    """A lack of light behind a tower has a gradient to the northern edge of its roof, not to the rest."""
    means, roof = tower_on_plane()
    sun = (0.0, -(0.5**0.5), 0.5**0.5)
    opacities = torch.full((len(means),), 0.95, requires_grad=True)
    sun_visibility = render_shadow_map(sun, means, SCALE, rasterizer_of(means, opacities)).sun_visibility(means)
    x, y, z = (means / SCALE).unbind(-1)
    edge = (z < 0.1) & (x.abs() < 4) & (y > 22) & (y < 25)  # the tower's 20 m end at 25 m
    (1 - sun_visibility[edge]).sum().backward()
    assert opacities.grad is not None
    x, y, gradient = x[roof], y[roof], opacities.grad[roof]
    front, middle, back = (gradient[(x.abs() < 4) & ((y - position).abs() < 0.5)].sum() for position in (4.5, 0, -4.5))
    assert front > 0 and front > 10 * max(abs(middle), abs(back))


def test_maps_are_rendered_again_after_some_steps_or_when_the_number_of_gaussians_changes():
    means, _ = tower_on_plane()
    calls = []

    def rasterize_counted(heights, view):
        calls.append(view)
        return rasterizer_of(means[: len(heights)])(heights, view)

    shadows, sun = ShadowMapCache(SCALE), (0.0, 0.6, 0.8)
    for step in (0, 5, 9, 10):
        shadows.for_image(1, sun, means, step, 10, rasterize_counted)
    assert len(calls) == 2
    shadows.for_image(1, sun, means[:-1], 10, 10, rasterize_counted)
    assert len(calls) == 3


def test_maps_of_earlier_steps_are_dropped_if_they_are_rendered_each_step():
    """Maps of a large scene are large: those rendered each step are kept until the next one."""
    means, _ = tower_on_plane()
    shadows = ShadowMapCache(SCALE)
    for image in range(3):
        shadows.for_image(image, (0.0, 0.6, 0.8), means, image, 1, rasterizer_of(means))
    assert len(shadows._maps) == 1


def test_rendering_by_viewer_and_evaluation_does_not_replace_training_maps():
    """Training continues with its own map after the viewer and an evaluation have rendered others."""
    means, _ = tower_on_plane()
    shadows, sun = ShadowMapCache(SCALE), (0.0, 0.6, 0.8)
    shadows.for_image(1, sun, means, 0, 10, rasterizer_of(means))
    trained = shadows.for_image(1, sun, means, 1, 10, rasterizer_of(means))
    shadows.for_image(1, sun, means, 2, 1, rasterizer_of(means))
    shadows.for_sun((0.6, 0.0, 0.8), means, 2, rasterizer_of(means))
    assert shadows.for_image(1, sun, means, 3, 10, rasterizer_of(means)) is trained


@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.6, -0.6, 0.53)])
def test_every_sun_direction_has_an_invertible_view(direction):
    view = sun_view(torch.tensor(direction), torch.zeros(3), torch.ones(3), 0.05)
    assert torch.linalg.det(view.camera_from_model[:3, :3]).abs() > 1
