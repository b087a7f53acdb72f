"""The fused lookup against torch's operations: visibility and gradients."""

import pytest
import torch

from skyfall_ns.models.appearance.shadow_lookup import _sample_with_torch, sample_sun_visibility

MIN_VARIANCE = 4e-6
WIDTH, HEIGHT = 23, 17


def random_map_and_points(seed: int):
    """Random moments with a corner without a surface; points inside and outside the map."""
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
def test_visibility_and_gradients_equal_those_of_torch(seed):
    moments, points, rows = random_map_and_points(seed)
    upstream = torch.rand(len(points), generator=torch.Generator().manual_seed(seed))
    visibilities, gradients = [], []
    for sample in (sample_sun_visibility, _sample_with_torch):
        visibilities.append(sample(moments, points, rows, MIN_VARIANCE))
        gradients.append(torch.autograd.grad((visibilities[-1] * upstream).sum(), moments)[0])
    fused, plain = visibilities
    assert 0.2 < (plain < 0.99).float().mean() < 0.9
    torch.testing.assert_close(fused, plain, atol=2e-4, rtol=0)
    difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert difference < 1e-3
    assert ((gradients[0] == 0) == (gradients[1] == 0)).float().mean() > 0.99


def test_points_outside_the_map_are_in_the_sun_and_have_no_gradient():
    moments, _, rows = random_map_and_points(0)
    outside = torch.tensor([[50.0, 0, -1], [0, -50.0, -1], [torch.nan, 0, -1], [0, torch.inf, -1]])
    visibility = sample_sun_visibility(moments, outside, rows, MIN_VARIANCE)
    torch.testing.assert_close(visibility[:2], torch.ones(2))
    visibility.sum().backward()
    assert moments.grad is not None and (moments.grad == 0).all()


def test_visibility_without_gradients_is_the_same():
    moments, points, rows = random_map_and_points(0)
    plain = sample_sun_visibility(moments.detach(), points, rows, MIN_VARIANCE)
    assert not plain.requires_grad
    torch.testing.assert_close(
        plain, sample_sun_visibility(moments, points, rows, MIN_VARIANCE).detach(), atol=0, rtol=0
    )
