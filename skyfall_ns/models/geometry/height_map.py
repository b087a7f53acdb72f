"""Height maps of Gaussians, and the surface that they are compared with in training."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn.functional import max_pool2d

from skyfall_ns.geo.grid import Grid
from skyfall_ns.models.appearance.lighting import normals_from_quats
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer
from skyfall_ns.scene.model_space import DEPTH_OFFSET, NormalizedScene
from skyfall_ns.view import View, nadir_view

FULL_WEIGHT_SIGMA_M = 0.5  # heights with a larger sigma have the weight (0.5 m / sigma)²
EDGE_WIDTH_M = 2.0  # by which stereo may misplace a wall
EDGE_STEP_M = 1.5  # heights within EDGE_WIDTH_M that differ by more have a wall between them
MAX_LAYER_GAP_M, DEPTH_TOLERANCE_M = 5.0, 0.3  # of Rendering.surface_depth
SUBCELLS = 3  # cells are rendered at this multiple of the resolution, because rendered cells blur edges
FIRST_CENTER = SUBCELLS + SUBCELLS // 2  # subcell at the center of the first cell, behind a margin of one cell
WINDOW_CELLS, MAX_WINDOW_M = 3, 1.5  # the height of a cell is the median of a window of this size around its center
SOLID_ALPHA = 0.5  # a pixel with a lower alpha has no depth: most of the light passes through it
WALL_NORMAL_Z = 0.4  # a Gaussian with a smaller vertical part of the normal belongs to a wall (66 degrees)
EDGE_ON_NORMAL_Z = 0.1  # with a smaller part than this it is edge-on in the nadir view (84 degrees)


def nadir_height_m(depth: Float[Tensor, "*n"], normalized: NormalizedScene) -> Float[Tensor, "*n"]:
    """Heights of depths in a nadir view, local meters."""
    return (DEPTH_OFFSET - depth) / normalized.scale + normalized.center_m[2]


def nadir_view_of_grid(normalized: NormalizedScene, grid: Grid) -> View:
    """The nadir view of a grid, one pixel per cell."""
    scale, center = normalized.scale, normalized.center_m
    west, north = (grid.x_min_m - center[0]) * scale, (grid.y_max_m - center[1]) * scale
    return nadir_view(west, north, grid.resolution_m * scale, grid.width, grid.height)


@torch.no_grad()
def render_height_map(
    gaussians: Gaussians, normalized: NormalizedScene, grid: Grid, tile: int = 680
) -> Float32[np.ndarray, "h w"]:
    """Render the nadir height map of a grid: local meters, NaN where the center of a cell is not solid.

    A height is the median of a window around the center of its cell. Tiles are rendered one by one, and always on the
    CPU, so that a scene has the same heights on every device."""
    gaussians = straighten_walls(gaussians)
    no_channels, rasterize = torch.zeros(len(gaussians.means), 0), pick_rasterizer("cpu")
    heights, subcell_m = np.zeros((grid.height, grid.width), np.float32), grid.resolution_m / SUBCELLS
    for row in range(0, grid.height, tile):
        for column in range(0, grid.width, tile):
            block = slice(row, min(row + tile, grid.height)), slice(column, min(column + tile, grid.width))
            rendering = rasterize(gaussians, no_channels, nadir_view_of_grid(normalized, _subcell_grid(grid, block)))
            depth = rendering.surface_depth(MAX_LAYER_GAP_M * normalized.scale, DEPTH_TOLERANCE_M * normalized.scale)
            solid = rendering.alpha >= SOLID_ALPHA
            subcells = torch.where(solid, nadir_height_m(depth, normalized), torch.nan)
            medians = window_medians(subcells, window_cells(subcell_m))
            centers = solid[FIRST_CENTER:-SUBCELLS:SUBCELLS, FIRST_CENTER:-SUBCELLS:SUBCELLS]
            heights[block] = torch.where(centers, medians, torch.nan).numpy()
    return heights


def _subcell_grid(grid: Grid, block: tuple[slice, slice]) -> Grid:
    """The subcells of a block (rows, columns) of cells, with one cell of margin on each side."""
    rows, columns = block
    west = grid.x_min_m + (columns.start - 1) * grid.resolution_m
    north = grid.y_max_m - (rows.start - 1) * grid.resolution_m
    size = SUBCELLS * (columns.stop - columns.start + 2), SUBCELLS * (rows.stop - rows.start + 2)
    return Grid(west, north, grid.resolution_m / SUBCELLS, *size)


def straighten_walls(gaussians: Gaussians) -> Gaussians:
    """Gaussians for height maps, on the CPU.

    Gaussians of walls are a meter tall and lean, and in a nadir view they hide the street beside them at any height
    between roof and street: they are rotated upright, or removed if they are nearly upright already (measured:
    benchmarks/heights.md)."""
    normals = normals_from_quats(gaussians.quats).cpu()
    keep = normals[:, 2].abs() >= EDGE_ON_NORMAL_Z
    kept = Gaussians(
        *(value.cpu()[keep] for value in (gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities))
    )
    walls = normals[keep, 2].abs() < WALL_NORMAL_Z
    kept.quats[walls] = rotate_upright(kept.quats[walls], normals[keep][walls])
    return kept


def rotate_upright(quats: Float[Tensor, "n 4"], normals: Float[Tensor, "n 3"]) -> Float[Tensor, "n 4"]:
    """Quaternions (wxyz), rotated by the smallest angle that makes the normals horizontal."""
    x, y, z = normals.double().unbind(-1)
    horizontal = torch.hypot(x, y)
    rotation_vectors = (
        torch.stack([-y, x, torch.zeros_like(x)], -1) * (torch.atan2(z, horizontal) / horizontal)[:, None]
    )
    rotated = Rotation.from_rotvec(rotation_vectors.numpy()) * Rotation.from_quat(quats.numpy()[:, [1, 2, 3, 0]])
    return torch.from_numpy(rotated.as_quat()[:, [3, 0, 1, 2]]).to(quats)


def window_cells(subcell_m: float) -> int:
    """Width of the median window in subcells, an odd number."""
    size = min(WINDOW_CELLS * SUBCELLS, int(MAX_WINDOW_M / subcell_m + 1e-6))
    return max(1, size - 1 + size % 2)


def window_medians(heights: Float[Tensor, "H W"], window: int) -> Float[Tensor, "h w"]:
    """Medians of windows of subcells around the cell centers, ignoring NaN; the outermost cells are margin and have
    none."""
    rows, columns = (slice(FIRST_CENTER - window // 2, length - FIRST_CENTER + window // 2) for length in heights.shape)
    windows = heights[rows, columns].unfold(0, window, SUBCELLS).unfold(1, window, SUBCELLS)
    return windows.flatten(-2).nanmedian(-1).values


def edge_mask(heights: Float[Tensor, "h w"], cell_m: float) -> Bool[Tensor, "h w"]:
    """Cells near a wall, where stereo is ambiguous, because matching windows extend across edges."""
    window = 2 * max(1, round(EDGE_WIDTH_M / cell_m)) + 1
    lowest = -_window_maximum(torch.where(torch.isfinite(heights), -heights, -torch.inf), window)
    return _window_maximum(torch.where(torch.isfinite(heights), heights, -torch.inf), window) - lowest > EDGE_STEP_M


def _window_maximum(values: Float[Tensor, "h w"], window: int) -> Float[Tensor, "h w"]:
    """Maximum of a square window around each cell."""
    return max_pool2d(values[None, None], window, stride=1, padding=window // 2)[0, 0]


@dataclass(frozen=True)
class HeightTarget:
    """The dense surface in a nadir view: heights in local meters and weights in 0..1, both 0 where unknown.

    `weight` follows the sigma of the heights, so that filled cells have little influence; `coverage_mask` is 1 where
    the surface should be opaque. With many views both are 0 near walls, where colors determine the geometry.
    `weight_scale` is a factor of the whole term."""

    view: View
    surface_m: Float[Tensor, "h w"]
    weight: Float[Tensor, "h w"]
    coverage_mask: Float[Tensor, "h w"]
    weight_scale: float

    @classmethod
    def from_scene(
        cls, normalized: NormalizedScene, device: torch.device, options: SkyfallModelOptions
    ) -> "HeightTarget | None":
        """The surface of a scene on a device; None for scenes without one."""
        surface = normalized.surface
        if surface is None:
            return None
        heights = torch.from_numpy(surface.height_m).to(device)
        known = torch.isfinite(heights)
        sigma = torch.from_numpy(surface.sigma_m).to(device).where(known, torch.inf)
        dense = len(normalized.image_names) >= options.dense_view_threshold
        coverage_mask = (known & ~edge_mask(heights, surface.grid.resolution_m) if dense else known).float()
        weight = coverage_mask * (FULL_WEIGHT_SIGMA_M / sigma).square().clamp_max(1.0)
        return cls(
            nadir_view_of_grid(normalized, surface.grid),
            torch.where(known, heights, torch.zeros_like(heights)),
            weight,
            coverage_mask,
            1.0 if dense else options.sparse_view_scale,
        )
