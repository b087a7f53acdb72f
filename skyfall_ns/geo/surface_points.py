"""Point cloud of a dense surface: one point per cell, walls between roof and ground, colors from the views."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy import ndarray
from scipy.ndimage import minimum_filter

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.visibility import lowest_visible_m

if TYPE_CHECKING:  # training imports constants of this file without pyproj and rasterio
    from skyfall_ns.geo.plane_sweep import Surface

WALL_JUMP_M = 1.5  # cells whose heights differ by more have a wall between them
VISIBILITY_TOLERANCE_M = 0.75  # points this far below the lowest visible height count as visible
OCCLUDED_CONFIDENCE_FACTOR = 0.3  # for points that no view sees
FOOT_RIM_M = 2.0  # reconstructed buildings may be too wide by this much
WALL_SPACING_FACTOR = 3.0  # points on walls are this much sparser than on the ground: few views see them


@dataclass(frozen=True)
class PointCloud:
    """A cloud in local meters with unit normals, colors and confidence in 0..1."""

    xyz_m: Float64[ndarray, "n 3"]
    normals: Float32[ndarray, "n 3"]
    colors: Float32[ndarray, "n 3"]
    confidence: Float32[ndarray, " n"]


def sample_surface_points(
    surface: "Surface",
    images: Sequence[Float32[ndarray, "h w *c"]],
    cameras: Sequence[AffineCamera],
    spacing_m: float | None = None,
) -> PointCloud:
    """Sample one point per cell (or per `spacing_m`), and points on walls at WALL_SPACING_FACTOR times the spacing.

    `images` are tone-mapped, in 0..1, gray "h w" or color "h w 3", NaN where unusable. A color is the median over the
    views that see the point; without such a view, over all views, and the confidence is reduced.
    """
    stride = max(1, round((spacing_m or 0.0) / surface.grid.resolution_m))
    parts = _cell_points(surface, stride), _wall_points(surface, stride), _foot_points(surface, stride)
    xyz, normals, confidence = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    colors, visible_anywhere = _point_colors(surface, images, cameras, xyz, normals)
    confidence = np.where(visible_anywhere, confidence, OCCLUDED_CONFIDENCE_FACTOR * confidence).astype(np.float32)
    return PointCloud(xyz, normals.astype(np.float32), colors, confidence)


def _select_cells(surface: "Surface", stride: int):
    """x "h w", y, height and confidence of every `stride`-th cell."""
    x, y = np.meshgrid(surface.grid.x_m(), surface.grid.y_m())
    offset = (stride - 1) // 2
    return tuple(a[offset::stride, offset::stride] for a in (x, y, surface.height_m, surface.confidence))


def _cell_points(surface: "Surface", stride: int):
    """Points, normals and confidence at the cell centers."""
    x, y, height, confidence = _select_cells(surface, stride)
    spacing = stride * surface.grid.resolution_m
    normals = np.stack(
        [-_gentler_slope(height, 1) / spacing, _gentler_slope(height, 0) / spacing, np.ones_like(height)], axis=-1
    )
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    known = np.isfinite(height)
    return np.stack([x, y, height], axis=-1)[known].astype(np.float64), normals[known], confidence[known]


def _gentler_slope(height: Float32[ndarray, "h w"], axis: int) -> Float32[ndarray, "h w"]:
    """Height difference to the next cell, the smaller one of both sides: the edge of a roof is as level as the roof."""
    step = np.diff(height, axis=axis)
    pad = [(0, 0), (0, 0)]
    pad[axis] = (1, 1)
    padded = np.nan_to_num(np.pad(step, pad, mode="edge") if step.size else np.zeros(np.add(step.shape, sum(pad, ()))))
    before, after = (np.take(padded, range(k, k + height.shape[axis]), axis=axis) for k in (0, 1))
    return np.where(np.abs(before) < np.abs(after), before, after)


def _wall_points(surface: "Surface", stride: int):
    """Points, outward normals and confidence of the walls between neighboring cells."""
    x, y, height, confidence = _select_cells(surface, stride)
    spacing = stride * surface.grid.resolution_m
    parts = []
    for axis in (0, 1):
        here = tuple(slice(None, -1) if a == axis else slice(None) for a in (0, 1))
        there = tuple(slice(1, None) if a == axis else slice(None) for a in (0, 1))
        rise = np.nan_to_num(height[there] - height[here])
        wall = np.abs(rise) > WALL_JUMP_M
        low, high = np.minimum(height[here], height[there])[wall], np.maximum(height[here], height[there])[wall]
        count = np.maximum(1, np.round((high - low) / (WALL_SPACING_FACTOR * spacing)).astype(int) - 1)
        wall_index = np.repeat(np.arange(len(count)), count)
        rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        wall_height = low[wall_index] + (high - low)[wall_index] * (rank + 1) / (count[wall_index] + 1)
        wall_xy = [((a[here] + a[there]) / 2)[wall][wall_index] for a in (x, y)]
        normal = np.zeros((len(wall_index), 3))
        # Walls face the lower side; rows run to the south.
        normal[:, 1 - axis] = (np.sign(rise[wall]) * (1 if axis == 0 else -1))[wall_index]
        min_confidence = np.minimum(confidence[here], confidence[there])[wall][wall_index]
        parts.append((np.stack([*wall_xy, wall_height], axis=-1), normal, min_confidence))
    return tuple(np.concatenate(p) for p in zip(*parts, strict=True))


def _foot_points(surface: "Surface", stride: int):
    """Points, normals and confidence of the ground below cells near the upper edge of a wall.

    Matching windows make buildings too wide, and training can only uncover ground where there are points.
    """
    x, y, height, confidence = _select_cells(surface, stride)
    reach = 2 * max(1, round(FOOT_RIM_M / (stride * surface.grid.resolution_m))) + 1
    lowest = minimum_filter(np.where(np.isfinite(height), height, np.inf), size=reach)
    rim = np.isfinite(height) & np.isfinite(lowest) & (height - lowest > WALL_JUMP_M)
    normals = np.zeros((int(rim.sum()), 3))
    normals[:, 2] = 1.0
    xyz = np.stack([x, y, lowest], axis=-1)[rim].astype(np.float64)
    return xyz, normals, 0.3 * confidence[rim]


def _point_colors(
    surface: "Surface", images, cameras, xyz, normals
) -> tuple[Float32[ndarray, "n 3"], Bool[ndarray, " n"]]:
    """Median color over the views that see each point, and whether any view sees it."""
    grid = surface.grid
    # The visibility of a wall point is looked up on the side that it faces: behind it is its own building.
    outside = xyz[:, :2] + normals[:, :2] * (np.abs(normals[:, 2:]) < 0.1) * 0.75 * grid.resolution_m
    column = np.clip(((outside[:, 0] - grid.x_min_m) / grid.resolution_m).astype(int), 0, grid.width - 1)
    row = np.clip(((grid.y_max_m - outside[:, 1]) / grid.resolution_m).astype(int), 0, grid.height - 1)
    colors, visible = [], []
    for image, camera in zip(images, cameras, strict=True):
        lowest = lowest_visible_m(surface.height_m, grid.resolution_m, camera.view_direction())
        value = _sample_bilinear(image, camera.project(xyz))
        colors.append(value)
        visible.append((xyz[:, 2] >= lowest[row, column] - VISIBILITY_TOLERANCE_M) & np.isfinite(value).all(axis=1))
    colors, visible = np.stack(colors), np.stack(visible)
    visible_anywhere = np.any(visible, axis=0)
    colors[(~visible) & visible_anywhere] = np.nan
    blank = ~np.isfinite(colors).any(axis=0)
    colors[:, blank] = 0.5
    return np.nanmedian(colors, axis=0).astype(np.float32), visible_anywhere


def _sample_bilinear(image: Float32[ndarray, "h w *c"], colrow: Float64[ndarray, "n 2"]) -> Float32[ndarray, "n 3"]:
    """Image values at pixels, as three channels; NaN outside the image."""
    row_length = 8192  # OpenCV's maps are limited to 32767 columns
    padded = np.full((-(-len(colrow) // row_length) * row_length, 2), -10.0, np.float32)
    padded[: len(colrow)] = colrow
    maps = padded.reshape(-1, row_length, 2)
    outside = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": [np.nan] * 4}
    pixels = np.asarray(image, np.float32)
    values = cv2.remap(pixels, maps, None, cv2.INTER_LINEAR, **outside)  # type: ignore[arg-type]  # stub without None
    values = values.reshape(len(padded), -1)[: len(colrow)]
    return np.repeat(values, 3, axis=1) if values.shape[1] == 1 else values[:, :3]
