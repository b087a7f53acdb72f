"""The fused lookup gives what torch's operations give, and sends gradients where theirs go."""

import pytest
import torch

from skyfall_ns.models.appearance.shadow_lookup import _sunlight_torch, sunlight_at

LEAST = 4e-6
WIDTH, HEIGHT = 23, 17


def map_and_points(seed: int):
    """Moments of steps with some scatter, a corner without any surface; points all over, also beside the map."""
    g = torch.Generator().manual_seed(seed)
    alpha = torch.rand(HEIGHT, WIDTH, generator=g)
    alpha[:4, :5] = 0
    mean = 0.2 * torch.rand(HEIGHT, WIDTH, generator=g)
    square = mean**2 + 1e-3 * torch.rand(HEIGHT, WIDTH, generator=g)
    moments = torch.stack([alpha * mean, alpha * square, alpha], -1).requires_grad_()
    points = torch.rand(4000, 3, generator=g) * torch.tensor([1.3, 1.3, 0.3]) - torch.tensor([0.15, 0.15, 0.05])
    rows = torch.tensor([[20.0, 3.0, 1.5, 0.3], [-2.0, 16.0, -1.0, 0.7], [0.0, 0.0, 1.0, 0.004]])
    return moments, points, rows


@pytest.mark.parametrize("seed", range(3))
def test_light_and_gradients_are_those_of_torch(seed):
    moments, points, rows = map_and_points(seed)
    upstream = torch.rand(len(points), generator=torch.Generator().manual_seed(seed))
    lights, gradients = [], []
    for read in (sunlight_at, _sunlight_torch):
        lights.append(read(moments, points, rows, LEAST))
        gradients.append(torch.autograd.grad((lights[-1] * upstream).sum(), moments)[0])
    fused, plain = lights
    assert 0.2 < (plain < 0.99).float().mean() < 0.9
    torch.testing.assert_close(fused, plain, atol=2e-4, rtol=0)
    apart = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert apart < 1e-3
    assert ((gradients[0] == 0) == (gradients[1] == 0)).float().mean() > 0.99


def test_beside_the_map_the_sun_shines_and_nowhere_pulls_nothing():
    moments, _, rows = map_and_points(0)
    nowhere = torch.tensor([[50.0, 0, -1], [0, -50.0, -1], [torch.nan, 0, -1], [0, torch.inf, -1]])
    light = sunlight_at(moments, nowhere, rows, LEAST)
    torch.testing.assert_close(light[:2], torch.ones(2))
    light.sum().backward()
    assert moments.grad is not None and (moments.grad == 0).all()


def test_light_is_the_same_where_nobody_asks_for_gradients():
    moments, points, rows = map_and_points(0)
    plain = sunlight_at(moments.detach(), points, rows, LEAST)
    assert not plain.requires_grad
    torch.testing.assert_close(plain, sunlight_at(moments, points, rows, LEAST).detach(), atol=0, rtol=0)
