"""Structural similarity, exact to torchmetrics (11 taps, sigma 1.5, data range 1), fused on the CPU.

    SSIM = (2 mu_p mu_t + c1)(2 cov + c2) / ((mu_p² + mu_t² + c1)(var_p + var_t + c2)),  c1 = 0.01², c2 = 0.03²

averaged over all pixels of the images mirrored at their borders, as torchmetrics does.
`conv2d` on a CPU takes several times as long as rasterizing the image; these kernels blur row by row instead.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import prange
from torch import Tensor
from torch.nn.functional import conv2d, pad

from skyfall_ns.geo.compilation import njit

TAPS, SIGMA = 11, 1.5
C1, C2 = 0.01**2, 0.03**2
_FAST = {"contract", "reassoc", "nsz", "arcp"}


def _gaussian_window() -> np.ndarray:
    """Weights of the Gaussian window, sum 1."""
    offsets = np.arange(TAPS) - TAPS // 2
    weights = np.exp(-0.5 * (offsets / SIGMA) ** 2)
    return (weights / weights.sum()).astype(np.float32)


WEIGHTS = _gaussian_window()
_BAND_ROWS = 16  # output rows per task: enough to share the blurred rows, few enough to stay in the cache


def ssim(pred: Float[Tensor, "h w c"], target: Float[Tensor, "h w c"]) -> Float[Tensor, ""]:
    """Mean SSIM of two images of at least 11 x 11 pixels; differentiable in `pred`.

    Raises ValueError for smaller images or unequal shapes."""
    if pred.shape != target.shape or min(pred.shape[:2]) < TAPS:
        raise ValueError(
            f"SSIM got images of shapes {tuple(pred.shape)} and {tuple(target.shape)}. "
            f"Pass two images of equal size, at least {TAPS} x {TAPS} px."
        )
    p, t = _padded_planes(pred), _padded_planes(target)
    return _FusedSsim.apply(p, t) if pred.device.type == "cpu" else _ssim_torch(p, t)  # type: ignore[no-any-return]


def _ssim_torch(p: Float[Tensor, "c h w"], t: Float[Tensor, "c h w"]) -> Tensor:
    """SSIM with `conv2d`, for devices where that is fast: mean over the pixels whose whole window lies inside."""
    weights = torch.from_numpy(WEIGHTS).to(p)
    p, t = p[:, None], t[:, None]
    products = torch.cat([p, t, p * p, t * t, p * t])
    blurred = conv2d(conv2d(products, weights[None, None, None, :]), weights[None, None, :, None])
    mu_p, mu_t, pp, tt, pt = blurred.chunk(5)
    numerator = (2 * mu_p * mu_t + C1) * (2 * (pt - mu_p * mu_t) + C2)
    denominator = (mu_p**2 + mu_t**2 + C1) * (pp - mu_p**2 + tt - mu_t**2 + C2)
    return (numerator / denominator).mean()


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _window_taps(weights):
    """The six distinct weights of the symmetric window."""
    return weights[0], weights[1], weights[2], weights[3], weights[4], weights[5]


@njit(cache=True, fastmath=_FAST)
def _blur_row(row, weights, out):
    """out[x] = sum of weights[k] row[x + k]."""
    a, b, c, d, e, f = _window_taps(weights)
    for x in range(out.shape[0]):
        out[x] = (
            a * (row[x] + row[x + 10])
            + b * (row[x + 1] + row[x + 9])
            + c * (row[x + 2] + row[x + 8])
            + d * (row[x + 3] + row[x + 7])
            + e * (row[x + 4] + row[x + 6])
            + f * row[x + 5]
        )


@njit(cache=True, fastmath=_FAST)
def _blur_column(rows, first, plane, weights, out):
    """out[x] = sum of weights[k] rows[first + k, which, x]."""
    a, b, c, d, e, f = _window_taps(weights)
    for x in range(out.shape[0]):
        out[x] = (
            a * (rows[first, plane, x] + rows[first + 10, plane, x])
            + b * (rows[first + 1, plane, x] + rows[first + 9, plane, x])
            + c * (rows[first + 2, plane, x] + rows[first + 8, plane, x])
            + d * (rows[first + 3, plane, x] + rows[first + 7, plane, x])
            + e * (rows[first + 4, plane, x] + rows[first + 6, plane, x])
            + f * rows[first + 5, plane, x]
        )


@njit(cache=True, fastmath=_FAST)
def _blur_row_moments(p, t, weights, scratch, out):
    """Blur one row of pred, target, pred² + target² and pred target horizontally."""
    width = p.shape[0]
    _blur_row(p, weights, out[0])
    _blur_row(t, weights, out[1])
    for x in range(width):
        scratch[x] = p[x] * p[x] + t[x] * t[x]
    _blur_row(scratch, weights, out[2])
    for x in range(width):
        scratch[x] = p[x] * t[x]
    _blur_row(scratch, weights, out[3])


@njit(cache=True, fastmath=_FAST)
def _ssim_row(maps, grads, need_grad):
    """Sum of SSIM over a row of blurred maps (mu_p, mu_t, pp + tt, pt); `grads` gets d/d(mu_p, pp, pt)."""
    c1, c2 = np.float32(C1), np.float32(C2)
    two = np.float32(2.0)
    total = 0.0
    for x in range(maps.shape[1]):
        mu_p, mu_t = maps[0, x], maps[1, x]
        square = mu_p * mu_p + mu_t * mu_t
        product = mu_p * mu_t
        a, b = two * product + c1, two * (maps[3, x] - product) + c2
        c, d = square + c1, maps[2, x] - square + c2
        inverse = np.float32(1.0) / (c * d)
        value = a * b * inverse
        total += value
        if need_grad:
            grads[0, x] = two * (mu_t * (b - a) * inverse - mu_p * value * (d - c) * inverse)
            grads[1, x] = -value * c * inverse
            grads[2, x] = two * a * inverse
    return total


@njit(parallel=True, cache=True, fastmath=_FAST)
def ssim_forward(pred, target, weights, need_grad, grads):
    """Mean SSIM of planes [c, h, w]; `grads` [c, 3, h - 10, w - 10] gets its derivatives with respect to the maps."""
    channels, height, width = pred.shape
    rows, inner = height - TAPS + 1, width - TAPS + 1
    bands = (rows + _BAND_ROWS - 1) // _BAND_ROWS
    sums = np.zeros(channels * bands)
    for task in prange(channels * bands):
        channel, first = task // bands, (task % bands) * _BAND_ROWS
        last = min(first + _BAND_ROWS, rows)
        blurred = np.empty((last - first + TAPS - 1, 4, inner), np.float32)
        scratch, maps = np.empty(width, np.float32), np.empty((4, inner), np.float32)
        for y in range(first, last + TAPS - 1):
            _blur_row_moments(pred[channel, y], target[channel, y], weights, scratch, blurred[y - first])
        for y in range(first, last):
            for plane in range(4):
                _blur_column(blurred, y - first, plane, weights, maps[plane])
            sums[task] += _ssim_row(maps, grads[channel, :, y] if need_grad else maps, need_grad)
    return sums.sum() / (channels * rows * inner)


@njit(parallel=True, cache=True, fastmath=_FAST)
def ssim_backward(pred, target, weights, grads, factor, out):
    """dSSIM/dpred [c, h, w]: the derivatives with respect to the maps, blurred again (the window is symmetric)."""
    channels, height, width = pred.shape
    rows, inner = height - TAPS + 1, width - TAPS + 1
    margin = TAPS - 1
    bands = (height + _BAND_ROWS - 1) // _BAND_ROWS
    for task in prange(channels * bands):
        channel, first = task // bands, (task % bands) * _BAND_ROWS
        last = min(first + _BAND_ROWS, height)
        nearby = np.zeros(
            (last - first + margin, 3, inner), np.float32
        )  # rows first - 10 .. last - 1 of the derivatives
        for y in range(max(first - margin, 0), min(last, rows)):
            nearby[y - first + margin] = grads[channel, :, y]
        vertical, blurred = np.zeros((3, inner + 2 * margin), np.float32), np.empty((3, width), np.float32)
        for y in range(first, last):
            for plane in range(3):
                _blur_column(nearby, y - first, plane, weights, vertical[plane, margin : margin + inner])
                _blur_row(vertical[plane], weights, blurred[plane])
            _pixel_gradient_row(pred[channel, y], target[channel, y], blurred, factor, out[channel, y])


@njit(cache=True, fastmath=_FAST)
def _pixel_gradient_row(p, t, blurred, factor, out):
    """Chain rule of the products: gradient of one row of pixels from the blurred derivatives."""
    two = np.float32(2.0)
    for x in range(out.shape[0]):
        out[x] = factor * (blurred[0, x] + two * p[x] * blurred[1, x] + t[x] * blurred[2, x])


def _padded_planes(image: Tensor) -> Float[Tensor, "c h+10 w+10"]:
    """Channels first, mirrored by half a window on each side."""
    half = TAPS // 2
    return pad(image.permute(2, 0, 1)[None], (half, half, half, half), mode="reflect")[0]


class _FusedSsim(torch.autograd.Function):
    """Mean SSIM of planes [c, h, w] over the pixels whose whole window lies inside."""

    @staticmethod
    def forward(ctx: Any, pred: Tensor, target: Tensor) -> Tensor:
        p, t = (tensor.detach().to(torch.float32).contiguous().numpy() for tensor in (pred, target))
        need_grad = ctx.needs_input_grad[0]
        c, h, w = p.shape
        grads = np.empty((c, 3, h - TAPS + 1, w - TAPS + 1) if need_grad else (0, 3, 1, 1), np.float32)
        value = ssim_forward(p, t, WEIGHTS, need_grad, grads)
        ctx.kept = (p, t, grads)
        return pred.new_tensor(value)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        p, t, grads = ctx.kept
        out = np.empty_like(p)
        count = grads.shape[0] * grads.shape[2] * grads.shape[3]
        ssim_backward(p, t, WEIGHTS, grads, np.float32(float(upstream[0]) / count), out)
        return torch.from_numpy(out).to(upstream[0].dtype), None
