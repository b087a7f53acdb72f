"""The lookup in the sun's map (models/shadows.py): what reaches a point d below a mean height, 1 - a d² / (v + d²).

On the CPU it is fused: a point reads four cells, and its gradient goes back to those. By torch, `grid_sample` takes one
thread for a map, forward and back, and the formula behind it a dozen passes over all points.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import get_num_threads, njit, prange
from torch import Tensor
from torch.nn.functional import grid_sample

FAINTEST = 1e-3  # alpha below this stops nothing
_FAST = {"contract", "reassoc", "nsz", "arcp"}
_MOST_COPIES = 8  # of the map that gradients are added up in, one per thread
_F0, _F1, _HALF = np.float32(0.0), np.float32(1.0), np.float32(0.5)
_FAINTEST = np.float32(FAINTEST)


def sunlight_at(
    moments: Float[Tensor, "h w 3"], points: Float[Tensor, "n 3"], rows: Float[Tensor, "3 4"], least: float
) -> Float[Tensor, " n"]:
    """Share of the sun at points, 0..1, from a map's moments (bilinear, nothing around the map).

    `rows` take a point to its column and row (0 at the map's corner) and to the height below which it is in the shade;
    `least` is the least variance. Gradients go to the moments alone."""
    points, rows = points.detach(), rows.to(points)
    if points.device.type == "cpu":
        return _Lookup.apply(moments, points, rows, least)  # type: ignore[no-any-return]
    return _sunlight_torch(moments, points, rows, least)


def _sunlight_torch(moments: Tensor, points: Tensor, rows: Tensor, least: float) -> Tensor:
    """By `grid_sample`, for devices that are fast at it."""
    column, row, height = (points @ rows[:, :3].T + rows[:, 3]).unbind(-1)
    places = torch.stack([2 * column / moments.shape[1] - 1, 2 * row / moments.shape[0] - 1], -1)
    read = grid_sample(moments.movedim(-1, 0)[None], places[None, None], align_corners=False)[0, :, 0]
    mean, square = read[:2] / read[2].clamp_min(FAINTEST)
    variance = (square - mean**2).clamp_min(0) + least
    below = torch.relu(mean - height)
    return 1 - read[2] * below**2 / (variance + below**2)


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _place(point, row):
    return row[0] * point[0] + row[1] * point[1] + row[2] * point[2] + row[3]


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _cell(point, rows, size):
    """(first column, first row, part of the next column, of the next row) that a point reads; far out if none."""
    x, y = _place(point, rows[0]) - _HALF, _place(point, rows[1]) - _HALF
    if not (x > -_F1 and y > -_F1 and x < size[1] and y < size[0]):  # nor where they are no numbers
        return -2, -2, _F0, _F0
    column, row = int(np.floor(x)), int(np.floor(y))
    return column, row, np.float32(x - column), np.float32(y - row)


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _weight(across, down, dx, dy):
    return (across if dx else _F1 - across) * (down if dy else _F1 - down)


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _read(moments, column, row, across, down):
    """Bilinear, with nothing around the map."""
    height, width = moments.shape[:2]
    first, second, alpha = _F0, _F0, _F0
    for dy in range(2):
        for dx in range(2):
            c, r = column + dx, row + dy
            if 0 <= c < width and 0 <= r < height:
                weight = _weight(across, down, dx, dy)
                first += weight * moments[r, c, 0]
                second += weight * moments[r, c, 1]
                alpha += weight * moments[r, c, 2]
    return first, second, alpha


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _lit(first, second, alpha, height, least):
    """Sunlight at a height under moments, and its derivatives by the three of them."""
    inverse = _F1 / max(alpha, _FAINTEST)
    mean, square = first * inverse, second * inverse
    spread, below = square - mean * mean, max(mean - height, _F0)
    inner = _F1 if spread > _F0 else _F0
    variance = max(spread, _F0) + least
    whole = _F1 / (variance + below * below)
    stopped = below * below * whole
    by_variance = -stopped * whole * inner
    by_mean = (below + below) * variance * whole * whole - (mean + mean) * by_variance
    by_alpha = -(by_mean * mean + by_variance * square) * inverse if alpha >= _FAINTEST else _F0
    part = -alpha * inverse
    return _F1 - alpha * stopped, part * by_mean, part * by_variance, -alpha * by_alpha - stopped


@njit(parallel=True, cache=True, fastmath=_FAST)
def _forward(moments, points, rows, least, lit, slopes):
    """Sunlight of all points; `slopes` [n, 3], if it has room, gets its derivatives by what each has read."""
    for i in prange(len(points)):
        column, row, across, down = _cell(points[i], rows, moments.shape)
        first, second, alpha = _read(moments, column, row, across, down)
        lit[i], a, b, c = _lit(first, second, alpha, _place(points[i], rows[2]), least)
        if len(slopes):
            slopes[i, 0], slopes[i, 1], slopes[i, 2] = a, b, c


@njit(parallel=True, cache=True, fastmath=_FAST)
def _backward(upstream, slopes, points, rows, copies):
    """Add each point's gradient to the cells it has read; every thread has a copy of the map."""
    height, width = copies.shape[1:3]
    for part in prange(len(copies)):
        begin, end = part * len(points) // len(copies), (part + 1) * len(points) // len(copies)
        for i in range(begin, end):
            column, row, across, down = _cell(points[i], rows, (height, width))
            for dy in range(2):
                for dx in range(2):
                    c, r = column + dx, row + dy
                    if 0 <= c < width and 0 <= r < height:
                        weight = _weight(across, down, dx, dy) * upstream[i]
                        for k in range(3):
                            copies[part, r, c, k] += weight * slopes[i, k]


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, moments: Tensor, points: Tensor, rows: Tensor, least: float) -> Tensor:
        m, p, r = (t.detach().to(torch.float32).contiguous().numpy() for t in (moments, points, rows))
        lit = np.empty(len(p), np.float32)
        slopes = np.empty((len(p) if ctx.needs_input_grad[0] else 0, 3), np.float32)
        _forward(m, p, r, np.float32(least), lit, slopes)
        ctx.kept = (slopes, p, r, m.shape)
        return torch.from_numpy(lit).to(points.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None, None]:
        slopes, points, rows, shape = ctx.kept
        copies = np.zeros((min(get_num_threads(), _MOST_COPIES), *shape), np.float32)
        _backward(upstream[0].to(torch.float32).contiguous().numpy(), slopes, points, rows, copies)
        return torch.from_numpy(copies.sum(0)).to(upstream[0].dtype), None, None, None
