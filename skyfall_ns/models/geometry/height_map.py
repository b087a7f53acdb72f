"""Rendered heights and the surface they are tied to."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import max_pool2d

from skyfall_ns.models.appearance.lighting import normals_of
from skyfall_ns.models.geometry.view import View, nadir_view
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer
from skyfall_ns.scene.model_space import DEPTH_OFFSET, SceneOnModel

MANY_VIEWS = 5  # so many images know better than stereo where a wall is; fewer do not (measured: docs/architecture.md)
FEW_PULL = 5.0  # the term's weight is so many times larger with fewer: they explain themselves by moving heights
HELD_SIGMA_M = 0.5  # heights with a larger sigma weigh less, by the square of their ratio
RIM_M, STEP_M = 2.0, 1.5  # how far a wall may be off; heights that differ by more have a wall between them
APART_M, NEAR_M = 5.0, 0.3  # see Rendering.sharp_depth
FINER = 3  # heights are drawn in cells so much smaller than those asked for, whose own would blur edges
MIDDLE = FINER + FINER // 2  # of the first cell, behind a cell of margin
WIDE_CELLS, WIDE_M = 3, 1.5  # a cell's height is the median of a window so wide around its middle, at most WIDE_M
SOLID = 0.5  # alpha from which there is a depth: more than half of the light passes through the rest
WALL, EDGE_ON = 0.4, 0.1  # vertical parts of normals: below them a splat is a wall's (66 degrees), and hides (84)


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
) -> Float32[np.ndarray, "h w"]:  # fmt: skip
    """Heights of a north-up grid, seen from straight above: local metres, medians around each cell's middle, NaN where
    the middle is not solid. Drawn tile by tile, on the CPU whatever the device, so that a scene has the same heights
    everywhere."""
    splats = with_upright_walls(splats)
    nothing, draw, fine_m = torch.zeros(len(splats.means), 0), pick_rasterizer("cpu"), cell_m / FINER
    heights = np.zeros((height, width), np.float32)
    for row in range(0, height, tile):
        for column in range(0, width, tile):
            part = (slice(row, min(row + tile, height)), slice(column, min(column + tile, width)))
            west, north = x_min_m + (column - 1) * cell_m, y_max_m - (row - 1) * cell_m  # a cell more on each side
            size = FINER * (part[1].stop - column + 2), FINER * (part[0].stop - row + 2)
            drawn = draw(splats, nothing, nadir_over(on_model, west, north, fine_m, *size))
            depth = drawn.sharp_depth(APART_M * on_model.scale, NEAR_M * on_model.scale)
            solid = drawn.alpha >= SOLID
            known = medians(torch.where(solid, height_m(depth, on_model), torch.nan), window(fine_m))
            heights[part] = torch.where(solid[MIDDLE:-FINER:FINER, MIDDLE:-FINER:FINER], known, torch.nan).numpy()
    return heights


def with_upright_walls(splats: Gaussians) -> Gaussians:
    """Splats as heights are read from them, on the CPU. Those of walls are a metre tall and lean, and from above they
    hide the street beside them at any height between roof and street: they are turned upright, and left out if they
    nearly were already (measured: benchmarks/heights.md)."""
    normals = normals_of(splats.quats).cpu()
    keep = normals[:, 2].abs() >= EDGE_ON
    kept = Gaussians(*(value.cpu()[keep] for value in (splats.means, splats.quats, splats.scales, splats.opacities)))
    leans = normals[keep, 2].abs() < WALL
    kept.quats[leans] = upright(kept.quats[leans], normals[keep][leans])
    return kept


def upright(quats: Float[Tensor, "n 4"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
    """Quaternions (wxyz) turned the shortest way to level normals."""
    x, y, z = normals.double().unbind(-1)
    level = torch.hypot(x, y)
    turn = torch.stack([-y, x, torch.zeros_like(x)], -1) * (torch.atan2(z, level) / level)[:, None]
    turned = Rotation.from_rotvec(turn.numpy()) * Rotation.from_quat(quats.numpy()[:, [1, 2, 3, 0]])
    return torch.from_numpy(turned.as_quat()[:, [3, 0, 1, 2]]).to(quats)


def window(fine_m: float) -> int:
    """Fine cells across the window whose median is a height: an odd number."""
    across = min(WIDE_CELLS * FINER, int(WIDE_M / fine_m + 1e-6))
    return max(1, across - 1 + across % 2)


def medians(fine: Float[Tensor, "H W"], across: int) -> Float[Tensor, "h w"]:
    """Medians of windows around the middles of cells of FINER fine ones; the outermost cells only help, and NaN is
    left out."""
    rows, columns = (slice(MIDDLE - across // 2, size - MIDDLE + across // 2) for size in fine.shape)
    windows = fine[rows, columns].unfold(0, across, FINER).unfold(1, across, FINER)
    return windows.flatten(-2).nanmedian(-1).values


def rims(heights: Float[Tensor, "h w"], cell_m: float) -> Bool[Tensor, "h w"]:
    """Cells near a wall: matching windows reach over edges, so stereo does not know on which side of it these are."""
    reach = 2 * max(1, round(RIM_M / cell_m)) + 1
    lowest = -_highest(torch.where(torch.isfinite(heights), -heights, -torch.inf), reach)
    return _highest(torch.where(torch.isfinite(heights), heights, -torch.inf), reach) - lowest > STEP_M


def _highest(values: Float[Tensor, "h w"], reach: int) -> Float[Tensor, "h w"]:
    return max_pool2d(values[None, None], reach, stride=1, padding=reach // 2)[0, 0]


@dataclass(frozen=True)
class HeightTarget:
    """The dense surface as a nadir view sees it: local meters, and weights in 0..1 (0 where unknown): `weight` of its
    heights follows their sigma, so that filled cells hold nothing up; `cover` says where it should be closed. Near
    walls many views decide by their colors, and both are 0. `pull` is a factor for the whole term."""

    view: View
    surface_m: Float[Tensor, "h w"]
    weight: Float[Tensor, "h w"]
    cover: Float[Tensor, "h w"]
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
        sigma = torch.from_numpy(surface.sigma_m).to(device).where(known, torch.inf)
        many = len(on_model.image_names) >= MANY_VIEWS
        cover = (known & ~rims(heights, surface.resolution_m) if many else known).float()
        weight = cover * (HELD_SIGMA_M / sigma).square().clamp_max(1.0)
        view = nadir_over(on_model, surface.x_min_m, surface.y_max_m, surface.resolution_m, columns, rows)
        return cls(
            view, torch.where(known, heights, torch.zeros_like(heights)), weight, cover, 1.0 if many else FEW_PULL
        )
