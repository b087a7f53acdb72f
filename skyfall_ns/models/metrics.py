"""Image metrics."""

import numpy as np
import torch
from jaxtyping import Float
from numba import prange
from torch import Tensor

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.ssim import ssim


def psnr(pred: Tensor, target: Tensor, mask: Tensor) -> Float[Tensor, ""]:
    """Peak signal-to-noise ratio over the pixels whose mask is 1, dB."""
    error = _squared_error(pred, target, mask) / (3 * mask.sum()).clamp_min(1)
    return -10 * torch.log10(error + 1e-12)


def _squared_error(pred: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Sum of squared differences of masked images; on the CPU row by row, without images in between."""
    if pred.device.type != "cpu":
        return ((pred - target) * mask).square().sum()
    arrays = (t.detach().to(torch.float32).numpy() for t in (pred, target, mask[..., 0]))
    sums = np.empty(pred.shape[0])
    _sum_rows(*arrays, sums)  # pyright: ignore[reportCallIssue]  # Numba types this call
    return pred.new_tensor(sums.sum())


@njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _sum_rows(pred, target, mask, sums):
    for y in prange(len(pred)):
        total = 0.0
        for x in range(pred.shape[1]):
            for k in range(pred.shape[2]):
                difference = (pred[y, x, k] - target[y, x, k]) * mask[y, x]
                total += difference * difference
        sums[y] = total


def fit_gain_bias(
    pred: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], mask: Float[Tensor, "h w 1"]
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Least-squares gain and bias per channel that map `pred` to `target` where the mask is 1."""
    total = mask.sum().clamp_min(1)
    mean_p, mean_t = (pred * mask).sum((0, 1)) / total, (target * mask).sum((0, 1)) / total
    p, t = (pred - mean_p) * mask, (target - mean_t) * mask
    gain = (p * t).sum((0, 1)) / p.square().sum((0, 1)).clamp_min(1e-9)
    return gain, mean_t - gain * mean_p


def split_mask(mask: Float[Tensor, "h w 1"]) -> tuple[Float[Tensor, "h w 1"], Float[Tensor, "h w 1"]]:
    """Left and right half of a mask, split at the center of the image."""
    left, right = mask.clone(), mask.clone()
    middle = mask.shape[1] // 2
    left[:, middle:], right[:, :middle] = 0, 0
    return left, right


def image_scores(
    rgb: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], mask: Float[Tensor, "h w 1"]
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """{"psnr", "ssim"} (numbers) where the mask is 1, and {"img"} (truth beside rendering). SSIM is computed on the
    columns from the first to the last one of the mask, black where the mask is 0."""
    columns = mask[..., 0].any(0).nonzero().flatten()
    span = slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(None)
    similarity = ssim((rgb * mask)[:, span], (target * mask)[:, span])
    return {"psnr": float(psnr(rgb, target, mask)), "ssim": float(similarity)}, {"img": torch.cat([target, rgb], dim=1)}
