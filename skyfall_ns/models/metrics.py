"""Scores of a rendered image. Held-out images have a light of their own, which no training image tells: their gain and
bias are fitted on the left half, and the scores are those of the right half."""

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.ssim import ssim
from skyfall_ns.models.tone import fit_gain_bias


def psnr(pred: Tensor, target: Tensor, mask: Tensor) -> float:
    """Peak signal-to-noise ratio over the pixels whose mask is 1, dB."""
    error = ((pred - target) * mask).square().sum() / (3 * mask.sum()).clamp_min(1)
    return float(-10 * torch.log10(error + 1e-12))


def image_scores(
    rgb: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], mask: Float[Tensor, "h w 1"], held_out: bool
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """{"psnr", "ssim"} (numbers) and {"img"} (truth beside rendering)."""
    scored = mask
    if held_out:
        middle = rgb.shape[1] // 2
        fitted, scored = mask.clone(), mask.clone()
        fitted[:, middle:], scored[:, :middle] = 0, 0
        gain, bias = fit_gain_bias(rgb, target, fitted)
        rgb = (gain * rgb + bias).clamp(0, 1)
        part = slice(middle, None)
    else:
        part = slice(None)
    structure = ssim((rgb * mask)[:, part], (target * mask)[:, part])
    scores = {"psnr": psnr(rgb, target, scored), "ssim": float(structure)}
    return scores, {"img": torch.cat([target * mask, rgb], dim=1)}
