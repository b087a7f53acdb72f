"""Rendered heights and the surface they are tied to."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from torch import Tensor
from torch.nn.functional import max_pool2d

from skyfall_ns.dataparsers.skyfall_dataparser import SceneOnModel
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer
from skyfall_ns.models.view import DEPTH_OFFSET, View, nadir_view

MANY_VIEWS = 5  # so many images know better than stereo where a wall is; fewer do not (measured: docs/architecture.md)
FEW_PULL = 5.0  # the term's weight is so many times larger with fewer: they explain themselves by moving heights
RIM_M, STEP_M = 2.0, 1.5  # how far a wall may be off; heights that differ by more have a wall between them
APART_M, NEAR_M = 2.0, 0.3  # see Rendering.sharp_depth
FINER = 3  # heights are read in the middle of each cell, from cells so much smaller: a cell's own would blur its edges


def height_m(depth: Float[Tensor, "*n"], on_model: SceneOnModel) -> Float[Tensor, "*n"]:
    """Local metres of depths in a nadir view."""
    return (DEPTH_OFFSET - depth) / on_model.scale + on_model.centre_m[2]


def nadir_over(on_model: SceneOnModel, x_min_m: float, y_max_m: float, cell_m: float, width: int, height: int) -> View:
    """The nadir view of a north-up grid given in local metres."""
    s, centre = on_model.scale, on_model.centre_m
    return nadir_view((x_min_m - centre[0]) * s, (y_max_m - centre[1]) * s, cell_m * s, width, height)


@torch.no_grad()
def draw_heights(
    splats: Gaussians, on_model: SceneOnModel, x_min_m: float, y_max_m: float, cell_m: float, width: int, height: int,
    tile: int = 680,
) -> tuple[Float32[np.ndarray, "h w"], Float32[np.ndarray, "h w"]]:  # fmt: skip
    """Heights (local metres) and alpha in the middle of each cell of a north-up grid, seen from straight above, tile by
    tile; drawn on the CPU whatever the device, so that a scene has the same heights everywhere."""
    splats = Gaussians(splats.means.cpu(), splats.quats.cpu(), splats.scales.cpu(), splats.opacities.cpu())
    nothing, draw, middle = torch.zeros(len(splats.means), 0), pick_rasterizer("cpu"), FINER // 2
    heights, alphas = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    for row in range(0, height, tile):
        for column in range(0, width, tile):
            part = (slice(row, min(row + tile, height)), slice(column, min(column + tile, width)))
            west, north = x_min_m + column * cell_m, y_max_m - row * cell_m
            size = FINER * (part[1].stop - column), FINER * (part[0].stop - row)
            drawn = draw(splats, nothing, nadir_over(on_model, west, north, cell_m / FINER, *size))
            depth = drawn.sharp_depth(APART_M * on_model.scale, NEAR_M * on_model.scale)
            heights[part] = height_m(depth[middle::FINER, middle::FINER], on_model).numpy()
            alphas[part] = drawn.alpha[middle::FINER, middle::FINER].numpy()
    return heights, alphas


def rims(heights: Float[Tensor, "h w"], cell_m: float) -> Bool[Tensor, "h w"]:
    """Cells near a wall: matching windows reach over edges, so stereo does not know on which side of it these are."""
    reach = 2 * max(1, round(RIM_M / cell_m)) + 1
    lowest = -_highest(torch.where(torch.isfinite(heights), -heights, -torch.inf), reach)
    return _highest(torch.where(torch.isfinite(heights), heights, -torch.inf), reach) - lowest > STEP_M


def _highest(values: Float[Tensor, "h w"], reach: int) -> Float[Tensor, "h w"]:
    return max_pool2d(values[None, None], reach, stride=1, padding=reach // 2)[0, 0]


@dataclass(frozen=True)
class HeightTarget:
    """The dense surface as a nadir view sees it: local metres, and weights (confidence, 0 where unknown). Near
    walls many views decide by their colours, and the weight is 0. `pull` is a factor for the whole term."""

    view: View
    surface_m: Float[Tensor, "h w"]
    weight: Float[Tensor, "h w"]
    pull: float

    @classmethod
    def of(cls, on_model: SceneOnModel, device: torch.device) -> "HeightTarget | None":
        """The scene's surface on a device; None for scenes without one."""
        surface = on_model.surface
        if surface is None:
            return None
        rows, columns = surface.height_m.shape
        heights = torch.from_numpy(surface.height_m).to(device)
        known = torch.isfinite(heights)
        weight = torch.from_numpy(surface.confidence).to(device) * known
        many = len(on_model.image_names) >= MANY_VIEWS
        if many:
            weight = weight * ~rims(heights, surface.resolution_m)
        view = nadir_over(on_model, surface.x_min_m, surface.y_max_m, surface.resolution_m, columns, rows)
        return cls(view, torch.where(known, heights, torch.zeros_like(heights)), weight, 1.0 if many else FEW_PULL)
