"""Consistency of sheared views (EOGS): a satellite view and one tilted a little must show the same heights and colours.

Both are parallel views whose pixels differ by shear * z, so that a drawn height tells where each pixel goes.
"""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample

from skyfall_ns.models.geometry.view import View, points_of
from skyfall_ns.models.rasterizers import Rendering

TILT = 0.1  # standard deviation of the shear: metres sideways per metre of height (EOGS clips at one of them)
SAME_M = 0.3  # heights that differ by more are different surfaces (EOGS)
HEIGHT_SHARE, COLOR_SHARE = 0.01, 0.10  # EOGS' weights of metres and of colours


@dataclass(frozen=True)
class Shear:
    """A view tilted by `px` pixels (column, row) per model unit of height."""

    view: View
    px: Float[Tensor, "2"]


def sheared(view: View, pixels_per_unit: float) -> Shear:
    """A random tilt, normally distributed and clipped at one standard deviation."""
    tilt = torch.randn(2, dtype=torch.float64).clamp(-1, 1) * TILT * pixels_per_unit
    camera = view.camera_from_model.clone()
    camera[:2, 2] += tilt
    return Shear(replace(view, camera_from_model=camera), tilt)


def heights(drawn: Rendering, view: View) -> Float[Tensor, "h w"]:
    """Model-space z of what each pixel of a parallel view shows: the point on its line of sight at the drawn depth."""
    return points_of(replace(view, quadratic=None), drawn.depth)[..., 2]


def shear_loss(first: Rendering, second: Rendering, view: View, shear: Shear, scale: float) -> Tensor:
    """0.01 x mean |height difference in metres| + 0.1 x mean |colour difference| between a view and its sheared
    neighbour, looked up where the view's heights (detached) say; over pixels whose heights differ by less than 0.3 m.
    `scale` is model units per metre."""
    z, other = heights(first, view), heights(second, shear.view)
    h, w = z.shape
    y, x = torch.meshgrid(torch.arange(h) + 0.5, torch.arange(w) + 0.5, indexing="ij")
    tilt = shear.px.to(z)
    position = torch.stack([x.to(z) + tilt[0] * z.detach(), y.to(z) + tilt[1] * z.detach()], -1)
    grid = position * z.new_tensor([2 / w, 2 / h]) - 1
    stack = torch.cat([other[None], second.color.permute(2, 0, 1), second.alpha[None]])
    looked_up = grid_sample(stack[None], grid[None], mode="bilinear", align_corners=False)[0]
    apart_m = (looked_up[0] - z).abs() / scale
    solid = (first.alpha > 0.5) & (looked_up[-1] > 0.5) & (apart_m < SAME_M)
    count = solid.sum().clamp_min(1)
    colors = (looked_up[1:-1].permute(1, 2, 0) - first.color).abs().mean(-1)
    return (HEIGHT_SHARE * (apart_m * solid).sum() + COLOR_SHARE * (colors * solid).sum()) / count
