"""Splats that share a place look like one: closed forms of opacity and of the integral over a line."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from skyfall_ns.errors import TrainingError
from skyfall_ns.models.densification.mcmc import Relocation, relocate, shared


def exact(values: list) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("opacity", [0.02, 0.5, 0.99, 1 - 1e-7])
@pytest.mark.parametrize("number", [1, 2, 5, 51])
def test_together_they_look_like_one(opacity, number):
    each, scales = shared(exact([opacity]), exact([[1.0, 2.0, 3.0]]), torch.tensor([number]))
    o, s = each.item(), scales[0, 0].item()
    assert 1 - (1 - o) ** number == pytest.approx(opacity, rel=1e-9)
    integral = quad(lambda x: 1 - (1 - o * math.exp(-x * x / (2 * s * s))) ** number, -12 * s, 12 * s)[0]
    assert integral == pytest.approx(opacity * math.sqrt(2 * math.pi), rel=1e-5)  # of one splat of scale 1
    torch.testing.assert_close(scales / scales[:, :1], exact([[1.0, 2.0, 3.0]]))


def test_the_papers_double_sum():
    """Equation 9 of arXiv:2404.09591 as it is printed (in its code)."""
    opacity, number = 0.7, 6
    each, scales = shared(exact([opacity]), exact([[1.0] * 3]), torch.tensor([number]))
    total = sum(
        math.comb(i - 1, k) * (-1) ** k * each.item() ** (k + 1) / math.sqrt(k + 1)
        for i in range(1, number + 1)
        for k in range(i)
    )
    assert scales[0, 0].item() == pytest.approx(opacity / total, rel=1e-9)


def parameters(opacities: np.ndarray):
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


def test_dead_splats_stand_on_living_ones():
    params, optimizers = parameters(np.array([0.5, 0.001, 0.8, 0.002, 0.003]))
    before = {name: p.detach().clone() for name, p in params.items()}
    dead = torch.tensor([False, True, False, True, True])
    relocate(params, optimizers, dead, torch.tensor([2, 0, 2]))
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


def test_bystanders_keep_their_past():
    params, optimizers = parameters(np.array([0.5, 0.001, 0.8]))
    relocate(params, optimizers, torch.tensor([False, True, False]), torch.tensor([0]))
    moments = optimizers["means"].state[params["means"]]["exp_avg"]
    assert moments[:2].abs().max() == 0 and moments[2].min() > 0


def test_opaque_ones_are_chosen_at_their_steps():
    torch.manual_seed(0)
    opacities = np.concatenate([np.full(900, 0.001), np.full(50, 0.9), np.full(50, 0.1)])
    params, optimizers = parameters(opacities)
    strategy, held = Relocation(dead_opacity=0.02, start=100, stop=300, every=50), params["means"]
    for step in (0, 50, 100, 149, 300, 350):
        strategy.step_post_backward(params, optimizers, {}, step, {})
    assert params["means"] is held
    strategy.step_post_backward(params, optimizers, {}, 150, {})
    places = (params["means"].detach()[:, 0] / 3).long()
    assert len(places) == 1000 and (places >= 900).all()
    assert (places < 950).sum() / 1000 == pytest.approx(0.9, abs=0.05)


def test_nothing_alive_is_said_in_words():
    params, optimizers = parameters(np.full(4, 0.001))
    with pytest.raises(TrainingError, match=r"no splat is more opaque than 0\.02\. Use more images"):
        Relocation(0.02, 0, 100, 1).step_post_backward(params, optimizers, {}, 1, {})
