"""Light of Gaussians at the sensor: albedo, sun and sky, sensor, appearance coefficients (see lighting.py).

On the CPU one kernel computes it in each direction (shading_kernels.py); other devices use torch.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.appearance import shading_kernels
from skyfall_ns.models.appearance.embeddings import apply_coefficients
from skyfall_ns.models.appearance.lighting import (
    ImageAppearance,
    apply_sensor_model,
    normals_from_quats,
    relative_irradiance,
)


def shade_gaussians(
    albedo: Float[Tensor, "n b"],
    quats: Float[Tensor, "n 4"],
    sun_visibility: Float[Tensor, " n"] | None,
    coefficients: Float[Tensor, "n 2*b"] | None,
    appearance: ImageAppearance,
    shading: bool,
    append_visibility: bool = False,
) -> Float[Tensor, "n c"]:
    """Light of Gaussians in an image, "n b"; with `append_visibility` their sun visibility is one more channel.

    Without a sun there is no shading and no shadow. `shading` off: all surfaces are level; `sun_visibility` None: all
    are in the sun. `coefficients` are those of `AppearanceEmbedding` (None: none)."""
    if albedo.device.type != "cpu":
        light = shade_with_torch(albedo, quats, sun_visibility, coefficients, appearance, shading)
        return torch.cat([light, sun_visibility[:, None]], -1) if append_visibility else light  # type: ignore[index]
    sun = torch.tensor(appearance.sun or (), dtype=torch.float32)
    if appearance.sun is None or (sun_visibility is None and not shading):
        sun = sun[:0]  # all light is 1
    return _Shade.apply(  # type: ignore[no-any-return]
        albedo, quats, sun_visibility, coefficients, appearance.log_gain, appearance.path_radiance,
        appearance.log_ambient, sun, shading, append_visibility,
    )  # fmt: skip


def shade_with_torch(
    albedo: Float[Tensor, "n b"],
    quats: Float[Tensor, "n 4"],
    sun_visibility: Float[Tensor, " n"] | None,
    coefficients: Float[Tensor, "n 2*b"] | None,
    appearance: ImageAppearance,
    shading: bool,
) -> Float[Tensor, "n b"]:
    """`shade_gaussians` in torch's operations."""
    irradiance = None
    if appearance.sun is not None and (sun_visibility is not None or shading):
        normals = normals_from_quats(quats) if shading else None
        irradiance = relative_irradiance(normals, sun_visibility, appearance.sun, appearance.log_ambient.exp())
    light = apply_sensor_model(albedo, irradiance, appearance)
    return light if coefficients is None else apply_coefficients(coefficients, light)


def _kernel_array(tensor: Tensor | None, *empty: int) -> np.ndarray:
    """A tensor as a float32 array; an empty array of a shape for None."""
    if tensor is None:
        return np.empty(empty, np.float32)
    return tensor.detach().to(torch.float32).contiguous().numpy()


class _Shade(torch.autograd.Function):
    """The kernels as one differentiable call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        albedo, quats, visibility, coefficients, log_gain, path_radiance, log_ambient, sun, shading, append = inputs
        bands = albedo.shape[1]
        sensor = torch.stack([log_gain.exp(), path_radiance, log_ambient.exp()])
        arrays = (
            _kernel_array(albedo), _kernel_array(quats), _kernel_array(visibility, 0),
            _kernel_array(coefficients, 0, 2 * bands), _kernel_array(sensor), sun.numpy(), shading,
        )  # fmt: skip
        out = np.empty((len(albedo), bands + append), np.float32)
        shading_kernels.shade_forward(*arrays, out)
        ctx.kept, ctx.dtypes = arrays, [t.dtype if isinstance(t, Tensor) else None for t in inputs[:7]]
        return torch.from_numpy(out).to(albedo.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        albedo, quats, visibility, coefficients, sensor, sun, shading = ctx.kept
        blocks = -(-len(albedo) // shading_kernels.BLOCK)
        shaded = len(sun) > 0 and shading
        gradients = [
            np.empty_like(albedo), np.empty_like(quats if shaded else quats[:0]), np.empty_like(visibility),
            np.empty_like(coefficients),
        ]  # fmt: skip
        d_sensor = np.empty((blocks, *sensor.shape), np.float32)
        shading_kernels.shade_backward(*ctx.kept, _kernel_array(upstream[0]), *gradients, d_sensor)
        sums = d_sensor.sum(0, dtype=np.float64)
        sums[2] *= sensor[2]
        present = [True, shaded, len(visibility) > 0, len(coefficients) > 0]
        arrays = [array if kept else None for array, kept in zip(gradients, present, strict=True)]
        arrays += [sums[0], sums[1], sums[2] if len(sun) else None]
        tensors = (
            None if array is None or dtype is None else torch.from_numpy(array).to(dtype)
            for array, dtype in zip(arrays, ctx.dtypes, strict=True)
        )
        return (*tensors, None, None, None)
