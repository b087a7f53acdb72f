"""FlowEdit against closed forms: constant velocity, exact flows of GaussianFlow distributions, and no change."""

import pytest
import torch
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners.flowedit_algorithm import EditSteps, check_steps, flow_edit_latents, steps_left_at
from skyfall_ns.refiners.view_noise import seeded_noise

SIGMAS = torch.linspace(1, 0, 29)


class ConstantFlow:
    """Flow whose velocity is the condition."""

    def velocity(self, z: Tensor, sigma: float, condition: float) -> Tensor:
        return torch.full_like(z, condition)


class GaussianFlow:
    """The exact flow of data N(mean, std^2); the condition is the mean."""

    std = 0.3

    def velocity(self, z: Tensor, sigma: float, mean: float) -> Tensor:
        variance = (1 - sigma) ** 2 * self.std**2 + sigma**2
        off = (z - (1 - sigma) * mean) / variance
        return sigma * off - (mean + (1 - sigma) * self.std**2 * off)


def draw_latents(seed: int = 0, n: int = 2) -> Tensor:
    return torch.randn((n, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def test_constant_velocity_has_a_closed_form():
    x = draw_latents()
    for n_max in (1, 10, 28):
        z = flow_edit_latents(ConstantFlow(), x, 0.25, 1.0, SIGMAS, EditSteps(n_max), seeded_noise([0, 1]))
        assert torch.allclose(z - x, torch.full_like(x, -0.75 * float(SIGMAS[28 - n_max])), atol=1e-6)


def test_one_gaussian_is_transported_to_another():
    x = 0.3 * draw_latents(n=64)
    z = flow_edit_latents(GaussianFlow(), x, 0.0, 1.0, SIGMAS, EditSteps(28), seeded_noise(range(64)))
    assert (z - x).mean().item() == pytest.approx(1.0, abs=0.06)  # error of 28 Euler steps: 0.05
    fine = torch.linspace(1, 0, 401)
    z = flow_edit_latents(GaussianFlow(), x, 0.0, 1.0, fine, EditSteps(400), seeded_noise(range(64)))
    assert (z - x).mean().item() == pytest.approx(1.0, abs=0.006)


def test_final_plain_steps_sample_the_target():
    """Sampling from pure noise to the end does not depend on the source image."""
    x = 5 + 0.3 * draw_latents(n=64)
    fine = torch.linspace(1, 0, 201)
    z = flow_edit_latents(GaussianFlow(), x, 0.0, 1.0, fine, EditSteps(200, 200), seeded_noise(range(64)))
    assert z.mean().item() == pytest.approx(1.0, abs=0.02) and z.std().item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(("n_max", "n_min", "n_avg"), [(10, 4, 1), (24, 0, 1), (10, 4, 3), (4, 4, 1)])
def test_edits_equal_the_published_algorithm(n_max, n_min, n_avg):
    """The paper integrates the edited latents instead of their change; the same noise gives the same result."""
    model, x, noise = GaussianFlow(), draw_latents(), seeded_noise([3, 4])
    edited = x.clone()
    for i in range(28 - n_max, 28 - n_min):
        sigma, change = float(SIGMAS[i]), torch.zeros_like(x)
        for k in range(n_avg):
            source = (1 - sigma) * x + sigma * noise(i, k, tuple(x.shape))
            target = edited + source - x
            change += (model.velocity(target, sigma, 1.0) - model.velocity(source, sigma, 0.0)) / n_avg
        edited = edited + (float(SIGMAS[i + 1]) - sigma) * change
    for i in range(28 - n_min, 28):
        sigma = float(SIGMAS[i])
        if i == 28 - n_min:
            edited = edited + (1 - sigma) * x + sigma * noise(i, 0, tuple(x.shape)) - x
        edited = edited + (float(SIGMAS[i + 1]) - sigma) * model.velocity(edited, sigma, 1.0)
    result = flow_edit_latents(model, x, 0.0, 1.0, SIGMAS, EditSteps(n_max, n_min, n_avg), seeded_noise([3, 4]))
    assert (result - edited).abs().max() < 2e-6


def test_no_steps_or_equal_conditions_change_nothing():
    x = draw_latents()
    no_steps = flow_edit_latents(GaussianFlow(), x, 0.0, 1.0, SIGMAS, EditSteps(0), seeded_noise([0, 1]))
    equal_conditions = flow_edit_latents(GaussianFlow(), x, 0.5, 0.5, SIGMAS, EditSteps(20), seeded_noise([0, 1]))
    assert torch.equal(no_steps, x) and torch.equal(equal_conditions, x)


def test_number_of_network_evaluations():
    class CountingFlow(GaussianFlow):
        def __init__(self):
            self.sigmas: list[float] = []

        def velocity(self, z, sigma, mean):
            self.sigmas.append(sigma)
            return super().velocity(z, sigma, mean)

    model = CountingFlow()
    flow_edit_latents(model, draw_latents(), 0.0, 1.0, SIGMAS, EditSteps(10, 4, 3), seeded_noise([0, 1]))
    assert len(model.sigmas) == 2 * 3 * (10 - 4) + 4
    assert max(model.sigmas) == pytest.approx(float(SIGMAS[18])) and min(model.sigmas) == pytest.approx(1 / 28)


def test_averaging_noise_draws_lowers_the_spread():
    """The change of a pixel depends less on the noise."""

    class CurvedFlow:
        def velocity(self, z, sigma, condition):
            return condition * z**2

    x = draw_latents(n=1)
    spread = []
    for n_avg in (1, 16):
        edits = [
            flow_edit_latents(CurvedFlow(), x, 0.0, 0.1, SIGMAS, EditSteps(8, 0, n_avg), seeded_noise([s]))
            for s in range(12)
        ]
        spread.append(torch.stack(edits).std(0).mean().item())
    assert spread[1] < 0.4 * spread[0]


def test_noise_depends_on_the_sample_not_on_the_batch():
    x = draw_latents(n=3)
    edit = lambda rows, seeds: flow_edit_latents(  # noqa: E731
        GaussianFlow(), x[rows], 0.0, 1.0, SIGMAS, EditSteps(12, 4, 2), seeded_noise(seeds)
    )
    together = edit(slice(0, 3), [7, 8, 9])
    assert torch.equal(together[1:2], edit(slice(1, 2), [8]))
    assert not torch.allclose(together[1:2], edit(slice(1, 2), [9]))


@pytest.mark.parametrize(
    ("steps", "flag"),
    [
        (EditSteps(3, 4), "n-min is 4"),
        (EditSteps(3, -1), "n-min is -1"),
        (EditSteps(29), "n-max is 29"),
        (EditSteps(3, 0, 0), "n-avg is 0"),
    ],
)
def test_impossible_counts_are_refused_by_flag(steps, flag):
    with pytest.raises(TrainingError, match=rf"--r\.{flag}.*\. Pass "):
        check_steps(steps, 28, "--r")
    check_steps(EditSteps(28, 28), 28, "--r")


def test_steps_left_at_the_nearest_noise_level():
    sigmas = torch.tensor([1.0, 0.9, 0.637, 0.345, 0.105, 0.0])
    assert [steps_left_at(sigmas, s) for s in (1.0, 0.64, 0.345, 0.04, 0.0)] == [5, 3, 2, 0, 0]
