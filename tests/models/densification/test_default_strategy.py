"""Densification by gradients: statistics of gsplat, candidates of the reference, the largest gradients at the cap."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gsplat.strategy import DefaultStrategy

from skyfall_ns.models.densification.default_strategy import CappedDefaultStrategy, select_strongest

N = 50


def random_info(generator: torch.Generator) -> dict:
    probe = SimpleNamespace(
        grad=torch.randn(1, N, 2, generator=generator), absgrad=torch.rand(1, N, 2, generator=generator)
    )
    radii = torch.randint(-2, 9, (1, N), generator=generator, dtype=torch.int32)
    return {"width": 320, "height": 200, "n_cameras": 1, "radii": radii, "gaussian_ids": None, "means2d": probe}


def random_gaussians(**changes: torch.Tensor) -> tuple[torch.nn.ParameterDict, dict[str, torch.optim.Optimizer]]:
    g = torch.Generator().manual_seed(1)
    values = {
        "means": torch.randn(N, 3, generator=g),
        "scales": torch.randn(N, 3, generator=g),
        "quats": torch.randn(N, 4, generator=g),
        "opacities": torch.randn(N, 1, generator=g),
    } | changes
    params = torch.nn.ParameterDict({name: torch.nn.Parameter(value) for name, value in values.items()})
    optimizers = {name: torch.optim.Adam([p], lr=0.1) for name, p in params.items()}
    for p, optimizer in zip(params.values(), optimizers.values(), strict=True):
        p.grad = torch.ones_like(p)
        optimizer.step()
    return params, optimizers


@pytest.mark.parametrize("absgrad", [True, False])
@pytest.mark.parametrize("stop", [0, 100])
def test_statistics_equal_those_of_gsplat(absgrad, stop):
    params = {"means": torch.zeros(N, 3)}
    states = []
    for strategy_class in (DefaultStrategy, CappedDefaultStrategy):
        g = torch.Generator().manual_seed(0)
        strategy = strategy_class(absgrad=absgrad, refine_scale2d_stop_iter=stop)
        state = strategy.initialize_state()
        for _ in range(3):
            strategy._update_state(params, state, random_info(g))
        states.append(state)
    for key in ("grad2d", "count", *(("radii",) if stop else ())):
        torch.testing.assert_close(states[1][key], states[0][key])
    assert states[1]["grad2d"].max() > 0


@pytest.mark.parametrize("stop", [0, 10_000])
def test_a_refinement_below_the_cap_equals_that_of_gsplat(stop):
    """After the first opacity reset, when gsplat 1.4.0 uses sizes too."""
    results = []
    for strategy_class in (DefaultStrategy, CappedDefaultStrategy):
        params, optimizers = random_gaussians()
        strategy = strategy_class(
            grow_grad2d=150.0, grow_scale3d=2.0, prune_scale3d=6.0, grow_scale2d=1.0, prune_scale2d=0.0235,
            refine_scale2d_stop_iter=stop, refine_start_iter=1, reset_every=3000, absgrad=False, prune_opa=0.3,
        )  # fmt: skip
        state, g = strategy.initialize_state(), torch.Generator().manual_seed(0)
        torch.manual_seed(5)
        for step in (3299, 3300):
            strategy.step_post_backward(params, optimizers, state, step, random_info(g))
        results.append((params, optimizers, state))
    (theirs, their_optimizers, _), (ours, our_optimizers, state) = results
    assert len(ours["means"]) != N
    for name in theirs:
        torch.testing.assert_close(ours[name], theirs[name])
        moments = [o[name].state[p[name]]["exp_avg"] for o, p in ((their_optimizers, theirs), (our_optimizers, ours))]
        torch.testing.assert_close(moments[1], moments[0])
    assert state["grad2d"].abs().max() == 0 and len(state["grad2d"]) == len(ours["means"])


def test_candidates_equal_those_of_the_reference():
    """g >= threshold or a >= quantile(a, 1 - share of g >= threshold), as in Skyfall-GS' densification."""
    strategy = CappedDefaultStrategy(grow_grad2d=150.0, absgrad=False, abs_quantile=True)
    state, g = strategy.initialize_state(), torch.Generator().manual_seed(0)
    sums, absolutes, counts = np.zeros(N), np.zeros(N), np.zeros(N)
    for _ in range(4):
        info = random_info(g)
        strategy._update_state({}, state, info)
        visible = info["radii"][0].numpy() > 0
        half_size = np.array([160.0, 100.0])
        sums += visible * np.linalg.norm(info["means2d"].grad[0].numpy() * half_size, axis=1)
        absolutes += visible * (info["means2d"].absgrad[0].numpy() * half_size).sum(1)
        counts += visible
    mean, absolute = sums / counts.clip(1), absolutes / counts.clip(1)
    fraction = (mean >= 150.0).mean()
    expected = (mean >= 150.0) | (absolute >= np.quantile(absolute, 1 - fraction))
    _, selected = strategy.select_candidates(state)
    np.testing.assert_array_equal(selected.numpy(), expected)
    assert (mean >= 150.0).sum() < expected.sum() < N
    assert strategy.needs_absgrad(100) and not strategy.needs_absgrad(10**6)


def test_near_the_cap_only_the_largest_gradients_are_densified():
    cap = N + 7
    marks = torch.arange(N, dtype=torch.float32)[:, None].repeat(1, 3)
    params, optimizers = random_gaussians(
        means=marks.clone(), scales=torch.full((N, 3), -9.0), opacities=torch.ones(N, 1)
    )
    before = params["means"].detach().clone()
    strategy = CappedDefaultStrategy(
        grow_grad2d=0.0, grow_scale3d=1.0, refine_start_iter=1, max_gaussians=cap, absgrad=False
    )
    state, g = strategy.initialize_state(), torch.Generator().manual_seed(0)
    for _ in range(2):
        info = random_info(g)
        info["radii"] = info["radii"].clamp_min(1)
        strategy._update_state({}, state, info)
    order = torch.argsort(state["grad2d"], descending=True)
    strategy._grow_gs(params, optimizers, state, 100)
    assert len(params["means"]) == cap
    torch.testing.assert_close(params["means"][N:].sort(0).values, before[order[:7]].sort(0).values)
    strategy._grow_gs(params, optimizers, state, 200)
    assert len(params["means"]) == cap


def test_select_strongest_returns_at_most_the_available_ones():
    gradients, among = torch.tensor([5.0, 4.0, 3.0, 2.0]), torch.tensor([False, True, True, True])
    assert select_strongest(gradients, among, 2).tolist() == [False, True, True, False]
    assert select_strongest(gradients, among, 9).tolist() == among.tolist()
    assert not select_strongest(gradients, among, -3).any()
