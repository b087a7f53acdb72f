"""The surface terms of rendered heights as one kernel in each direction on the CPU.

The formulas are those of `losses.surface_loss`, `losses.total_variation` and `losses.coverage_loss`; other devices use
those.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import prange
from torch import Tensor

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models import losses

_FAST = {"contract", "reassoc", "nsz", "arcp"}
_F0, _F1 = np.float32(0.0), np.float32(1.0)
_MAX_ERROR_M = np.float32(losses.MAX_ERROR_M)


def height_terms(
    height_m: Float[Tensor, "h w"],
    alpha: Float[Tensor, "h w"],
    surface_m: Float[Tensor, "h w"],
    weight: Float[Tensor, "h w"],
    coverage_mask: Float[Tensor, "h w"],
    solid_alpha: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """(surface, total variation, coverage) of heights in meters; `weight` is that of the surface, which counts where
    alpha is above `solid_alpha`."""
    if height_m.device.type == "cpu":
        return _HeightTerms.apply(height_m, alpha, surface_m, weight, coverage_mask, solid_alpha)  # type: ignore[no-any-return]
    return height_terms_with_torch(height_m, alpha, surface_m, weight, coverage_mask, solid_alpha)


def height_terms_with_torch(
    height_m: Tensor, alpha: Tensor, surface_m: Tensor, weight: Tensor, coverage_mask: Tensor, solid_alpha: float
) -> tuple[Tensor, Tensor, Tensor]:
    """`height_terms` in torch's operations."""
    solid = weight * (alpha.detach() > solid_alpha)
    return (
        losses.surface_loss(height_m, surface_m, solid),
        losses.total_variation(height_m, weight),
        losses.coverage_loss(alpha, coverage_mask),
    )


@njit(parallel=True, cache=True, fastmath=_FAST)
def _sum_terms(height, alpha, surface, weight, coverage_mask, solid_alpha, sums):
    """Sums per row [h, 8]: surface error and weight, variation and pairs along rows, along columns, missing coverage
    and its weight."""
    rows, columns = height.shape
    for y in prange(rows):
        error = total = steps = pairs = missing = covered = 0.0
        steps_down = pairs_down = 0.0
        for x in range(columns):
            w = weight[y, x] if alpha[y, x] > solid_alpha else _F0
            if w > _F0:
                error += w * min(abs(height[y, x] - surface[y, x]), _MAX_ERROR_M)
                total += w
            if weight[y, x] > _F0:
                if x + 1 < columns and weight[y, x + 1] > _F0:
                    steps += min(abs(height[y, x + 1] - height[y, x]), _MAX_ERROR_M)
                    pairs += 1.0
                if y + 1 < rows and weight[y + 1, x] > _F0:
                    steps_down += min(abs(height[y + 1, x] - height[y, x]), _MAX_ERROR_M)
                    pairs_down += 1.0
            missing += (_F1 - alpha[y, x]) * coverage_mask[y, x]
            covered += coverage_mask[y, x]
        sums[y, 0], sums[y, 1], sums[y, 2], sums[y, 3] = error, total, steps, pairs
        sums[y, 4], sums[y, 5], sums[y, 6], sums[y, 7] = steps_down, pairs_down, missing, covered


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _slope(difference):
    """Derivative of min(|d|, MAX_ERROR_M)."""
    if abs(difference) > _MAX_ERROR_M or difference == _F0:
        return _F0
    return _F1 if difference > _F0 else -_F1


@njit(parallel=True, cache=True, fastmath=_FAST)
def _gradient_of_terms(height, alpha, surface, weight, coverage_mask, solid_alpha, factors, d_height, d_alpha):
    """Gradients; `factors`: of the surface error, of steps along rows and along columns, of missing coverage."""
    rows, columns = height.shape
    for y in prange(rows):
        for x in range(columns):
            gradient, h = _F0, height[y, x]
            if weight[y, x] > _F0:
                if alpha[y, x] > solid_alpha:
                    gradient += factors[0] * weight[y, x] * _slope(h - surface[y, x])
                if x + 1 < columns and weight[y, x + 1] > _F0:
                    gradient += factors[1] * _slope(h - height[y, x + 1])
                if x > 0 and weight[y, x - 1] > _F0:
                    gradient += factors[1] * _slope(h - height[y, x - 1])
                if y + 1 < rows and weight[y + 1, x] > _F0:
                    gradient += factors[2] * _slope(h - height[y + 1, x])
                if y > 0 and weight[y - 1, x] > _F0:
                    gradient += factors[2] * _slope(h - height[y - 1, x])
            d_height[y, x] = gradient
            d_alpha[y, x] = -factors[3] * coverage_mask[y, x]


class _HeightTerms(torch.autograd.Function):
    """The kernels as one differentiable call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor, Tensor]:
        arrays = tuple(t.detach().to(torch.float32).contiguous().numpy() for t in inputs[:5])
        solid_alpha, dtype = np.float32(inputs[5]), inputs[0].dtype
        row_sums = np.empty((len(arrays[0]), 8))
        _sum_terms(*arrays, solid_alpha, row_sums)
        sums = row_sums.sum(0)
        totals = np.maximum(sums[[1, 3, 5, 7]], [1e-6, 1, 1, 1e-6])
        ctx.kept = arrays, solid_alpha, totals, dtype
        terms = sums[0] / totals[0], sums[2] / totals[1] + sums[4] / totals[2], sums[6] / totals[3]
        surface, variation, coverage = (torch.tensor(term, dtype=dtype) for term in terms)
        return surface, variation, coverage

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        arrays, solid_alpha, totals, dtype = ctx.kept
        surface, variation, coverage = (float(g) for g in upstream)
        factors = (np.array([surface, variation, variation, coverage]) / totals).astype(np.float32)
        d_height, d_alpha = np.empty_like(arrays[0]), np.empty_like(arrays[1])
        _gradient_of_terms(*arrays, solid_alpha, factors, d_height, d_alpha)
        return torch.from_numpy(d_height).to(dtype), torch.from_numpy(d_alpha).to(dtype), None, None, None, None
