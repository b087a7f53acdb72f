"""Learning rates of an episode: those of the configuration, not of a checkpoint, and exact after a resume."""

import copy

import pytest
import torch
from nerfstudio.engine.optimizers import Optimizers

from skyfall_ns.idu.learning_rates import reset_learning_rates
from skyfall_ns.nerfstudio_patches import FusedAdamConfig, PlainExponentialDecayConfig


def make_table(rate: float, final_rate: float, steps: int) -> dict:
    """Configuration of an optimizer with a schedule and of one without."""
    return {
        "decaying": {
            "optimizer": FusedAdamConfig(lr=rate),
            "scheduler": PlainExponentialDecayConfig(lr_final=final_rate, max_steps=steps),
        },
        "constant": {"optimizer": FusedAdamConfig(lr=10 * rate), "scheduler": None},
    }


def make_optimizers(table: dict) -> Optimizers:
    generator = torch.Generator().manual_seed(0)
    groups = {name: [torch.nn.Parameter(torch.rand(4, generator=generator))] for name in table}
    return Optimizers(copy.deepcopy(table), groups)


def make_step(optimizers: Optimizers) -> dict[str, float]:
    """One step as Nerfstudio makes it; returns the learning rates of the step."""
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.optimizers.items()}
    for optimizer in optimizers.optimizers.values():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for scheduler in optimizers.schedulers.values():
        scheduler.step()
    return rates


def checkpoint_state(optimizers: Optimizers) -> tuple[dict, dict]:
    """States of optimizers and schedulers as in checkpoints."""
    return (
        {name: copy.deepcopy(o.state_dict()) for name, o in optimizers.optimizers.items()},
        {name: copy.deepcopy(s.state_dict()) for name, s in optimizers.schedulers.items()},
    )


@pytest.fixture
def loaded():
    """Optimizers of stage 2 with the loaded state of the end of stage 1; their configuration."""
    stage1_optimizers = make_optimizers(make_table(1.0, 0.01, 50))
    for _ in range(20):
        make_step(stage1_optimizers)
    table = make_table(0.2, 0.1, 700)
    optimizers = make_optimizers(table)
    optimizer_states, scheduler_states = checkpoint_state(stage1_optimizers)
    optimizers.load_optimizers(optimizer_states)
    optimizers.load_schedulers(scheduler_states)
    assert optimizers.optimizers["constant"].param_groups[0]["lr"] == 10.0  # of stage 1
    return optimizers, table


def test_configured_rates_replace_loaded_ones(loaded):
    optimizers, table = loaded
    moments = optimizers.optimizers["decaying"].state_dict()["state"][0]["exp_avg"].clone()
    reset_learning_rates(optimizers, table, 0, 10, 1.0)
    rates = [make_step(optimizers) for _ in range(12)]
    assert [r["constant"] for r in rates] == [2.0] * 12
    expected = [0.2 * 0.5 ** min(done / 10, 1) for done in range(12)]  # over the episode, then constant
    assert [r["decaying"] for r in rates] == pytest.approx(expected, rel=1e-12)
    assert moments.abs().min() > 0 and table["decaying"]["scheduler"].max_steps == 700  # both unchanged


def test_factor_scales_all_rates(loaded):
    optimizers, table = loaded
    reset_learning_rates(optimizers, table, 0, 10, 0.25)
    rates = [make_step(optimizers) for _ in range(12)]
    assert [r["constant"] for r in rates] == [0.5] * 12
    expected = [0.05 * 0.5 ** min(done / 10, 1) for done in range(12)]
    assert [r["decaying"] for r in rates] == pytest.approx(expected, rel=1e-12)


def test_each_episode_restarts_the_schedule(loaded):
    optimizers, table = loaded
    for steps in (10, 4):
        reset_learning_rates(optimizers, table, 0, steps, 1.0)
        rates = [make_step(optimizers)["decaying"] for _ in range(steps)]
        assert rates == pytest.approx([0.2 * 0.5 ** (done / steps) for done in range(steps)], rel=1e-12)


@pytest.mark.parametrize("done", [1, 5, 9])
def test_rates_are_identical_after_a_resume(loaded, done):
    uninterrupted, table = loaded
    reset_learning_rates(uninterrupted, table, 0, 10, 1.0)
    for _ in range(done):
        make_step(uninterrupted)
    optimizer_states, scheduler_states = checkpoint_state(uninterrupted)
    resumed = make_optimizers(table)
    resumed.load_optimizers(optimizer_states)
    resumed.load_schedulers(scheduler_states)
    reset_learning_rates(resumed, table, done, 10, 1.0)
    for _ in range(10 - done):
        assert make_step(resumed) == make_step(uninterrupted)
    assert checkpoint_state(resumed)[1] == checkpoint_state(uninterrupted)[1]
