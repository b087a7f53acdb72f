"""Training losses and metrics: known values, masks, gradients."""

import pytest
import torch

from skyfall_ns.models import losses
from skyfall_ns.models.geometry.height_map import edge_mask
from skyfall_ns.models.metrics import fit_gain_bias, image_scores, psnr, split_mask
from skyfall_ns.models.ssim import ssim


def random_images(seed=0):
    g = torch.Generator().manual_seed(seed)
    target = torch.rand(40, 30, 3, generator=g)
    return (target + 0.1 * torch.randn(40, 30, 3, generator=g)).clamp(0, 1), target


def test_the_photometric_loss_follows_its_formula():
    pred, target = random_images()
    expected = 0.8 * (pred - target).abs().mean() + 0.2 * (1 - ssim(pred, target))
    assert losses.photometric_loss(pred, target).item() == pytest.approx(expected.item(), abs=1e-6)
    assert losses.photometric_loss(target, target).item() == pytest.approx(0, abs=1e-6)


def test_masked_pixels_have_no_gradient():
    pred, target = random_images()
    mask = torch.ones(40, 30, 1)
    mask[:, :10] = 0
    pred.requires_grad_()
    losses.photometric_loss(pred, target, mask).backward()
    assert pred.grad[:, :10].abs().max() == 0
    assert pred.grad[:, 12:].abs().max() > 0


@pytest.mark.parametrize(("height", "width", "channels"), [(11, 40, 3), (37, 12, 1), (64, 50, 3)])
@pytest.mark.parametrize("masked", [True, False])
def test_the_fused_photometric_loss_equals_that_of_torch(height, width, channels, masked):
    g = torch.Generator().manual_seed(height)
    target = (1.3 * torch.rand(height, width, channels, generator=g)).clamp_max(1)
    pred = (target + 0.2 * torch.randn(target.shape, generator=g)).requires_grad_()
    mask = (torch.rand(height, width, 1, generator=g) > 0.2).float() if masked else None
    values = [loss(pred, target, mask, 0.2) for loss in (losses.photometric_loss, losses.photometric_loss_with_torch)]
    assert values[0].item() == pytest.approx(values[1].item(), rel=1e-5)
    fused, plain = (torch.autograd.grad(3 * value, pred)[0] for value in values)
    torch.testing.assert_close(fused, plain, rtol=1e-3, atol=1e-4 * float(plain.abs().max()))


def test_saturated_targets_are_lower_bounds():
    pred, target = random_images()
    target[10:20, 5:15] = 1.0
    pred[10:15, 5:15], pred[15:20, 5:15] = 1.7, 0.4
    clipped = torch.where(target == 1, pred.clamp(max=1), pred)
    expected = 0.8 * (clipped - target).abs().mean() + 0.2 * (1 - ssim(clipped, target))
    pred.requires_grad_()
    loss = losses.photometric_loss(pred, target)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)
    assert pred.grad[10:15, 5:15].abs().max() == 0  # above the saturation of the sensor
    assert pred.grad[15:20, 5:15].max() < 0  # below it
    white = torch.ones(40, 30, 3)
    assert losses.photometric_loss(2 * white, white).item() == pytest.approx(0, abs=1e-4)
    half = white.clone()
    half[..., 1:] = 0.5  # only saturated bands are lower bounds
    assert losses.photometric_loss(2 * white, half, ssim_weight=0.0).item() == pytest.approx(1.0)


def test_surface_loss_is_robust_and_weighted():
    surface = torch.zeros(4, 4)
    height = torch.zeros(4, 4)
    height[0, 0], height[1, 1], height[2, 2] = 0.5, 100.0, torch.nan
    weight = torch.ones(4, 4)
    weight[2, 2] = 0
    assert losses.surface_loss(height, surface, weight).item() == pytest.approx((0.5 + 2.0) / 15)
    assert losses.surface_loss(height, surface, torch.zeros(4, 4)).item() == 0


def test_total_variation_of_a_step_and_of_a_wall():
    small, wall = torch.zeros(10, 10), torch.zeros(10, 10)
    small[:, 5:], wall[:, 5:] = 1.0, 50.0
    everywhere, away_from_wall = torch.ones(10, 10), torch.ones(10, 10)
    away_from_wall[:, 4:6] = 0
    assert losses.total_variation(small, everywhere).item() == pytest.approx(10 / 90)
    assert losses.total_variation(wall, everywhere).item() == pytest.approx(2 * 10 / 90)
    assert losses.total_variation(wall, away_from_wall).item() == 0
    assert losses.total_variation(wall, torch.zeros(10, 10)).item() == 0


def test_the_coverage_loss_is_the_weighted_mean_of_one_minus_alpha():
    alpha = torch.tensor([[1.0, 0.25], [0.5, 0.0]])
    weight = torch.tensor([[1.0, 1.0], [2.0, 0.0]])
    assert losses.coverage_loss(alpha, weight).item() == pytest.approx((0.75 + 1.0) / 4)


def test_the_edge_mask_covers_both_sides_of_walls():
    heights = torch.zeros(40, 40)
    heights[10:30, 10:30] = 12.0
    heights[0, 0] = torch.nan
    mask = edge_mask(heights, 0.5)
    assert mask[10:30, 10:14].all() and mask[10:14, 10:30].all()  # within 2 m of the edge
    assert mask[10:30, 6:10].all() and mask[30:34, 10:30].all()
    assert not mask[14:26, 14:26].any() and not mask[:, 34:].any() and not mask[:6].any()


def test_gain_and_bias_are_recovered_from_unmasked_pixels():
    pred, _ = random_images()
    mask = (torch.rand(40, 30, 1, generator=torch.Generator().manual_seed(2)) > 0.3).float()
    gain, bias = torch.tensor([0.7, 1.2, 1.0]), torch.tensor([0.05, -0.1, 0.0])
    target = gain * pred + bias + 5.0 * (1 - mask)  # masked pixels are invalid
    fitted = fit_gain_bias(pred, target, mask)
    torch.testing.assert_close(fitted[0], gain, atol=1e-4, rtol=0)
    torch.testing.assert_close(fitted[1], bias, atol=1e-4, rtol=0)


def test_scores_use_the_masked_half_of_an_image():
    mask = (torch.rand(40, 30, 1, generator=torch.Generator().manual_seed(3)) > 0.2).float()
    left, right = split_mask(mask)
    assert torch.equal(left + right, mask) and not left[:, 15:].any() and not right[:, :15].any()
    pred, target = random_images()
    half_black = pred.clone()
    half_black[:, :15] = 0.0
    scores = [image_scores(rgb, target, right)[0] for rgb in (pred, half_black)]
    assert scores[0]["psnr"] == pytest.approx(scores[1]["psnr"])
    assert image_scores(half_black, target, left)[0]["psnr"] < scores[0]["psnr"]


def test_psnr_equals_the_closed_form():
    mask = torch.ones(10, 10, 1)
    assert psnr(torch.full((10, 10, 3), 0.5), torch.full((10, 10, 3), 0.6), mask) == pytest.approx(20.0, abs=1e-3)


def entropy_gradient(logits):
    logits = torch.tensor(logits, requires_grad=True)
    losses.opacity_entropy(logits.sigmoid()).backward()
    return logits.grad


def test_the_entropy_gradient_equals_that_of_the_reference():
    grad = entropy_gradient([-2.0, 0.0, 1.5])
    torch.testing.assert_close(grad, torch.tensor([0.0700, 0.0, -0.0746]), atol=5e-5, rtol=0)  # Skyfall-GS, section 14
    logits = torch.tensor([-2.0, 0.0, 1.5])
    o = logits.sigmoid()
    torch.testing.assert_close(grad, -logits * o * (1 - o) / 3, atol=1e-6, rtol=0)  # dH/dlogit in closed form
    assert losses.opacity_entropy(torch.tensor([0.5])).item() == pytest.approx(0.6931, abs=1e-4)
    assert losses.opacity_entropy(torch.zeros(0)).item() == 0.0
    assert torch.isfinite(entropy_gradient([-200.0, 200.0])).all()


def test_the_entropy_weight_is_reduced_after_a_reset():
    assert [losses.entropy_weight(10.0, since) for since in (0, 499, 500)] == [
        pytest.approx(0.01),
        pytest.approx(0.01),
        10.0,
    ]


def test_sparsity_is_the_sum_of_opacities_relative_to_the_initial_number():
    assert losses.opacity_sparsity(torch.tensor([0.5, 0.25]), 4).item() == pytest.approx(0.75 / 4)
