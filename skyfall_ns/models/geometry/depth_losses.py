"""How well a rendered depth agrees with a depth prior: pure functions, each blind to scale and shift, each with a mask.

Every loss takes `pred` and `target` "h w" (larger is farther in both) and `valid` "h w" bool, and looks at pixels
valid and finite in both. Too few pixels (under 64) or a constant target give 0 with a gradient of 0, never NaN.
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
PAIRS = 200_000  # MoDGS


def usable(pred: Depth, target: Depth, valid: Mask | None) -> Mask:
    """Pixels that are valid and finite in both."""
    finite = torch.isfinite(pred.detach()) & torch.isfinite(target)
    return finite if valid is None else finite & valid


def _nothing(pred: Depth, mask: Mask) -> Tensor:
    return 0.0 * pred[mask].sum()


def _varies(values: Tensor) -> bool:
    if values.numel() < MIN_PIXELS:
        return False
    spread = values.max() - values.min()
    return bool(spread > 1e-6 * values.abs().max())


def _one_minus_correlation(p: Tensor, t: Tensor, eps: float = 1e-3) -> Tensor:
    """1 - correlation of two vectors; a floor of eps times the mean magnitude keeps constant vectors finite."""
    floor_p, floor_t = (eps * p.detach().abs().mean()) ** 2, (eps * t.abs().mean()) ** 2
    p, t = p - p.mean(), t - t.mean()
    return 1.0 - (p * t).mean() / torch.sqrt((p.square().mean() + floor_p) * (t.square().mean() + floor_t))


def pearson(pred: Depth, target: Depth, valid: Mask | None = None) -> Tensor:
    """1 - Pearson correlation over the usable pixels, in 0..2."""
    mask = usable(pred, target, valid)
    if not _varies(target[mask]):
        return _nothing(pred, mask)
    return _one_minus_correlation(pred[mask], target[mask])


def patch_pearson(
    pred: Depth,
    target: Depth,
    valid: Mask | None = None,
    generator: torch.Generator | None = None,
    patch_px: int = PATCH_PX,
    share: float = 0.5,
) -> Tensor:
    """Mean of 1 - correlation over random boxes that cover about `share` of the image (at least one)."""
    mask = usable(pred, target, valid)
    if not mask.any():
        return _nothing(pred, mask)
    height, width = pred.shape
    side_y, side_x = min(patch_px, height), min(patch_px, width)
    count = max(1, round(share * height * width / (side_y * side_x)))
    tops = torch.randint(0, height - side_y + 1, (count,), generator=generator).tolist()
    lefts = torch.randint(0, width - side_x + 1, (count,), generator=generator).tolist()
    losses = []
    for top, left in zip(tops, lefts, strict=True):
        box = (slice(top, top + side_y), slice(left, left + side_x))
        if _varies(target[box][mask[box]]):
            losses.append(_one_minus_correlation(pred[box][mask[box]], target[box][mask[box]]))
    return torch.stack(losses).mean() if losses else _nothing(pred, mask)


def _pairs(
    pred: Depth, target: Depth, mask: Mask, generator: torch.Generator | None, share_of_range: float
) -> tuple[Tensor, Tensor] | None:
    """Differences (prediction, sign of target) of fresh random pixel pairs that differ clearly in the target."""
    p, t = pred[mask], target[mask]
    if not _varies(t):
        return None
    first, second = torch.randint(0, t.numel(), (2, min(PAIRS, 16 * t.numel())), generator=generator).to(t.device)
    step = t[first] - t[second]
    clear = step.abs() >= share_of_range * (t.max() - t.min())
    if not clear.any():
        return None
    return (p[first] - p[second])[clear], torch.sign(step[clear])


def rank(
    pred: Depth, target: Depth, valid: Mask | None = None, generator: torch.Generator | None = None, tau: float = 0.1
) -> Tensor:
    """Logistic ranking of pixel pairs: tau * softplus(-s (d_i - d_j) / tau), with d in detached standard deviations."""
    mask = usable(pred, target, valid)
    pairs = _pairs(pred, target, mask, generator, share_of_range=0.01)
    if pairs is None:
        return _nothing(pred, mask)
    difference, sign = pairs
    spread = pred.detach()[mask].std().clamp_min(1e-9)
    return tau * softplus(-sign * difference / (spread * tau)).mean()


def modgs_ordinal(
    pred: Depth,
    target: Depth,
    valid: Mask | None = None,
    generator: torch.Generator | None = None,
    alpha: float = 100.0,
) -> Tensor:
    """MoDGS: mean |tanh(alpha (d_i - d_j)) - sign(t_i - t_j)| over pairs a tenth of the range apart, with d divided by
    its own (detached) range, because tanh of metres saturates."""
    mask = usable(pred, target, valid)
    pairs = _pairs(pred, target, mask, generator, share_of_range=0.1)
    if pairs is None:
        return _nothing(pred, mask)
    difference, sign = pairs
    p = pred.detach()[mask]
    extent = (p.max() - p.min()).clamp_min(1e-9)
    return (torch.tanh(alpha * difference / extent) - sign).abs().mean()


def _aligned(values: Tensor) -> Tensor:
    """(v - median) / mean absolute deviation: MiDaS' scale and shift."""
    centred = values - values.median()
    return centred / centred.abs().mean().clamp_min(1e-9)


def ssi(pred: Depth, target: Depth, valid: Mask | None = None) -> Tensor:
    """Mean absolute difference after both are brought to median 0 and mean absolute deviation 1."""
    mask = usable(pred, target, valid)
    if not _varies(target[mask]):
        return _nothing(pred, mask)
    return (_aligned(pred[mask]) - _aligned(target[mask])).abs().mean()


def gradient(pred: Depth, target: Depth, valid: Mask | None = None, scales: int = 4) -> Tensor:
    """Multi-scale gradient matching of the aligned difference (MiDaS): mean |dx| + |dy| where both are usable."""
    mask = usable(pred, target, valid)
    if not _varies(target[mask]):
        return _nothing(pred, mask)
    difference = pred.new_zeros(pred.shape)
    difference[mask] = _aligned(pred[mask]) - _aligned(target[mask])
    weight = mask.to(pred.dtype)
    total = _nothing(pred, mask)
    for scale in range(scales):
        if min(difference.shape) < 2:
            break
        total = total + _gradient_magnitude(difference, weight) / scales
        if scale + 1 < scales and min(difference.shape) >= 4:
            difference, weight = _half(difference), _half(weight).eq(1).to(pred.dtype)
    return total


def _half(image: Tensor) -> Tensor:
    return avg_pool2d(image[None, None], 2)[0, 0]


def _gradient_magnitude(difference: Tensor, weight: Tensor) -> Tensor:
    along_x, along_y = weight[:, 1:] * weight[:, :-1], weight[1:] * weight[:-1]
    dx, dy = (difference[:, 1:] - difference[:, :-1]).abs(), (difference[1:] - difference[:-1]).abs()
    return (dx * along_x).sum() / along_x.sum().clamp_min(1) + (dy * along_y).sum() / along_y.sum().clamp_min(1)


def pearson_and_patches(
    pred: Depth, target: Depth, valid: Mask | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """The default: Pearson + 0.5 x patch Pearson with boxes of 128 px."""
    return pearson(pred, target, valid) + 0.5 * patch_pearson(pred, target, valid, generator)


def depth_loss(name: DepthLossName) -> Callable[[Depth, Depth, Mask | None, torch.Generator | None], Tensor]:
    """The loss called `name` with one signature: (pred, target, valid, generator) -> scalar."""
    table: dict[str, Callable[..., Tensor]] = {
        "pearson": lambda p, t, v, g: pearson(p, t, v),
        "pearson_patch": pearson_and_patches,
        "rank": rank,
        "modgs_ordinal": modgs_ordinal,
        "ssi": lambda p, t, v, g: ssi(p, t, v),
        "gradient": lambda p, t, v, g: gradient(p, t, v),
    }
    return table[name]
