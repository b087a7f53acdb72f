"""Training losses: pure functions of tensors."""

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.photometric import fused_photometric_loss
from skyfall_ns.models.ssim import TAPS, ssim

# factor of the entropy weight during these steps after an opacity reset (Skyfall-GS)
RESET_COOLDOWN_STEPS, RESET_WEIGHT_SCALE = 500, 1e-3
MAX_ERROR_M = 2.0  # larger surface errors are outliers or changes, and have no gradient


def photometric_loss(
    pred: Float[Tensor, "h w c"],
    target: Float[Tensor, "h w c"],
    mask: Float[Tensor, "h w 1"] | None = None,
    ssim_weight: float = 0.2,
) -> Tensor:
    """(1 - w) mean |pred - target| + w (1 - SSIM), both images black where the mask is 0 (3D Gaussian splatting).

    A target of 1 is a lower bound (the sensor was saturated, or the tone curve ends there): predictions above 1 count
    as equal and have no gradient."""
    if pred.device.type == "cpu" and min(pred.shape[:2]) >= TAPS:
        return fused_photometric_loss(pred, target, mask, ssim_weight)
    return photometric_loss_with_torch(pred, target, mask, ssim_weight)


def photometric_loss_with_torch(
    pred: Float[Tensor, "h w c"],
    target: Float[Tensor, "h w c"],
    mask: Float[Tensor, "h w 1"] | None,
    ssim_weight: float,
) -> Tensor:
    """`photometric_loss` in torch's operations."""
    pred = torch.where(target >= 1, pred.clamp_max(1), pred)
    if mask is not None:
        pred, target = pred * mask, target * mask
    return (1 - ssim_weight) * (pred - target).abs().mean() + ssim_weight * (1 - ssim(pred, target))


def excess_over_white(colors: Float[Tensor, "n c"]) -> Tensor:
    """Mean squared excess of colors over 1: nothing reflects more light than a white surface."""
    return (colors - 1).clamp_min(0).square().mean()


def surface_loss(
    height_m: Float[Tensor, "h w"], surface_m: Float[Tensor, "h w"], weight: Float[Tensor, "h w"]
) -> Tensor:
    """Weighted mean of min(|height - surface|, 2 m), meters. Cells with weight 0 may be NaN."""
    error = torch.where(weight > 0, (height_m - surface_m).abs().clamp_max(MAX_ERROR_M), torch.zeros_like(height_m))
    return (error * weight).sum() / weight.sum().clamp_min(1e-6)


def total_variation(height_m: Float[Tensor, "h w"], weight: Float[Tensor, "h w"]) -> Tensor:
    """Mean |difference| of neighboring heights, meters, each at most MAX_ERROR_M, over neighbors that both have a
    weight; near walls, where it is 0, heights may jump."""
    variation = height_m.new_zeros(())
    for axis in (0, 1):
        step = height_m.diff(dim=axis).abs().clamp_max(MAX_ERROR_M)
        size = step.shape[axis]
        both = (weight.narrow(axis, 0, size) > 0) & (weight.narrow(axis, 1, size) > 0)
        variation = variation + (step * both).sum() / both.sum().clamp_min(1)
    return variation


def coverage_loss(alpha: Float[Tensor, "h w"], weight: Float[Tensor, "h w"]) -> Tensor:
    """Weighted mean of 1 - alpha over a surface that should be opaque."""
    return ((1 - alpha) * weight).sum() / weight.sum().clamp_min(1e-6)


def opacity_entropy(opacities: Float[Tensor, " n"]) -> Tensor:
    """Mean of H(o) = -o ln o - (1 - o) ln(1 - o), with o kept 1e-3 from 0 and 1: pushes opacities toward 0 or 1
    (Skyfall-GS 3.4; the gradient flows through both factors). 0 without Gaussians."""
    if opacities.numel() == 0:
        return opacities.sum()
    o = opacities.clamp(1e-3, 1 - 1e-3)
    return -(o * o.log() + (1 - o) * (1 - o).log()).mean()


def opacity_sparsity(opacities: Float[Tensor, " n"], initial_count: int) -> Tensor:
    """Sum of opacities relative to the initial number of Gaussians (EOGS)."""
    return opacities.sum() / initial_count


def entropy_weight(weight: float, steps_since_reset: float) -> float:
    """Entropy weight, reduced from 10 to 0.01 for 500 steps after an opacity reset (Skyfall-GS 3.5), so that opacities
    can rise again."""
    return weight * RESET_WEIGHT_SCALE if steps_since_reset < RESET_COOLDOWN_STEPS else weight
