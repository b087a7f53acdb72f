"""Shadows: a tower of splats on a plane throws the shadow that trigonometry asks for."""

import pytest
import torch

from skyfall_ns.models.appearance.shadow_map import Shadows, SunMap, draw_sun_map, sun_view
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer

SCALE = 0.01  # model units per metre


def tower_on_plane():
    """Splats 0.5 m apart: a plane of 60 m, and a tower of 10 x 10 x 20 m in its middle (model units)."""
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


def draw(means, opacities=None):
    n = len(means)
    opacities = torch.full((n,), 0.95) if opacities is None else opacities
    quats = torch.zeros(n, 4)
    quats[:, 0] = 1
    splats = Gaussians(means, quats, torch.full((n, 3), 0.4 * SCALE), opacities)
    return lambda heights, view: pick_rasterizer("cpu")(splats, heights, view)


def test_view_contains_the_box_and_depth_is_positive():
    low, high = torch.tensor([-0.5, -0.4, 0.0]), torch.tensor([0.6, 0.5, 0.2])
    view = sun_view(torch.tensor([0.3, -0.5, 0.8]), low, high, cell=0.01)
    corners = torch.cartesian_prod(*torch.stack([low, high], 1).double())
    seen = corners @ view.camera_from_model[:3, :3].T + view.camera_from_model[:3, 3]
    pixels = seen[:, :2] + view.intrinsics[:2, 2]
    assert pixels.min() >= -1e-9 and (pixels.max(0).values <= torch.tensor([view.width, view.height])).all()
    assert (seen[:, 2] > 0).all()


def test_tower_throws_its_shadow():
    means, roof = tower_on_plane()
    sun = (0.0, -(0.5**0.5), 0.5**0.5)  # from the south at 45 degrees: the shadow reaches 20 m north of the wall
    lit = draw_sun_map(sun, means, SCALE, draw(means)).lit(means)
    x, y, z = (means / SCALE).unbind(-1)
    ground = z < 0.1
    shaded = ground & (x.abs() < 4) & (y > 6.5) & (y < 23)
    assert (lit[shaded] < 0.5).float().mean() > 0.95
    clear = ground & ((x.abs() > 7) | (y > 27) | (y < -7)) & (x.abs() < 28) & (y.abs() < 28)
    assert (lit[clear] > 0.9).float().mean() > 0.98
    inner = roof[(x[roof].abs() < 4) & (y[roof].abs() < 4)]
    assert (lit[inner] > 0.85).float().mean() > 0.95


def test_nothing_in_the_way_is_full_sun():
    view = sun_view(torch.tensor([0.0, 0, 1]), torch.zeros(3), torch.ones(3), 0.1)
    empty = SunMap(torch.zeros(view.height, view.width, 3), torch.tensor(0.5), view, SCALE)
    torch.testing.assert_close(empty.lit(torch.rand(5, 3)), torch.ones(5))


@pytest.mark.parametrize("cover", [0.0, 0.3, 0.8, 1.0])
def test_under_a_rim_the_sun_is_what_the_rim_leaves(cover):
    """A pixel that a roof covers in part: its street is lit by the rest, and the roof by all."""
    view = sun_view(torch.tensor([0.0, 0, 1]), torch.zeros(3), torch.tensor([1.0, 1.0, 0.3]), 0.1)
    roof, street = 0.2, 0.0
    moments = [cover * roof + (1 - cover) * street, cover * roof**2 + (1 - cover) * street**2, 1.0]
    everywhere = torch.tensor(moments).expand(view.height, view.width, 3)
    points = torch.tensor([[0.5, 0.5, street], [0.5, 0.5, roof]])
    lit = SunMap(everywhere, torch.tensor(0.0), view, SCALE).lit(points)
    torch.testing.assert_close(lit, torch.tensor([1 - cover, 1.0]), atol=0.03, rtol=0)


def test_a_shadow_too_long_lowers_the_edge_of_its_roof():
    """Light that is missed behind a tower takes from its northern rim, not from the rest of its roof."""
    means, roof = tower_on_plane()
    sun = (0.0, -(0.5**0.5), 0.5**0.5)
    opacities = torch.full((len(means),), 0.95, requires_grad=True)
    lit = draw_sun_map(sun, means, SCALE, draw(means, opacities)).lit(means)
    x, y, z = (means / SCALE).unbind(-1)
    edge = (z < 0.1) & (x.abs() < 4) & (y > 22) & (y < 25)  # the tower's 20 m end at 25 m
    (1 - lit[edge]).sum().backward()
    assert opacities.grad is not None
    x, y, pulled = x[roof], y[roof], opacities.grad[roof]
    rim, middle, back = (pulled[(x.abs() < 4) & ((y - place).abs() < 0.5)].sum() for place in (4.5, 0, -4.5))
    assert rim > 0 and rim > 10 * max(abs(middle), abs(back))


def test_caches_follow_the_splats():
    means, _ = tower_on_plane()
    calls = []

    def counted(heights, view):
        calls.append(view)
        return draw(means[: len(heights)])(heights, view)

    shadows, sun = Shadows(SCALE), (0.0, 0.6, 0.8)
    for step in (0, 5, 9, 10):
        shadows.of_image(1, sun, means, step, 10, counted)
    assert len(calls) == 2
    shadows.of_image(1, sun, means[:-1], 10, 10, counted)
    assert len(calls) == 3


def test_maps_that_nobody_will_ask_for_are_dropped():
    """Maps of a large scene are large: those drawn each step are kept until the next one."""
    means, _ = tower_on_plane()
    shadows = Shadows(SCALE)
    for image in range(3):
        shadows.of_image(image, (0.0, 0.6, 0.8), means, image, 1, draw(means))
    assert len(shadows._maps) == 1


def test_whoever_looks_at_a_run_leaves_its_maps_alone():
    """Training goes on with the map it had, though the viewer and an evaluation have drawn others since."""
    means, _ = tower_on_plane()
    shadows, sun = Shadows(SCALE), (0.0, 0.6, 0.8)
    shadows.of_image(1, sun, means, 0, 10, draw(means))
    trained = shadows.of_image(1, sun, means, 1, 10, draw(means))
    shadows.of_image(1, sun, means, 2, 1, draw(means))
    shadows.of_sun((0.6, 0.0, 0.8), means, 2, draw(means))
    assert shadows.of_image(1, sun, means, 3, 10, draw(means)) is trained


@pytest.mark.parametrize("direction", [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.6, -0.6, 0.53)])
def test_any_direction_makes_a_view(direction):
    view = sun_view(torch.tensor(direction), torch.zeros(3), torch.ones(3), 0.05)
    assert torch.linalg.det(view.camera_from_model[:3, :3]).abs() > 1
