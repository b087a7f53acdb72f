"""Relocated Gaussians equal one: closed forms of opacity and of the integral over a line."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from skyfall_ns.errors import TrainingError
from skyfall_ns.models.densification.mcmc import MCMCRelocation, compute_relocation, relocate_gaussians


def float64_tensor(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("opacity", [0.02, 0.5, 0.99, 1 - 1e-7])
@pytest.mark.parametrize("copies", [1, 2, 5, 51])
def test_relocated_gaussians_equal_one(opacity, copies):
    opacities, scales = compute_relocation(
        float64_tensor([opacity]), float64_tensor([[1.0, 2.0, 3.0]]), torch.tensor([copies])
    )
    o, s = opacities.item(), scales[0, 0].item()
    assert 1 - (1 - o) ** copies == pytest.approx(opacity, rel=1e-9)
    integral = quad(lambda x: 1 - (1 - o * math.exp(-x * x / (2 * s * s))) ** copies, -12 * s, 12 * s)[0]
    assert integral == pytest.approx(opacity * math.sqrt(2 * math.pi), rel=1e-5)  # of one Gaussian of scale 1
    torch.testing.assert_close(scales / scales[:, :1], float64_tensor([[1.0, 2.0, 3.0]]))


def test_scales_follow_the_double_sum_of_the_paper():
    """Equation 9 of arXiv:2404.09591 as it is printed (in its code)."""
    opacity, copies = 0.7, 6
    opacities, scales = compute_relocation(
        float64_tensor([opacity]), float64_tensor([[1.0] * 3]), torch.tensor([copies])
    )
    total = sum(
        math.comb(i - 1, k) * (-1) ** k * opacities.item() ** (k + 1) / math.sqrt(k + 1)
        for i in range(1, copies + 1)
        for k in range(i)
    )
    assert scales[0, 0].item() == pytest.approx(opacity / total, rel=1e-9)


def gaussian_parameters(opacities: np.ndarray):
    n = len(opacities)
    logits = torch.logit(torch.from_numpy(opacities).float())[:, None]
    values = {"means": torch.arange(3.0 * n).reshape(n, 3), "scales": torch.zeros(n, 3), "quats": torch.rand(n, 4),
              "features_dc": torch.rand(n, 3), "opacities": logits}  # fmt: skip
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in values.items()})
    optimizers = {name: torch.optim.Adam([p], lr=1e-9) for name, p in params.items()}
    for p, optimizer in zip(params.values(), optimizers.values(), strict=True):
        p.grad = torch.ones_like(p)
        optimizer.step()
    return params, optimizers


def test_dead_gaussians_are_relocated_to_living_ones():
    params, optimizers = gaussian_parameters(np.array([0.5, 0.001, 0.8, 0.002, 0.003]))
    before = {name: p.detach().clone() for name, p in params.items()}
    dead = torch.tensor([False, True, False, True, True])
    relocate_gaussians(params, optimizers, dead, torch.tensor([2, 0, 2]))
    for name in ("means", "quats", "features_dc"):
        torch.testing.assert_close(params[name].detach(), before[name][[0, 2, 2, 0, 2]])
    o = params["opacities"].detach().flatten().sigmoid()
    torch.testing.assert_close(1 - (1 - o[2]) ** 3, torch.tensor(0.8))
    torch.testing.assert_close(1 - (1 - o[0]) ** 2, torch.tensor(0.5))
    assert o[1] == o[2] == o[4] and o[0] == o[3]
    for name, optimizer in optimizers.items():
        assert optimizer.param_groups[0]["params"] == [params[name]]
        assert optimizer.state[params[name]]["exp_avg"].abs().max() == 0
        assert optimizer.state[params[name]]["step"] == 1


def test_other_gaussians_keep_their_optimizer_moments():
    params, optimizers = gaussian_parameters(np.array([0.5, 0.001, 0.8]))
    relocate_gaussians(params, optimizers, torch.tensor([False, True, False]), torch.tensor([0]))
    moments = optimizers["means"].state[params["means"]]["exp_avg"]
    assert moments[:2].abs().max() == 0 and moments[2].min() > 0


def test_targets_are_sampled_by_opacity_at_the_relocation_steps():
    torch.manual_seed(0)
    opacities = np.concatenate([np.full(900, 0.001), np.full(50, 0.9), np.full(50, 0.1)])
    params, optimizers = gaussian_parameters(opacities)
    strategy = MCMCRelocation(dead_opacity=0.02, start_step=100, stop_step=300, relocate_every=50)
    means_before = params["means"]
    for step in (0, 50, 100, 149, 300, 350):
        strategy.step_post_backward(params, optimizers, {}, step, {})
    assert params["means"] is means_before
    strategy.step_post_backward(params, optimizers, {}, 150, {})
    indices = (params["means"].detach()[:, 0] / 3).long()
    assert len(indices) == 1000 and (indices >= 900).all()
    assert (indices < 950).sum() / 1000 == pytest.approx(0.9, abs=0.05)


def test_a_scene_without_living_gaussians_is_refused():
    params, optimizers = gaussian_parameters(np.full(4, 0.001))
    with pytest.raises(TrainingError, match=r"no Gaussian is more opaque than 0\.02\. Use more images"):
        MCMCRelocation(0.02, 0, 100, 1).step_post_backward(params, optimizers, {}, 1, {})
