"""Depth losses: known values, invariances, and no NaN for any input."""

import pytest
import torch

from skyfall_ns.models.geometry import depth_losses

NAMES = ["pearson", "pearson_patch", "rank", "modgs_ordinal", "ssi", "gradient"]


def random_depth(seed: int = 0, size: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 250 + 20 * torch.rand(size, size, generator=generator, dtype=torch.float64)


def evaluate_loss(name: str, pred, target, valid=None):
    return depth_losses.depth_loss_function(name)(pred, target, valid, torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", NAMES)
def test_truth_up_to_scale_and_shift_is_the_minimum(name):
    truth = random_depth()
    at_truth = evaluate_loss(name, 3.0 * truth + 40.0, truth)
    elsewhere = evaluate_loss(name, random_depth(1), truth)
    assert at_truth < 0.35 * elsewhere


@pytest.mark.parametrize("name", ["pearson", "pearson_patch", "ssi", "gradient"])
def test_losses_are_zero_at_the_truth(name):
    assert evaluate_loss(name, 0.5 * random_depth() - 3.0, random_depth()).item() == pytest.approx(0.0, abs=2e-2)


def test_pearson_equals_the_closed_form():
    p, t = random_depth(0), random_depth(0) + random_depth(2)
    expected = 1 - torch.corrcoef(torch.stack([p.flatten(), t.flatten()]))[0, 1]
    assert depth_losses.pearson_loss(p, t).item() == pytest.approx(expected.item(), abs=0.02)


def test_opposite_order_is_the_worst():
    truth = random_depth()
    assert depth_losses.pearson_loss(-truth, truth).item() == pytest.approx(2.0, abs=0.03)
    assert evaluate_loss("modgs_ordinal", -truth, truth).item() == pytest.approx(2.0, abs=0.01)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", ["inf", "nan", "constant target", "constant pred", "empty", "all invalid"])
def test_losses_are_never_nan(name, case):
    pred, target, valid = random_depth(0), random_depth(1), torch.ones(96, 96, dtype=torch.bool)
    if case == "inf":
        target[:40] = torch.inf
    elif case == "nan":
        target[5, 5] = torch.nan
        pred[7, 7] = torch.nan
    elif case == "constant target":
        target[:] = 3.0
    elif case == "constant pred":
        pred[:] = 3.0
    elif case == "empty":
        pred, target, valid = pred[:0], target[:0], valid[:0]
    else:
        valid[:] = False
    pred = pred.clone().requires_grad_()
    loss = evaluate_loss(name, pred, target, valid)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(pred.grad).all()
    if case in ("constant target", "all invalid"):
        assert loss.item() == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_masked_pixels_have_no_influence(name):
    pred, target = random_depth(0), random_depth(1)
    valid = torch.rand(96, 96, generator=torch.Generator().manual_seed(3)) > 0.3
    changed = torch.where(valid, target, torch.full_like(target, 9e9))
    assert evaluate_loss(name, pred, changed, valid).item() == pytest.approx(
        evaluate_loss(name, pred, target, valid).item(), rel=1e-9
    )


@pytest.mark.parametrize("name", NAMES)
def test_gradient_descent_recovers_the_truth(name):
    y, x = torch.meshgrid(torch.arange(48.0), torch.arange(48.0), indexing="ij")
    truth = 280 + 0.2 * x - 20.0 * ((x - 24).abs() < 8) * ((y - 24).abs() < 8)
    pred = (280 + 0.2 * x + 0.0 * y).clone().requires_grad_()
    optimizer = torch.optim.Adam([pred], lr=0.3)
    start = depth_losses.pearson_loss(pred.detach(), truth).item()
    for step in range(60):
        optimizer.zero_grad()
        depth_losses.depth_loss_function(name)(pred, truth, None, torch.Generator().manual_seed(step)).backward()
        optimizer.step()
    assert depth_losses.pearson_loss(pred.detach(), truth).item() < 0.5 * start
