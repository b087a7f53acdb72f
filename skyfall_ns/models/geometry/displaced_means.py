"""Displacement of means by the quadratic term of satellite cameras (`view.apply_quadratic_term`), fused on the CPU."""

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numba import prange
from torch import Tensor

from skyfall_ns.geo.compilation import njit
from skyfall_ns.view import View, apply_quadratic_term, quadratic_displacement

_FAST = {"contract", "reassoc", "nsz", "arcp"}
_F2 = np.float32(2.0)


def displace_means(means: Float[Tensor, "n 3"], view: View) -> Float[Tensor, "n 3"]:
    """Means moved so that the affine part of a view projects them like its quadratic camera."""
    if view.quadratic is None or means.device.type != "cpu":
        return apply_quadratic_term(means, view)
    return _Displace.apply(means, quadratic_displacement(view).float().numpy())  # type: ignore[no-any-return]


@njit(parallel=True, cache=True, fastmath=_FAST)
def _displace_forward(means, displacement, out):
    """out = means + displacement [3, 6] times the monomials xx, yy, zz, xy, xz, yz."""
    for i in prange(len(means)):
        x, y, z = means[i, 0], means[i, 1], means[i, 2]
        for k in range(3):
            d = displacement[k]
            out[i, k] = means[i, k] + (
                d[0] * x * x + d[1] * y * y + d[2] * z * z + d[3] * x * y + d[4] * x * z + d[5] * y * z
            )


@njit(parallel=True, cache=True, fastmath=_FAST)
def _displace_backward(means, displacement, upstream, out):
    """Gradient of the means: that of the displaced ones, and through the monomials."""
    for i in prange(len(means)):
        x, y, z = means[i, 0], means[i, 1], means[i, 2]
        gx, gy, gz = upstream[i, 0], upstream[i, 1], upstream[i, 2]
        for k in range(3):
            d, g = displacement[k], upstream[i, k]
            gx += g * (_F2 * d[0] * x + d[3] * y + d[4] * z)
            gy += g * (_F2 * d[1] * y + d[3] * x + d[5] * z)
            gz += g * (_F2 * d[2] * z + d[4] * x + d[5] * y)
        out[i, 0], out[i, 1], out[i, 2] = gx, gy, gz


class _Displace(torch.autograd.Function):
    """The kernels as one differentiable call."""

    @staticmethod
    def forward(ctx: Any, means: Tensor, displacement: np.ndarray) -> Tensor:
        values = means.detach().to(torch.float32).contiguous().numpy()
        out = np.empty_like(values)
        _displace_forward(values, displacement, out)
        ctx.kept = values, displacement
        return torch.from_numpy(out).to(means.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        values, displacement = ctx.kept
        out = np.empty_like(values)
        _displace_backward(values, displacement, upstream[0].to(torch.float32).contiguous().numpy(), out)
        return torch.from_numpy(out).to(upstream[0].dtype), None
