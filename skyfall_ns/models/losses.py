"""Training losses: pure functions of tensors."""

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.ssim import ssim

ROBUST_M = 2.0  # a surface error beyond this pulls no harder (it is an outlier, or a change)


def photometric_loss(
    pred: Float[Tensor, "h w 3"],
    target: Float[Tensor, "h w 3"],
    mask: Float[Tensor, "h w 1"] | None = None,
    ssim_weight: float = 0.2,
) -> Tensor:
    """(1 - w) mean |pred - target| + w (1 - SSIM), both images black where the mask is 0 (3D Gaussian splatting)."""
    if mask is not None:
        pred, target = pred * mask, target * mask
    return (1 - ssim_weight) * (pred - target).abs().mean() + ssim_weight * (1 - ssim(pred, target))


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
