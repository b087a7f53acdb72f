"""Display colors of blended light: shadows per pixel on smooth ground, division by alpha, gamma (see lighting.py).

On the CPU one kernel computes them in each direction (pixel_kernels.py); other devices use torch.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false

from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.appearance import pixel_kernels
from skyfall_ns.models.appearance.lighting import ImageAppearance, encode_premultiplied
from skyfall_ns.models.appearance.pixel_shadows import apply_pixel_shadows
from skyfall_ns.models.appearance.shadow_lookup import GRADIENT_COPIES
from skyfall_ns.models.appearance.shadow_map import ShadowMap
from skyfall_ns.models.rasterizers import Rendering
from skyfall_ns.view import View, quadratic_displacement


def display_color(
    blended: Rendering, bands: int, view: View, appearance: ImageAppearance, shadow_map: ShadowMap | None
) -> Float[Tensor, "h w 3"]:
    """Display colors, premultiplied by alpha, of a rendering of light; one band becomes gray.

    With a shadow map, shadows are evaluated per pixel on smooth ground; the channel after the bands is then the blended
    sun visibility of the Gaussians. Gradients flow to light, alpha, ambient light and shadow map, not to depths."""
    if blended.color.device.type != "cpu":
        return display_color_with_torch(blended, bands, view, appearance, shadow_map)
    moments = None if shadow_map is None else shadow_map.moments
    color = _DisplayColor.apply(
        blended.color,
        blended.alpha,
        blended.depth,
        appearance.log_ambient,
        moments,
        bands,
        view,
        appearance,
        shadow_map,
    )
    return color.expand(-1, -1, 3)  # type: ignore[no-any-return]


def display_color_with_torch(
    blended: Rendering, bands: int, view: View, appearance: ImageAppearance, shadow_map: ShadowMap | None
) -> Float[Tensor, "h w 3"]:
    """`display_color` in torch's operations."""
    light = blended.color[..., :bands]
    if shadow_map is not None:
        light = apply_pixel_shadows(light, blended.color[..., bands], blended, view, shadow_map, appearance)
    return encode_premultiplied(light, blended.alpha)


def _pixel_geometry(view: View) -> tuple[np.ndarray, np.ndarray]:
    """(along columns, along rows, along depth, origin) [4, 3] of a view in model space, and its quadratic displacement
    [3, 6] (without one [0, 6])."""
    k, pose = view.intrinsics.double().cpu(), torch.linalg.inv(view.camera_from_model.double().cpu())[:3]
    right, down = pose[:, 0] / k[0, 0], pose[:, 1] / k[1, 1]
    corner = -k[0, 2] * right - k[1, 2] * down
    along_depth, origin = (
        (pose[:, 2] + corner, pose[:, 3]) if view.projection == "pinhole" else (pose[:, 2], pose[:, 3] + corner)
    )
    displacement = np.empty((0, 6), np.float32) if view.quadratic is None else _contiguous(quadratic_displacement(view))
    return _contiguous(torch.stack([right, down, along_depth, origin])), displacement


def _contiguous(tensor: Tensor) -> np.ndarray:
    return tensor.detach().to(torch.float32).contiguous().numpy()


class _DisplayColor(torch.autograd.Function):
    """The kernels as one differentiable call."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        color, alpha, depth, log_ambient, moments, bands, view, appearance, shadow_map = inputs
        blended, a, d = _contiguous(color), _contiguous(alpha), _contiguous(depth)
        (height, width), for_backward = a.shape, any(ctx.needs_input_grad)
        pixels = 0 if shadow_map is None else width
        smoothness, visibility = (np.empty((height, pixels), np.float32) for _ in range(2))
        slopes = np.empty((height, pixels if for_backward else 0, 3), np.float32)
        ambient, direct = np.exp(_contiguous(log_ambient)), np.float32(0.0 if shadow_map is None else appearance.sun[2])
        geometry, displacement = _pixel_geometry(view)
        shared = blended, a, d, bands, ambient, direct, geometry, view.projection == "pinhole", displacement
        out = np.empty((height, width, bands), np.float32)
        if shadow_map is None:
            m, rows, min_variance, meters = np.empty((0, 0, 3), np.float32), np.zeros((3, 4), np.float32), 1.0, 1.0
        else:
            m, rows, min_variance = _contiguous(moments), _contiguous(shadow_map.lookup_rows()), shadow_map.min_variance
            meters = 1 / shadow_map.scale
        pixel_kernels.display_forward(
            *shared, np.float32(meters), m, rows, np.float32(min_variance), smoothness, visibility, slopes, out
        )
        ctx.kept = (shared, rows, smoothness, visibility, slopes), m.shape, color.dtype
        return torch.from_numpy(out).to(color.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        (shared, *kept), map_shape, dtype = ctx.kept
        blended, alpha, ambient, bands = shared[0], shared[1], shared[4], shared[3]
        d_blended, d_alpha = np.zeros_like(blended), np.empty_like(alpha)
        d_ambient, d_moments = (np.zeros((GRADIENT_COPIES, *s), np.float32) for s in ((bands,), map_shape))
        pixel_kernels.display_backward(
            *shared, *kept, _contiguous(upstream[0]), d_blended, d_alpha, d_ambient, d_moments
        )
        shadows = map_shape[0] > 0
        gradients = (
            d_blended, d_alpha, None, d_ambient.sum(0) * ambient if shadows else None,
            d_moments.sum(0) if shadows else None,
        )  # fmt: skip
        return (*(None if g is None else torch.from_numpy(g).to(dtype) for g in gradients), None, None, None, None)
