"""Image pairs for Noise2Noise training: two images of one view with independent noise of single Gaussians.

The first image has the colors of a random part of the Gaussians, the second those of the others; opacity and shape are
those of all Gaussians in both. What both images show is the scene; what only one shows is noise of single Gaussians. A
network that predicts one from the other learns to remove the noise without clean images (Noise2Noise, Lehtinen et al.
2018).
"""

from functools import partial

import torch

from skyfall_ns.models.renderer import Renderer, encode_covered
from skyfall_ns.refiners.denoiser_pairs import ImagePair
from skyfall_ns.view import View

SOLID_ALPHA = 0.9  # pixels with less alpha have weight 0
MIN_LIGHT_SHARE = 0.05  # pixels of which one image has less of the blending weights have weight 0


@torch.no_grad()
def noise2noise_pair(renderer: Renderer, view: View, image: int, share: float, generator: torch.Generator) -> ImagePair:
    """Render a view, in the appearance of training image `image`, with the colors of a random fraction `share` of the
    Gaussians, and with those of the others."""
    appearance, bands = renderer.appearance_model.image_appearance(image), renderer.normalized.band_count
    shadow_map = renderer.shadow_map(appearance, image)
    colors = renderer.blended_colors(view, appearance, shadow_map)
    blend = partial(renderer.rasterize, view, renderer.gaussians())
    chosen = (torch.rand(len(colors), 1, generator=generator) < share).to(colors)
    whole, part = blend(colors), blend(colors[:, :bands] * chosen)
    whole_light, part_light = (
        renderer.composite(rendering.color[..., :bands], whole, view, appearance, shadow_map)
        for rendering in (whole, part)
    )
    cover = blend(chosen.expand(-1, 3).contiguous()).color[..., :1]
    other_cover = whole.alpha[..., None] - cover
    first = encode_covered(part_light, cover).cpu()
    second = encode_covered(whole_light - part_light, other_cover).cpu()
    known = (whole.alpha > SOLID_ALPHA) & (torch.minimum(cover, other_cover)[..., 0] > MIN_LIGHT_SHARE)
    return ImagePair(first, second, known.float().cpu())
