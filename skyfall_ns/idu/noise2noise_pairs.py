"""What a scene knows of its own noise: pairs of pictures of one view that differ in nothing else.

Splats are drawn with the colours of a random share of them, over the shape of all, and again with those of the rest.
What both pictures show is the scene; what only one shows is noise of single splats. A network that predicts one from
the other learns to leave the noise out, without a clean picture ever seen (Noise2Noise, Lehtinen et al. 2018).
"""

import torch

from skyfall_ns.models.appearance.lighting import THINNEST, encode
from skyfall_ns.models.geometry.view import View, bend
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.refiners.denoiser_pairs import Pair

SOLID = 0.9  # alpha above which a pixel is scene
SHOWN = 0.05  # least part of a pixel's light that both pictures must have


@torch.no_grad()
def thinned_pair(model: SkyfallModel, view: View, image: int, share: float, generator: torch.Generator) -> Pair:
    """A view in the look of a training image with the colours of `share` of the splats, and with those of the rest."""
    look, bands = model.looks.of(image), model.on_model.bands
    sun_map = model.sun_map(look, image)
    colors = model.drawn_colors(view, look, sun_map)
    splats = model.gaussians()
    bent = Gaussians(bend(splats.means, view), splats.quats, splats.scales, splats.opacities)
    draw = pick_rasterizer(model.device)
    chosen = (torch.rand(len(colors), 1, generator=generator) < share).to(colors)
    whole, part = draw(bent, colors, view), draw(bent, colors[:, :bands] * chosen, view)
    every, some = (model.finished(d.color[..., :bands], whole, view, look, sun_map) for d in (whole, part))
    covered = draw(bent, chosen.expand(-1, 3).contiguous(), view).color[..., :1]
    rest = whole.alpha[..., None] - covered
    first, second = (
        encode(color / cover.clamp_min(THINNEST)).clamp(0, 1).expand(-1, -1, 3).cpu()
        for color, cover in ((some, covered), (every - some, rest))
    )
    known = (whole.alpha > SOLID) & (torch.minimum(covered, rest)[..., 0] > SHOWN)
    return Pair(first, second, known.float().cpu())
