"""Shadows as sharp as pixels: a splat is in the sun or not as a whole, a pixel of smooth ground is asked itself.

    light = blended light * (sky + s_z l(p)) / (sky + s_z l)

l is the sunlight on splats as it is blended, l(p) that on the point p which the pixel shows, s_z that of the sun on
level ground. Where surfaces meet in a pixel, its expected depth is on none of them: there the splats' light stays.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from skyfall_ns.models.appearance.lighting import Look
from skyfall_ns.models.appearance.shadow_lookup import FAINTEST
from skyfall_ns.models.appearance.shadow_map import SunMap
from skyfall_ns.models.geometry.view import View, points_of
from skyfall_ns.models.rasterizers import Rendering

ROUGH_M = 1.2  # second difference of heights from pixel to pixel from which the splats' light stays


def smoothness(heights_m: Float[Tensor, "h w"]) -> Float[Tensor, "h w"]:
    """1 where heights run straight from pixel to pixel, falling to 0 where they or a neighbour bend by ROUGH_M."""
    padded, middle = _padded(heights_m), 2 * heights_m
    along = (middle - padded[1:-1, :-2] - padded[1:-1, 2:]).abs()
    down = (middle - padded[:-2, 1:-1] - padded[2:, 1:-1]).abs()
    bends = _padded(torch.maximum(along, down))
    rows = torch.maximum(torch.maximum(bends[:-2], bends[1:-1]), bends[2:])
    return (1 - torch.maximum(torch.maximum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:]) / ROUGH_M).clamp(0, 1)


def _padded(values: Float[Tensor, "h w"]) -> Float[Tensor, "h+2 w+2"]:
    return pad(values[None], (1, 1, 1, 1), mode="replicate")[0]


def sharpened(
    light: Float[Tensor, "h w b"], lit: Float[Tensor, "h w"], drawn: Rendering, view: View, sun_map: SunMap, look: Look
) -> Float[Tensor, "h w b"]:
    """Blended light with the shadows of pixels in place of those of splats; `lit` is the splats' sunlight as it was
    blended, like `light` not divided by alpha. Gradients flow to the map, not to depths."""
    assert look.sun is not None
    points = points_of(view, drawn.depth.detach())
    asked = sun_map.lit(points.reshape(-1, 3)).reshape(lit.shape)
    blended = lit / drawn.alpha.clamp_min(FAINTEST)
    smooth = smoothness(points[..., 2] / sun_map.per_m)
    sky, direct = look.log_sky.exp(), look.sun[2]
    finer = torch.lerp(blended, asked, smooth)
    return light * ((sky + direct * finer[..., None]) / (sky + direct * blended[..., None]))
