"""Shadows per pixel: a Gaussian is in the sun or not as a whole; on smooth ground each pixel is evaluated instead.

    light = blended light * (ambient + s_z v(p)) / (ambient + s_z v)

v is the blended sun visibility of the Gaussians, v(p) that of the point p at the depth of the pixel, s_z the irradiance
of level ground by the sun. Where surfaces meet in a pixel, its expected depth is on none of them: there the light of
the Gaussians stays.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from skyfall_ns.models.appearance.lighting import ImageAppearance
from skyfall_ns.models.appearance.pixel_kernels import MAX_CURVATURE_M
from skyfall_ns.models.appearance.shadow_lookup import MIN_ALPHA
from skyfall_ns.models.appearance.shadow_map import ShadowMap
from skyfall_ns.models.rasterizers import Rendering
from skyfall_ns.view import View, unproject_depth


def surface_smoothness(heights_m: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """1 where heights are linear from pixel to pixel, falling to 0 at a curvature of MAX_CURVATURE_M there or next to
    it."""
    padded, twice = _pad_replicate(heights_m), 2 * heights_m
    along_rows = (twice - padded[1:-1, :-2] - padded[1:-1, 2:]).abs()
    along_columns = (twice - padded[:-2, 1:-1] - padded[2:, 1:-1]).abs()
    curvature = _pad_replicate(torch.maximum(along_rows, along_columns))
    rows = torch.maximum(torch.maximum(curvature[:-2], curvature[1:-1]), curvature[2:])
    largest = torch.maximum(torch.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
    return (1 - largest / MAX_CURVATURE_M).clamp(0, 1)


def _pad_replicate(values: Float[Tensor, "h w"]) -> Float[Tensor, "h+2 w+2"]:
    """Values with a border of one pixel, replicated."""
    return pad(values[None], (1, 1, 1, 1), mode="replicate")[0]


def apply_pixel_shadows(
    light: Float[Tensor, "h w b"],
    sun_visibility: Float[Tensor, "h w"],
    rendering: Rendering,
    view: View,
    shadow_map: ShadowMap,
    appearance: ImageAppearance,
) -> Float[Tensor, "h w b"]:
    """Replace the shadows of Gaussians in blended light by those of pixels; `sun_visibility` is that of the Gaussians,
    blended and, like `light`, not divided by alpha. Gradients flow to the shadow map, not to depths."""
    assert appearance.sun is not None
    points = unproject_depth(view, rendering.depth.detach())
    pixel_visibility = shadow_map.sun_visibility(points.reshape(-1, 3)).reshape(sun_visibility.shape)
    blended_visibility = sun_visibility / rendering.alpha.clamp_min(MIN_ALPHA)
    smoothness = surface_smoothness(points[..., 2] / shadow_map.scale)
    ambient, direct = appearance.log_ambient.exp(), appearance.sun[2]
    visibility = torch.lerp(blended_visibility, pixel_visibility, smoothness)
    return light * ((ambient + direct * visibility[..., None]) / (ambient + direct * blended_visibility[..., None]))
