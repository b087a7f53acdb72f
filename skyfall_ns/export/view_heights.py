"""Heights of a trained scene as its training views see them, compared with those of an exported DSM."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from numpy import ndarray
from scipy.ndimage import map_coordinates

from skyfall_ns.export.sigma import view_spread_m
from skyfall_ns.models.geometry.height_map import DEPTH_TOLERANCE_M, MAX_LAYER_GAP_M, SOLID_ALPHA
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer
from skyfall_ns.models.renderer import Renderer
from skyfall_ns.scene.model_space import HALF_PIXEL, NormalizedScene
from skyfall_ns.view import View, apply_quadratic_term, training_views

CELLS_PER_BATCH = 200_000  # bounds memory: views x cells


@dataclass(frozen=True)
class ViewDepth:
    """A view and its depth image (model units; NaN where the scene is not opaque)."""

    view: View
    depth: Float32[ndarray, "h w"]


@torch.no_grad()
def render_view_depths(renderer: Renderer) -> list[ViewDepth]:
    """Render the depth of every training view, on the CPU on every device, as DSMs are rendered."""
    gaussians = Gaussians(*(getattr(renderer.gaussians(), f).cpu() for f in ("means", "quats", "scales", "opacities")))
    rasterize, scale = pick_rasterizer("cpu"), renderer.normalized.scale
    depths = []
    for view in training_views(renderer.normalized):
        shifted = Gaussians(
            apply_quadratic_term(gaussians.means, view), gaussians.quats, gaussians.scales, gaussians.opacities
        )
        rendering = rasterize(shifted, gaussians.means.new_zeros(len(gaussians.means), 0), view)
        depth = rendering.surface_depth(MAX_LAYER_GAP_M * scale, DEPTH_TOLERANCE_M * scale)
        depths.append(ViewDepth(view, torch.where(rendering.alpha >= SOLID_ALPHA, depth, torch.nan).numpy()))
    return depths


def height_above_m(
    view_depth: ViewDepth, xyz_m: Float[ndarray, "n 3"], normalized: NormalizedScene
) -> Float32[ndarray, " n"]:
    """Height above points (local meters) at which a parallel view sees the scene on its lines of sight to them; NaN
    where the view shows nothing."""
    points = torch.from_numpy((xyz_m - np.array(normalized.center_m)) * normalized.scale)
    camera = (
        apply_quadratic_term(points, view_depth.view) @ view_depth.view.camera_from_model[:3, :3].T
        + view_depth.view.camera_from_model[:3, 3]
    )
    colrow = (camera[:, :2] + view_depth.view.intrinsics[:2, 2] - HALF_PIXEL).numpy()
    depth = map_coordinates(view_depth.depth, [colrow[:, 1], colrow[:, 0]], order=1, mode="constant", cval=np.nan)
    height_per_depth = -float(view_depth.view.camera_from_model[2, 2])  # meters up per meter along the line of sight
    return ((camera[:, 2].numpy() - depth) / normalized.scale * height_per_depth).astype(np.float32)


def spread_over_views_m(
    views: Sequence[ViewDepth], xyz_m: Float[ndarray, "h w 3"], normalized: NormalizedScene
) -> Float[ndarray, "h w"]:
    """Spread of the heights of cells (local meters) over the views (see `view_spread_m`)."""
    cells = xyz_m.reshape(-1, 3)
    spread = np.zeros(len(cells))
    for start in range(0, len(cells), CELLS_PER_BATCH):
        part = slice(start, start + CELLS_PER_BATCH)
        spread[part] = view_spread_m(np.stack([height_above_m(view, cells[part], normalized) for view in views]))
    return spread.reshape(xyz_m.shape[:-1])
