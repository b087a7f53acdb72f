"""Comparison of a rendered depth with a depth prior: losses that are invariant to scale and shift, each with a mask.

Every loss takes `pred` and `target` "h w" (larger is farther in both) and `valid` "h w" bool, and uses the pixels that
are valid and finite in both. Too few pixels (under 64) or a constant target give 0 with a gradient of 0, never NaN.
Formulas: Pearson as in Skyfall-GS and FSGS, patches as in SparseGS (boxes of 128 px), order of pixel pairs as in MoDGS,
scale-shift invariance and gradient matching as in MiDaS.
"""

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import avg_pool2d, softplus

Depth = Float[Tensor, "h w"]
Mask = Bool[Tensor, "h w"]
DepthLossName = Literal["pearson", "pearson_patch", "rank", "modgs_ordinal", "ssi", "gradient"]

MIN_PIXELS = 64
PATCH_PX = 128  # SparseGS box size
NUM_PAIRS = 200_000  # MoDGS


def usable_pixels(pred: Depth, target: Depth, valid: Mask | None) -> Mask:
    """Pixels that are valid and finite in both."""
    finite = torch.isfinite(pred.detach()) & torch.isfinite(target)
    return finite if valid is None else finite & valid


def _zero_loss(pred: Depth, mask: Mask) -> Tensor:
    """0 with a gradient of 0."""
    return 0.0 * pred[mask].sum()


def _has_variation(values: Tensor) -> bool:
    """Whether there are enough values and they are not constant."""
    if values.numel() < MIN_PIXELS:
        return False
    extent = values.max() - values.min()
    return bool(extent > 1e-6 * values.abs().max())


def _one_minus_correlation(pred: Tensor, target: Tensor, eps: float = 1e-3) -> Tensor:
    """1 - correlation of two vectors; a floor of eps times the mean magnitude keeps that of constant vectors finite."""
    floor_pred, floor_target = (eps * pred.detach().abs().mean()) ** 2, (eps * target.abs().mean()) ** 2
    pred, target = pred - pred.mean(), target - target.mean()
    return 1.0 - (pred * target).mean() / torch.sqrt(
        (pred.square().mean() + floor_pred) * (target.square().mean() + floor_target)
    )


def pearson_loss(pred: Depth, target: Depth, valid: Mask | None = None) -> Tensor:
    """1 - Pearson correlation over the usable pixels, in 0..2."""
    mask = usable_pixels(pred, target, valid)
    if not _has_variation(target[mask]):
        return _zero_loss(pred, mask)
    return _one_minus_correlation(pred[mask], target[mask])


def patch_pearson_loss(
    pred: Depth,
    target: Depth,
    valid: Mask | None = None,
    generator: torch.Generator | None = None,
    patch_px: int = PATCH_PX,
    coverage: float = 0.5,
) -> Tensor:
    """Mean of 1 - correlation over random boxes that cover about this part of the image (at least one box)."""
    mask = usable_pixels(pred, target, valid)
    if not mask.any():
        return _zero_loss(pred, mask)
    height, width = pred.shape
    side_y, side_x = min(patch_px, height), min(patch_px, width)
    count = max(1, round(coverage * height * width / (side_y * side_x)))
    tops = torch.randint(0, height - side_y + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(0, width - side_x + 1, (count,), generator=generator).tolist()
    losses = []
    for top, left in zip(tops, lefts, strict=True):
        box = (slice(top, top + side_y), slice(left, left + side_x))
        if _has_variation(target[box][mask[box]]):
            losses.append(_one_minus_correlation(pred[box][mask[box]], target[box][mask[box]]))
    return torch.stack(losses).mean() if losses else _zero_loss(pred, mask)


def _sample_pairs(
    pred: Depth, target: Depth, mask: Mask, generator: torch.Generator | None, min_range_fraction: float
) -> tuple[Tensor, Tensor] | None:
    """Differences (prediction, sign of target) of random pixel pairs whose targets are distinct."""
    pred_values, target_values = pred[mask], target[mask]
    if not _has_variation(target_values):
        return None
    first, second = torch.randint(
        0, target_values.numel(), (2, min(NUM_PAIRS, 16 * target_values.numel())), generator=generator
    ).to(target_values.device)
    difference = target_values[first] - target_values[second]
    distinct = difference.abs() >= min_range_fraction * (target_values.max() - target_values.min())
    if not distinct.any():
        return None
    return (pred_values[first] - pred_values[second])[distinct], torch.sign(difference[distinct])


def ranking_loss(
    pred: Depth, target: Depth, valid: Mask | None = None, generator: torch.Generator | None = None, tau: float = 0.1
) -> Tensor:
    """Logistic ranking loss of pixel pairs: tau * softplus(-s (d_i - d_j) / tau), with d in units of its (detached)
    standard deviation."""
    mask = usable_pixels(pred, target, valid)
    pairs = _sample_pairs(pred, target, mask, generator, min_range_fraction=0.01)
    if pairs is None:
        return _zero_loss(pred, mask)
    difference, sign = pairs
    spread = pred.detach()[mask].std().clamp_min(1e-9)
    return tau * softplus(-sign * difference / (spread * tau)).mean()


def modgs_ordinal_loss(
    pred: Depth,
    target: Depth,
    valid: Mask | None = None,
    generator: torch.Generator | None = None,
    alpha: float = 100.0,
) -> Tensor:
    """Ordinal loss of MoDGS: mean |tanh(alpha (d_i - d_j)) - sign(t_i - t_j)| over pairs a tenth of the range apart,
    with d divided by its (detached) range, because tanh of meters saturates."""
    mask = usable_pixels(pred, target, valid)
    pairs = _sample_pairs(pred, target, mask, generator, min_range_fraction=0.1)
    if pairs is None:
        return _zero_loss(pred, mask)
    difference, sign = pairs
    p = pred.detach()[mask]
    extent = (p.max() - p.min()).clamp_min(1e-9)
    return (torch.tanh(alpha * difference / extent) - sign).abs().mean()


def _normalize_scale_shift(values: Tensor) -> Tensor:
    """(v - median) / mean absolute deviation, the normalization of MiDaS."""
    centered = values - values.median()
    return centered / centered.abs().mean().clamp_min(1e-9)


def scale_shift_invariant_loss(pred: Depth, target: Depth, valid: Mask | None = None) -> Tensor:
    """Mean absolute difference of the depths, normalized to median 0 and mean absolute deviation 1 (MiDaS)."""
    mask = usable_pixels(pred, target, valid)
    if not _has_variation(target[mask]):
        return _zero_loss(pred, mask)
    return (_normalize_scale_shift(pred[mask]) - _normalize_scale_shift(target[mask])).abs().mean()


def gradient_matching_loss(pred: Depth, target: Depth, valid: Mask | None = None, scales: int = 4) -> Tensor:
    """Multi-scale gradient of the difference of normalized depths (MiDaS): mean |dx| + |dy| over usable pixels."""
    mask = usable_pixels(pred, target, valid)
    if not _has_variation(target[mask]):
        return _zero_loss(pred, mask)
    difference = pred.new_zeros(pred.shape)
    difference[mask] = _normalize_scale_shift(pred[mask]) - _normalize_scale_shift(target[mask])
    weight = mask.to(pred.dtype)
    total = _zero_loss(pred, mask)
    for scale in range(scales):
        if min(difference.shape) < 2:
            break
        total = total + _gradient_magnitude(difference, weight) / scales
        if scale + 1 < scales and min(difference.shape) >= 4:
            difference, weight = _downsample_half(difference), _downsample_half(weight).eq(1).to(pred.dtype)
    return total


def _downsample_half(image: Tensor) -> Tensor:
    """Means of 2 x 2 pixels."""
    return avg_pool2d(image[None, None], 2)[0, 0]


def _gradient_magnitude(difference: Tensor, weight: Tensor) -> Tensor:
    """Mean |dx| + mean |dy| over neighbors that both have weight."""
    along_x, along_y = weight[:, 1:] * weight[:, :-1], weight[1:] * weight[:-1]
    dx, dy = (difference[:, 1:] - difference[:, :-1]).abs(), (difference[1:] - difference[:-1]).abs()
    return (dx * along_x).sum() / along_x.sum().clamp_min(1) + (dy * along_y).sum() / along_y.sum().clamp_min(1)


def pearson_and_patch_loss(
    pred: Depth, target: Depth, valid: Mask | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """Pearson + 0.5 x patch Pearson with boxes of 128 px, the default."""
    return pearson_loss(pred, target, valid) + 0.5 * patch_pearson_loss(pred, target, valid, generator)


def depth_loss_function(name: DepthLossName) -> Callable[[Depth, Depth, Mask | None, torch.Generator | None], Tensor]:
    """The loss of this name, with the signature (pred, target, valid, generator) -> scalar."""
    table: dict[str, Callable[..., Tensor]] = {
        "pearson": lambda p, t, v, g: pearson_loss(p, t, v),
        "pearson_patch": pearson_and_patch_loss,
        "rank": ranking_loss,
        "modgs_ordinal": modgs_ordinal_loss,
        "ssi": lambda p, t, v, g: scale_shift_invariant_loss(p, t, v),
        "gradient": lambda p, t, v, g: gradient_matching_loss(p, t, v),
    }
    return table[name]
