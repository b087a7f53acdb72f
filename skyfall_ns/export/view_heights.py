"""The heights at which the training views see a trained scene, beside those of an exported DSM."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy import ndarray
from scipy.ndimage import map_coordinates

from skyfall_ns.export.sigma import view_spread_m
from skyfall_ns.models.geometry.height_map import APART_M, NEAR_M, SOLID
from skyfall_ns.models.geometry.view import View, bend, training_views
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer
from skyfall_ns.scene.model_space import HALF_PIXEL, SceneOnModel

CELLS_AT_ONCE = 200_000  # bounds memory: views x cells


class TrainedScene(Protocol):
    """What a trained model offers: its Gaussians and where they lie."""

    on_model: SceneOnModel

    def gaussians(self) -> Gaussians: ...


@dataclass(frozen=True)
class ViewDepth:
    """A view and the depth that it shows (model units; NaN where it shows nothing solid)."""

    view: View
    depth: Float32[ndarray, "h w"]


@torch.no_grad()
def render_view_depths(model: TrainedScene) -> list[ViewDepth]:
    """Render the depth of every training view, on the CPU whatever the device, as DSMs are."""
    splats = Gaussians(*(getattr(model.gaussians(), f).cpu() for f in ("means", "quats", "scales", "opacities")))
    draw, scale = pick_rasterizer("cpu"), model.on_model.scale
    depths = []
    for view in training_views(model.on_model):
        bent = Gaussians(bend(splats.means, view), splats.quats, splats.scales, splats.opacities)
        drawn = draw(bent, splats.means.new_zeros(len(splats.means), 0), view)
        depth = drawn.sharp_depth(APART_M * scale, NEAR_M * scale)
        depths.append(ViewDepth(view, torch.where(drawn.alpha >= SOLID, depth, torch.nan).numpy()))
    return depths


def height_above_m(seen: ViewDepth, xyz_m: Float[ndarray, "n 3"], on_model: SceneOnModel) -> Float32[ndarray, " n"]:
    """How much higher than points (local meters) a parallel view sees the scene on its lines of sight to them; NaN
    where it shows nothing."""
    points = torch.from_numpy((xyz_m - np.array(on_model.centre_m)) * on_model.scale)
    camera = bend(points, seen.view) @ seen.view.camera_from_model[:3, :3].T + seen.view.camera_from_model[:3, 3]
    colrow = (camera[:, :2] + seen.view.intrinsics[:2, 2] - HALF_PIXEL).numpy()
    shown = map_coordinates(seen.depth, [colrow[:, 1], colrow[:, 0]], order=1, mode="constant", cval=np.nan)
    upward = -float(seen.view.camera_from_model[2, 2])  # meters of height per meter along the line of sight
    return ((camera[:, 2].numpy() - shown) / on_model.scale * upward).astype(np.float32)


def spread_over_views_m(
    views: Sequence[ViewDepth], xyz_m: Float[ndarray, "h w 3"], on_model: SceneOnModel
) -> Float[ndarray, "h w"]:
    """How much the views disagree with cells (local meters) about their heights (see `view_spread_m`)."""
    cells = xyz_m.reshape(-1, 3)
    spread = np.zeros(len(cells))
    for start in range(0, len(cells), CELLS_AT_ONCE):
        part = slice(start, start + CELLS_AT_ONCE)
        spread[part] = view_spread_m(np.stack([height_above_m(view, cells[part], on_model) for view in views]))
    return spread.reshape(xyz_m.shape[:-1])
