"""Lookup in a variance shadow map (shadow_map.py): visibility 1 - a d² / (v + d²) of a point d below the mean height.

On the CPU the lookup is one kernel: a point reads four cells, and its gradient is added to those. In torch,
`grid_sample` uses one thread per map in both directions, and the formula needs a dozen passes over all points.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import prange
from torch import Tensor
from torch.nn.functional import grid_sample

from skyfall_ns.geo.compilation import njit

MIN_ALPHA = 1e-3  # below this there is no surface
_FAST = {"contract", "reassoc", "nsz", "arcp"}
GRADIENT_COPIES = 4  # of the map, added one after another: the same bits for any number of threads
_F0, _F1, _HALF = np.float32(0.0), np.float32(1.0), np.float32(0.5)
_MIN_ALPHA = np.float32(MIN_ALPHA)


def sample_sun_visibility(
    moments: Float[Tensor, "h w 3"], points: Float[Tensor, "n 3"], rows: Float[Tensor, "3 4"], min_variance: float
) -> Float[Tensor, " n"]:
    """Sun visibility of points, 0..1, from the moments of a shadow map (bilinear, zero outside the map).

    `rows` map a point to its column and row (0 at the map's corner) and to the height that is compared with the mean
    height; `min_variance` is the lower bound of the variance. Gradients flow to the moments only."""
    points, rows = points.detach(), rows.to(points)
    if points.device.type == "cpu":
        return _ShadowLookup.apply(moments, points, rows, min_variance)  # type: ignore[no-any-return]
    return _sample_with_torch(moments, points, rows, min_variance)


def _sample_with_torch(moments: Tensor, points: Tensor, rows: Tensor, min_variance: float) -> Tensor:
    """The lookup with `grid_sample`, for devices where that is fast."""
    column, row, height = (points @ rows[:, :3].T + rows[:, 3]).unbind(-1)
    grid = torch.stack([2 * column / moments.shape[1] - 1, 2 * row / moments.shape[0] - 1], -1)
    sampled = grid_sample(moments.movedim(-1, 0)[None], grid[None, None], align_corners=False)[0, :, 0]
    mean, square = sampled[:2] / sampled[2].clamp_min(MIN_ALPHA)
    variance = (square - mean**2).clamp_min(0) + min_variance
    below = torch.relu(mean - height)
    return 1 - sampled[2] * below**2 / (variance + below**2)


@njit(cache=True, fastmath=_FAST, forceinline=True)
def apply_row(point, row):
    """One row of an affine map."""
    return row[0] * point[0] + row[1] * point[1] + row[2] * point[2] + row[3]


@njit(cache=True, fastmath=_FAST, forceinline=True)
def find_cell(point, rows, shape):
    """(first column, first row, weights of the next column and row) of a point; (-2, -2, 0, 0) outside the map."""
    x, y = apply_row(point, rows[0]) - _HALF, apply_row(point, rows[1]) - _HALF
    if not (x > -_F1 and y > -_F1 and x < shape[1] and y < shape[0]):  # also false for NaN
        return -2, -2, _F0, _F0
    column, row = int(np.floor(x)), int(np.floor(y))
    return column, row, np.float32(x - column), np.float32(y - row)


@njit(cache=True, fastmath=_FAST, forceinline=True)
def bilinear_weight(weight_x, weight_y, dx, dy):
    """Weight of one of the four cells."""
    return (weight_x if dx else _F1 - weight_x) * (weight_y if dy else _F1 - weight_y)


@njit(cache=True, fastmath=_FAST, forceinline=True)
def sample_moments(moments, column, row, weight_x, weight_y):
    """Bilinear sample of the moments, zero outside the map."""
    height, width = moments.shape[:2]
    first, second, alpha = _F0, _F0, _F0
    for dy in range(2):
        for dx in range(2):
            c, r = column + dx, row + dy
            if 0 <= c < width and 0 <= r < height:
                weight = bilinear_weight(weight_x, weight_y, dx, dy)
                first += weight * moments[r, c, 0]
                second += weight * moments[r, c, 1]
                alpha += weight * moments[r, c, 2]
    return first, second, alpha


@njit(cache=True, fastmath=_FAST, forceinline=True)
def visibility_and_derivatives(first, second, alpha, height, min_variance):
    """Sun visibility at a height, and its derivatives with respect to the three moments."""
    inverse = _F1 / max(alpha, _MIN_ALPHA)
    mean, square = first * inverse, second * inverse
    sample_variance, depth = square - mean * mean, max(mean - height, _F0)
    unclamped = _F1 if sample_variance > _F0 else _F0
    variance = max(sample_variance, _F0) + min_variance
    inverse_sum = _F1 / (variance + depth * depth)
    occlusion = depth * depth * inverse_sum
    by_variance = -occlusion * inverse_sum * unclamped
    by_mean = (depth + depth) * variance * inverse_sum * inverse_sum - (mean + mean) * by_variance
    by_alpha = -(by_mean * mean + by_variance * square) * inverse if alpha >= _MIN_ALPHA else _F0
    scale = -alpha * inverse
    return _F1 - alpha * occlusion, scale * by_mean, scale * by_variance, -alpha * by_alpha - occlusion


@njit(parallel=True, cache=True, fastmath=_FAST)
def _forward_kernel(moments, points, rows, min_variance, sun_visibility, slopes):
    """Sun visibility of all points; `slopes` [n, 3] (or [0, 3]: not wanted) gets the derivatives with respect to the
    sampled moments."""
    for i in prange(len(points)):
        column, row, weight_x, weight_y = find_cell(points[i], rows, moments.shape)
        first, second, alpha = sample_moments(moments, column, row, weight_x, weight_y)
        sun_visibility[i], a, b, c = visibility_and_derivatives(
            first, second, alpha, apply_row(points[i], rows[2]), min_variance
        )
        if len(slopes):
            slopes[i, 0], slopes[i, 1], slopes[i, 2] = a, b, c


@njit(cache=True, fastmath=_FAST, forceinline=True)
def add_to_cells(gradient, cell, slope):
    """Add the derivatives `slope` with respect to the sampled moments to the four cells of a point."""
    height, width = gradient.shape[:2]
    column, row, weight_x, weight_y = cell
    for dy in range(2):
        for dx in range(2):
            c, r = column + dx, row + dy
            if 0 <= c < width and 0 <= r < height:
                weight = bilinear_weight(weight_x, weight_y, dx, dy)
                for k in range(3):
                    gradient[r, c, k] += weight * slope[k]


@njit(parallel=True, cache=True, fastmath=_FAST)
def _backward_kernel(upstream, slopes, points, rows, copies):
    """Add the gradient of each point to the cells that it reads; every task has its own copy of the map."""
    height, width = copies.shape[1:3]
    for copy in prange(len(copies)):
        begin, end = copy * len(points) // len(copies), (copy + 1) * len(points) // len(copies)
        for i in range(begin, end):
            cell = find_cell(points[i], rows, (height, width))
            slope = upstream[i] * slopes[i, 0], upstream[i] * slopes[i, 1], upstream[i] * slopes[i, 2]
            add_to_cells(copies[copy], cell, slope)


class _ShadowLookup(torch.autograd.Function):
    """The kernels as one differentiable call."""

    @staticmethod
    def forward(ctx: Any, moments: Tensor, points: Tensor, rows: Tensor, min_variance: float) -> Tensor:
        m, p, r = (t.detach().to(torch.float32).contiguous().numpy() for t in (moments, points, rows))
        sun_visibility = np.empty(len(p), np.float32)
        slopes = np.empty((len(p) if ctx.needs_input_grad[0] else 0, 3), np.float32)
        _forward_kernel(m, p, r, np.float32(min_variance), sun_visibility, slopes)
        ctx.kept = (slopes, p, r, m.shape)
        return torch.from_numpy(sun_visibility).to(points.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        slopes, points, rows, shape = ctx.kept
        copies = np.zeros((GRADIENT_COPIES, *shape), np.float32)
        _backward_kernel(upstream[0].to(torch.float32).contiguous().numpy(), slopes, points, rows, copies)
        return torch.from_numpy(copies.sum(0)).to(upstream[0].dtype), None, None, None
