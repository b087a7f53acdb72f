"""The photometric loss as kernels on the CPU: saturation, mask, L1 and SSIM without copies in between.

The formulas are those of `losses.photometric_loss`; the structural similarity is that of ssim.py.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false

from typing import Any

import numpy as np
import torch
from numba import prange
from torch import Tensor

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.ssim import TAPS, WEIGHTS, ssim_backward, ssim_forward

_FAST = {"contract", "reassoc", "nsz", "arcp"}
_HALF_WINDOW = TAPS // 2
_F0, _F1 = np.float32(0.0), np.float32(1.0)


def fused_photometric_loss(pred: Tensor, target: Tensor, mask: Tensor | None, ssim_weight: float) -> Tensor:
    """`losses.photometric_loss` of images "h w c" on the CPU, at least 11 x 11 px, differentiable in `pred`."""
    return _Photometric.apply(pred, target, mask, ssim_weight)  # type: ignore[no-any-return]


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _mirrored(index, size):
    """Index of a pixel beyond the border, mirrored at the center of the outermost pixel."""
    return -index if index < 0 else (2 * size - 2 - index if index >= size else index)


@njit(cache=True, fastmath=_FAST)
def _mirror_columns(row, size):
    """Fill the margins of a padded row."""
    for column in range(_HALF_WINDOW):
        row[column] = row[2 * _HALF_WINDOW - column]
        row[_HALF_WINDOW + size + column] = row[_HALF_WINDOW + size - 2 - column]


@njit(cache=True, fastmath=_FAST)
def _plane_row(pred, target, mask, channel, pred_row, target_row):
    """One band of a row of masked images as rows of planes, and the sum of |pred - target|."""
    width, total = len(pred), 0.0
    for x in range(width):
        t = target[x, channel]
        p = pred[x, channel]
        p, weight = min(p, _F1) if t >= _F1 else p, mask[x] if len(mask) else _F1
        p, t = p * weight, t * weight
        pred_row[x + _HALF_WINDOW], target_row[x + _HALF_WINDOW] = p, t
        total += abs(p - t)
    _mirror_columns(pred_row, width)
    _mirror_columns(target_row, width)
    return total


@njit(parallel=True, cache=True, fastmath=_FAST)
def _make_planes(pred, target, mask, pred_planes, target_planes, row_sums):
    """Masked images as planes [c, h + 10, w + 10] with mirrored borders, and sums of |pred - target| per row.

    Predictions above 1 are 1 where the target is; `mask` is [h, w] or [h, 0]."""
    height, _, channels = pred.shape
    for row in prange(height + 2 * _HALF_WINDOW):
        y = _mirrored(row - _HALF_WINDOW, height)
        total = 0.0
        for k in range(channels):
            total += _plane_row(pred[y], target[y], mask[y], k, pred_planes[k, row], target_planes[k, row])
        row_sums[row] = total if row - _HALF_WINDOW == y else 0.0


@njit(cache=True, fastmath=_FAST)
def _fold_rows(plane, y, height, out):
    """out = the sum of the rows of a plane that show row y of the image."""
    out[:] = plane[y + _HALF_WINDOW]
    if 1 <= y <= _HALF_WINDOW:
        out += plane[_HALF_WINDOW - y]
    if height - 1 - _HALF_WINDOW <= y < height - 1:
        out += plane[2 * height - 2 - y + _HALF_WINDOW]


@njit(cache=True, fastmath=_FAST)
def _fold_columns(row, width):
    """Add the margins of a padded row to the columns that they show."""
    for column in range(_HALF_WINDOW):
        row[2 * _HALF_WINDOW - column] += row[column]
        row[_HALF_WINDOW + width - 2 - column] += row[_HALF_WINDOW + width + column]


@njit(cache=True, fastmath=_FAST)
def _gradient_row(pred, target, mask, channel, row, l1_factor, out):
    """Gradient of one band of a row of pixels."""
    for x in range(len(pred)):
        p, t, weight = pred[x, channel], target[x, channel], mask[x] if len(mask) else _F1
        sign = weight * (_F1 if p > t else (-_F1 if p < t else _F0))
        gradient = weight * row[x + _HALF_WINDOW] + l1_factor * sign
        out[x, channel] = _F0 if t >= _F1 and p > _F1 else gradient


@njit(parallel=True, cache=True, fastmath=_FAST)
def _collect_gradient(pred, target, mask, planes, l1_factor, out):
    """Gradient with respect to `pred`: that of the planes, added up over mirrored borders, and that of the L1 term."""
    height, width, channels = pred.shape
    for y in prange(height):
        row = np.empty(width + 2 * _HALF_WINDOW, np.float32)
        for k in range(channels):
            _fold_rows(planes[k], y, height, row)
            _fold_columns(row, width)
            _gradient_row(pred[y], target[y], mask[y], k, row, l1_factor, out[y])


class _Photometric(torch.autograd.Function):
    """(1 - w) mean |pred - target| + w (1 - SSIM)."""

    @staticmethod
    def forward(ctx: Any, pred: Tensor, target: Tensor, mask: Tensor | None, ssim_weight: float) -> Tensor:
        p, t = (image.detach().to(torch.float32).contiguous().numpy() for image in (pred, target))
        height, width, channels = p.shape
        m = np.empty((height, 0), np.float32) if mask is None else mask.detach().to(torch.float32)[..., 0].numpy()
        planes = np.empty((2, channels, height + TAPS - 1, width + TAPS - 1), np.float32)
        row_sums = np.empty(height + TAPS - 1)
        _make_planes(p, t, m, *planes, row_sums)
        need_grad = ctx.needs_input_grad[0]
        slopes = np.empty((channels, 3, height, width) if need_grad else (0, 3, 1, 1), np.float32)
        similarity = ssim_forward(*planes, WEIGHTS, need_grad, slopes)
        ctx.kept = (p, t, m, planes, slopes, ssim_weight)
        return pred.new_tensor((1 - ssim_weight) * row_sums.sum() / p.size + ssim_weight * (1 - similarity))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        p, t, m, planes, slopes, ssim_weight = ctx.kept
        factor, gradient, out = float(upstream[0]) / p.size, np.empty_like(planes[0]), np.empty_like(p)
        ssim_backward(*planes, WEIGHTS, slopes, np.float32(-ssim_weight * factor), gradient)
        _collect_gradient(p, t, m, gradient, np.float32((1 - ssim_weight) * factor), out)
        return torch.from_numpy(out).to(upstream[0].dtype), None, None, None
