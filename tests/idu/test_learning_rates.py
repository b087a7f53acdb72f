"""Rates of an episode are the configured ones, whatever a checkpoint brought, and go on in the middle as if nothing had
happened."""

import copy

import pytest
import torch
from nerfstudio.engine.optimizers import Optimizers

from skyfall_ns.idu.learning_rates import restart_rates
from skyfall_ns.nerfstudio_patches import FusedAdamConfig, PlainExponentialDecayConfig


def table_of(rate: float, final: float, steps: int) -> dict:
    return {
        "falling": {
            "optimizer": FusedAdamConfig(lr=rate),
            "scheduler": PlainExponentialDecayConfig(lr_final=final, max_steps=steps),
        },
        "constant": {"optimizer": FusedAdamConfig(lr=10 * rate), "scheduler": None},
    }


def optimizers_of(table: dict) -> Optimizers:
    generator = torch.Generator().manual_seed(0)
    groups = {name: [torch.nn.Parameter(torch.rand(4, generator=generator))] for name in table}
    return Optimizers(copy.deepcopy(table), groups)


def step(optimizers: Optimizers) -> dict[str, float]:
    """One step as the host makes it; the rates it had."""
    rates = {name: optimizer.param_groups[0]["lr"] for name, optimizer in optimizers.optimizers.items()}
    for optimizer in optimizers.optimizers.values():
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.ones_like(parameter)
        optimizer.step()
    for scheduler in optimizers.schedulers.values():
        scheduler.step()
    return rates


def state_of(optimizers: Optimizers) -> tuple[dict, dict]:
    """As checkpoints have it."""
    return (
        {name: copy.deepcopy(o.state_dict()) for name, o in optimizers.optimizers.items()},
        {name: copy.deepcopy(s.state_dict()) for name, s in optimizers.schedulers.items()},
    )


@pytest.fixture
def from_stage1():
    """Optimizers of stage 2, over which the end of stage 1 was loaded; their configuration."""
    before = optimizers_of(table_of(1.0, 0.01, 50))
    for _ in range(20):
        step(before)
    table = table_of(0.2, 0.1, 700)
    optimizers = optimizers_of(table)
    optimizer_states, scheduler_states = state_of(before)
    optimizers.load_optimizers(optimizer_states)
    optimizers.load_schedulers(scheduler_states)
    assert optimizers.optimizers["constant"].param_groups[0]["lr"] == 10.0  # what is to be undone
    return optimizers, table


def test_configured_rates_rule_over_loaded_ones(from_stage1):
    optimizers, table = from_stage1
    moments = optimizers.optimizers["falling"].state_dict()["state"][0]["exp_avg"].clone()
    restart_rates(optimizers, table, 0, 10, 1.0)
    rates = [step(optimizers) for _ in range(12)]
    assert [r["constant"] for r in rates] == [2.0] * 12
    expected = [0.2 * 0.5 ** min(done / 10, 1) for done in range(12)]  # over the episode, then constant
    assert [r["falling"] for r in rates] == pytest.approx(expected, rel=1e-12)
    assert moments.abs().min() > 0 and table["falling"]["scheduler"].max_steps == 700  # neither is touched


def test_a_factor_slows_all_rates_alike(from_stage1):
    optimizers, table = from_stage1
    restart_rates(optimizers, table, 0, 10, 0.25)
    rates = [step(optimizers) for _ in range(12)]
    assert [r["constant"] for r in rates] == [0.5] * 12
    assert [r["falling"] for r in rates] == pytest.approx([0.05 * 0.5 ** min(d / 10, 1) for d in range(12)], rel=1e-12)


def test_each_episode_begins_anew(from_stage1):
    optimizers, table = from_stage1
    for steps in (10, 4):
        restart_rates(optimizers, table, 0, steps, 1.0)
        rates = [step(optimizers)["falling"] for _ in range(steps)]
        assert rates == pytest.approx([0.2 * 0.5 ** (done / steps) for done in range(steps)], rel=1e-12)


@pytest.mark.parametrize("done", [1, 5, 9])
def test_a_run_that_goes_on_has_the_same_rates_to_the_last_bit(from_stage1, done):
    whole, table = from_stage1
    restart_rates(whole, table, 0, 10, 1.0)
    for _ in range(done):
        step(whole)
    optimizer_states, scheduler_states = state_of(whole)
    resumed = optimizers_of(table)
    resumed.load_optimizers(optimizer_states)
    resumed.load_schedulers(scheduler_states)
    restart_rates(resumed, table, done, 10, 1.0)
    for _ in range(10 - done):
        assert step(resumed) == step(whole)
    assert state_of(resumed)[1] == state_of(whole)[1]
