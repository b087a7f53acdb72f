"""Training losses: pure functions of tensors."""

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.ssim import ssim

COOLING_STEPS, COOLED = 500, 1e-3  # after an opacity reset the entropy keeps this share of its weight (Skyfall-GS)
ROBUST_M = 2.0  # a surface error beyond this pulls no harder (it is an outlier, or a change)


def photometric_loss(
    pred: Float[Tensor, "h w c"],
    target: Float[Tensor, "h w c"],
    mask: Float[Tensor, "h w 1"] | None = None,
    ssim_weight: float = 0.2,
) -> Tensor:
    """(1 - w) mean |pred - target| + w (1 - SSIM), both images black where the mask is 0 (3D Gaussian splatting).

    A target of 1 is a lower bound (the sensor was saturated, or the tone curve ends there): values above it are as good
    as equal, and have no gradient."""
    pred = torch.where(target >= 1, pred.clamp_max(1), pred)
    if mask is not None:
        pred, target = pred * mask, target * mask
    return (1 - ssim_weight) * (pred - target).abs().mean() + ssim_weight * (1 - ssim(pred, target))


def excess(colors: Float[Tensor, "n c"]) -> Tensor:
    """Mean square of what colors have above 1: nothing reflects more light than a white surface."""
    return (colors - 1).clamp_min(0).square().mean()


def surface_loss(
    height_m: Float[Tensor, "h w"], surface_m: Float[Tensor, "h w"], weight: Float[Tensor, "h w"]
) -> Tensor:
    """Weighted mean of min(|height - surface|, 2 m): metres. Cells with weight 0 may hold anything."""
    error = torch.where(weight > 0, (height_m - surface_m).abs().clamp_max(ROBUST_M), torch.zeros_like(height_m))
    return (error * weight).sum() / weight.sum().clamp_min(1e-6)


def total_variation(height_m: Float[Tensor, "h w"], weight: Float[Tensor, "h w"]) -> Tensor:
    """Mean |difference| of neighbouring heights, metres, each at most ROBUST_M, over neighbours that both have a
    weight: near walls, where they have none, heights may jump."""
    rough = height_m.new_zeros(())
    for axis in (0, 1):
        step = height_m.diff(dim=axis).abs().clamp_max(ROBUST_M)
        size = step.shape[axis]
        both = (weight.narrow(axis, 0, size) > 0) & (weight.narrow(axis, 1, size) > 0)
        rough = rough + (step * both).sum() / both.sum().clamp_min(1)
    return rough


def emptiness(alpha: Float[Tensor, "h w"], weight: Float[Tensor, "h w"]) -> Tensor:
    """Weighted mean of 1 - alpha: what shines through a surface that should be closed."""
    return ((1 - alpha) * weight).sum() / weight.sum().clamp_min(1e-6)


def opacity_entropy(opacities: Float[Tensor, " n"]) -> Tensor:
    """Mean of H(o) = -o ln o - (1 - o) ln(1 - o), with o kept 1e-3 from 0 and 1: minimised, splats are there or not
    (Skyfall-GS 3.4; its gradient flows through both factors). 0 without splats."""
    if opacities.numel() == 0:
        return opacities.sum()
    o = opacities.clamp(1e-3, 1 - 1e-3)
    return -(o * o.log() + (1 - o) * (1 - o).log()).mean()


def sparsity(opacities: Float[Tensor, " n"], started_with: int) -> Tensor:
    """Sum of opacities relative to the number of splats at the start (EOGS)."""
    return opacities.sum() / started_with


def entropy_weight(weight: float, steps_since_reset: float) -> float:
    """10 becomes 0.01 during the 500 steps after an opacity reset (Skyfall-GS 3.5), so that splats can come back."""
    return weight * COOLED if steps_since_reset < COOLING_STEPS else weight
