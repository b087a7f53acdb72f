"""Consistency of tilted views (EOGS): a satellite view and a slightly tilted one must show the same heights and colors.

Both are parallel views whose pixels differ by tilt * z, so the rendered height of a pixel determines its position in
the other view.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from skyfall_ns.models.rasterizers import Rendering
from skyfall_ns.view import View, unproject_depth

TILT_STD = 0.1  # standard deviation of the tilt: horizontal meters per meter of height (EOGS; clipped at one)
MAX_HEIGHT_DIFFERENCE_M = 0.3  # heights that differ by more are different surfaces (EOGS)
HEIGHT_WEIGHT, COLOR_WEIGHT = 0.01, 0.10  # of differences in meters and of colors (EOGS)


@dataclass(frozen=True)
class TiltedView:
    """A view tilted by `px_per_unit` pixels (column, row) per model unit of height."""

    view: View
    px_per_unit: Float[Tensor, "2"]


def tilt_view(view: View, pixels_per_unit: float) -> TiltedView:
    """Tilt a view at random, normally distributed and clipped at one standard deviation."""
    tilt = torch.randn(2, dtype=torch.float64).clamp(-1, 1) * TILT_STD * pixels_per_unit
    camera = view.camera_from_model.clone()
    camera[:2, 2] += tilt
    return TiltedView(replace(view, camera_from_model=camera), tilt)


def pixel_heights(rendering: Rendering, view: View) -> Float[Tensor, "h w"]:
    """Model-space z at each pixel of a parallel view: of the point on its line of sight at the rendered depth."""
    return unproject_depth(replace(view, quadratic=None), rendering.depth)[..., 2]


def view_consistency_loss(first: Rendering, second: Rendering, view: View, tilted: TiltedView, scale: float) -> Tensor:
    """0.01 x mean |height difference in meters| + 0.1 x mean |color difference| between a view and its tilted one.

    The tilted view is sampled at the positions that the (detached) heights of the first view determine; pixels whose
    heights differ by 0.3 m or more are ignored. `scale` is model units per meter."""
    first_z, second_z = pixel_heights(first, view), pixel_heights(second, tilted.view)
    h, w = first_z.shape
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    tilt = tilted.px_per_unit.to(first_z)
    position = torch.stack([x.to(first_z) + tilt[0] * first_z.detach(), y.to(first_z) + tilt[1] * first_z.detach()], -1)
    grid = position * first_z.new_tensor([2 / w, 2 / h]) - 1
    channels = torch.cat([second_z[None], second.color.permute(2, 0, 1), second.alpha[None]])
    sampled = grid_sample(channels[None], grid[None], mode="bilinear", align_corners=False)[0]
    difference_m = (sampled[0] - first_z).abs() / scale
    solid = (first.alpha > 0.5) & (sampled[-1] > 0.5) & (difference_m < MAX_HEIGHT_DIFFERENCE_M)
    count = solid.sum().clamp_min(1)
    colors = (sampled[1:-1].permute(1, 2, 0) - first.color).abs().mean(-1)
    return (HEIGHT_WEIGHT * (difference_m * solid).sum() + COLOR_WEIGHT * (colors * solid).sum()) / count
