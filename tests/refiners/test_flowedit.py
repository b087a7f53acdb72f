"""FlowEdit against closed forms: constant velocity, exact flows of Gaussians, and what must change nothing."""

import pytest
import torch
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners.flowedit import EditSteps, check_steps, flow_edit_latents, steps_left_at
from skyfall_ns.refiners.view_noise import seeded_noise

SIGMAS = torch.linspace(1, 0, 29)


class Constant:
    """dz/dsigma is the condition."""

    def velocity(self, z: Tensor, sigma: float, condition: float) -> Tensor:
        return torch.full_like(z, condition)


class Gaussian:
    """The exact flow of data N(mean, std^2); the condition is the mean."""

    std = 0.3

    def velocity(self, z: Tensor, sigma: float, mean: float) -> Tensor:
        variance = (1 - sigma) ** 2 * self.std**2 + sigma**2
        off = (z - (1 - sigma) * mean) / variance
        return sigma * off - (mean + (1 - sigma) * self.std**2 * off)


def latents(seed: int = 0, n: int = 2) -> Tensor:
    return torch.randn((n, 4, 8, 8), generator=torch.Generator().manual_seed(seed))


def test_constant_velocity_has_a_closed_form():
    x = latents()
    for n_max in (1, 10, 28):
        z = flow_edit_latents(Constant(), x, 0.25, 1.0, SIGMAS, EditSteps(n_max), seeded_noise([0, 1]))
        assert torch.allclose(z - x, torch.full_like(x, -0.75 * float(SIGMAS[28 - n_max])), atol=1e-6)


def test_gaussians_are_transported_onto_each_other():
    x = 0.3 * latents(n=64)
    z = flow_edit_latents(Gaussian(), x, 0.0, 1.0, SIGMAS, EditSteps(28), seeded_noise(range(64)))
    assert (z - x).mean().item() == pytest.approx(1.0, abs=0.06)  # Euler's error; 0.05 in 28 steps
    fine = torch.linspace(1, 0, 401)
    z = flow_edit_latents(Gaussian(), x, 0.0, 1.0, fine, EditSteps(400), seeded_noise(range(64)))
    assert (z - x).mean().item() == pytest.approx(1.0, abs=0.006)


def test_the_tail_samples_the_target():
    """Sampling from pure noise to the end, the source's picture is forgotten."""
    x = 5 + 0.3 * latents(n=64)
    fine = torch.linspace(1, 0, 201)
    z = flow_edit_latents(Gaussian(), x, 0.0, 1.0, fine, EditSteps(200, 200), seeded_noise(range(64)))
    assert z.mean().item() == pytest.approx(1.0, abs=0.02) and z.std().item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize(("n_max", "n_min", "n_avg"), [(10, 4, 1), (24, 0, 1), (10, 4, 3), (4, 4, 1)])
def test_it_is_the_published_algorithm(n_max, n_min, n_avg):
    """The paper's form follows the edited latents instead of their change; the same noise gives the same answer."""
    model, x, noise = Gaussian(), latents(), seeded_noise([3, 4])
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
    ours = flow_edit_latents(model, x, 0.0, 1.0, SIGMAS, EditSteps(n_max, n_min, n_avg), seeded_noise([3, 4]))
    assert (ours - edited).abs().max() < 2e-6


def test_what_changes_nothing():
    x = latents()
    nothing = flow_edit_latents(Gaussian(), x, 0.0, 1.0, SIGMAS, EditSteps(0), seeded_noise([0, 1]))
    same = flow_edit_latents(Gaussian(), x, 0.5, 0.5, SIGMAS, EditSteps(20), seeded_noise([0, 1]))
    assert torch.equal(nothing, x) and torch.equal(same, x)


def test_evaluations_are_as_many_as_promised():
    class Counting(Gaussian):
        def __init__(self):
            self.asked: list[float] = []

        def velocity(self, z, sigma, mean):
            self.asked.append(sigma)
            return super().velocity(z, sigma, mean)

    model = Counting()
    flow_edit_latents(model, latents(), 0.0, 1.0, SIGMAS, EditSteps(10, 4, 3), seeded_noise([0, 1]))
    assert len(model.asked) == 2 * 3 * (10 - 4) + 4
    assert max(model.asked) == pytest.approx(float(SIGMAS[18])) and min(model.asked) == pytest.approx(1 / 28)


def test_averaging_draws_lowers_the_spread():
    """The change of a pixel depends on the draw less and less."""

    class Curved:
        def velocity(self, z, sigma, condition):
            return condition * z**2

    x = latents(n=1)
    spread = []
    for n_avg in (1, 16):
        edits = [
            flow_edit_latents(Curved(), x, 0.0, 0.1, SIGMAS, EditSteps(8, 0, n_avg), seeded_noise([s]))
            for s in range(12)
        ]
        spread.append(torch.stack(edits).std(0).mean().item())
    assert spread[1] < 0.4 * spread[0]


def test_noise_belongs_to_the_sample():
    x = latents(n=3)
    edit = lambda rows, seeds: flow_edit_latents(  # noqa: E731
        Gaussian(), x[rows], 0.0, 1.0, SIGMAS, EditSteps(12, 4, 2), seeded_noise(seeds)
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
def test_impossible_counts_name_the_flag(steps, flag):
    with pytest.raises(TrainingError, match=rf"--r\.{flag}.*\. Pass "):
        check_steps(steps, 28, "--r")
    check_steps(EditSteps(28, 28), 28, "--r")


def test_noise_levels_become_the_nearest_of_the_schedule():
    sigmas = torch.tensor([1.0, 0.9, 0.637, 0.345, 0.105, 0.0])
    assert [steps_left_at(sigmas, s) for s in (1.0, 0.64, 0.345, 0.04, 0.0)] == [5, 3, 2, 0, 0]
