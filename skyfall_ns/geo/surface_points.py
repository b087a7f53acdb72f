"""Points from a dense surface: one per cell, walls filled between roof and ground, colours from the views."""

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

if TYPE_CHECKING:  # training reads this file's constants, and needs no map libraries
    from skyfall_ns.geo.plane_sweep import Surface

WALL_JUMP_M = 1.5  # neighbours that differ by more have a wall between them
SEEN_TOLERANCE_M = 0.75
UNSEEN_CONFIDENCE = 0.3  # factor for points that no view sees
RIM_M = 2.0  # how far buildings may be too wide
WALL_SPACINGS = 3.0  # points down a wall are this much sparser than on the ground: few views see them


@dataclass(frozen=True)
class Points:
    """A cloud in local metres with unit normals, colours and confidence in 0..1."""

    xyz_m: Float64[ndarray, "n 3"]
    normals: Float32[ndarray, "n 3"]
    colors: Float32[ndarray, "n 3"]
    confidence: Float32[ndarray, " n"]


def surface_points(
    surface: "Surface",
    images: Sequence[Float32[ndarray, "h w *c"]],
    cameras: Sequence[AffineCamera],
    spacing_m: float | None = None,
) -> Points:
    """One point per cell (or per `spacing_m`), and points down every wall at the same spacing.

    `images` are toned, in 0..1, gray "h w" or colour "h w 3", NaN where unusable. A colour is the median over the
    views that see the point; where none does, over all views, and the confidence falls.
    """
    stride = max(1, round((spacing_m or 0.0) / surface.grid.resolution_m))
    parts = _cells(surface, stride), _walls(surface, stride), _feet(surface, stride)
    xyz, normals, confidence = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    colors, seen = _colors(surface, images, cameras, xyz, normals)
    confidence = np.where(seen, confidence, UNSEEN_CONFIDENCE * confidence).astype(np.float32)
    return Points(xyz, normals.astype(np.float32), colors, confidence)


def _picked(surface: "Surface", stride: int):
    """x "h w", y, height and confidence of every stride-th cell."""
    x, y = np.meshgrid(surface.grid.x_m(), surface.grid.y_m())
    first = (stride - 1) // 2
    return tuple(a[first::stride, first::stride] for a in (x, y, surface.height_m, surface.confidence))


def _cells(surface: "Surface", stride: int):
    """Points, normals and confidence of the cells."""
    x, y, height, confidence = _picked(surface, stride)
    spacing = stride * surface.grid.resolution_m
    normals = np.stack([-_slope(height, 1) / spacing, _slope(height, 0) / spacing, np.ones_like(height)], axis=-1)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    known = np.isfinite(height)
    return np.stack([x, y, height], axis=-1)[known].astype(np.float64), normals[known], confidence[known]


def _slope(height: Float32[ndarray, "h w"], axis: int) -> Float32[ndarray, "h w"]:
    """Rise to the next cell, the gentler of both sides: a roof's edge is as level as the roof."""
    step = np.diff(height, axis=axis)
    pad = [(0, 0), (0, 0)]
    pad[axis] = (1, 1)
    padded = np.nan_to_num(np.pad(step, pad, mode="edge") if step.size else np.zeros(np.add(step.shape, sum(pad, ()))))
    before, after = (np.take(padded, range(k, k + height.shape[axis]), axis=axis) for k in (0, 1))
    return np.where(np.abs(before) < np.abs(after), before, after)


def _walls(surface: "Surface", stride: int):
    """Points, outward normals and confidence of the walls between neighbouring cells."""
    x, y, height, confidence = _picked(surface, stride)
    spacing = stride * surface.grid.resolution_m
    parts = []
    for axis in (0, 1):
        here = tuple(slice(None, -1) if a == axis else slice(None) for a in (0, 1))
        there = tuple(slice(1, None) if a == axis else slice(None) for a in (0, 1))
        rise = np.nan_to_num(height[there] - height[here])
        wall = np.abs(rise) > WALL_JUMP_M
        low, high = np.minimum(height[here], height[there])[wall], np.maximum(height[here], height[there])[wall]
        count = np.maximum(1, np.round((high - low) / (WALL_SPACINGS * spacing)).astype(int) - 1)
        which = np.repeat(np.arange(len(count)), count)
        rank = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
        level = low[which] + (high - low)[which] * (rank + 1) / (count[which] + 1)
        middle = [((a[here] + a[there]) / 2)[wall][which] for a in (x, y)]
        normal = np.zeros((len(which), 3))
        # The wall looks to the lower side; rows run to the south.
        normal[:, 1 - axis] = (np.sign(rise[wall]) * (1 if axis == 0 else -1))[which]
        weaker = np.minimum(confidence[here], confidence[there])[wall][which]
        parts.append((np.stack([*middle, level], axis=-1), normal, weaker))
    return tuple(np.concatenate(p) for p in zip(*parts, strict=True))


def _feet(surface: "Surface", stride: int):
    """A second point at the lower height under cells near the upper side of a wall: matching windows make buildings
    too wide, and training can only uncover ground that is there."""
    x, y, height, confidence = _picked(surface, stride)
    reach = 2 * max(1, round(RIM_M / (stride * surface.grid.resolution_m))) + 1
    lowest = minimum_filter(np.where(np.isfinite(height), height, np.inf), size=reach)
    rim = np.isfinite(height) & np.isfinite(lowest) & (height - lowest > WALL_JUMP_M)
    up = np.zeros((int(rim.sum()), 3))
    up[:, 2] = 1.0
    xyz = np.stack([x, y, lowest], axis=-1)[rim].astype(np.float64)
    return xyz, up, 0.3 * confidence[rim]


def _colors(surface: "Surface", images, cameras, xyz, normals) -> tuple[Float32[ndarray, "n 3"], Bool[ndarray, " n"]]:
    """Median colour over the views that see each point, and whether any does."""
    grid = surface.grid
    # A wall point is looked up on the side it faces: behind it stands its own building.
    outside = xyz[:, :2] + normals[:, :2] * (np.abs(normals[:, 2:]) < 0.1) * 0.75 * grid.resolution_m
    column = np.clip(((outside[:, 0] - grid.x_min_m) / grid.resolution_m).astype(int), 0, grid.width - 1)
    row = np.clip(((grid.y_max_m - outside[:, 1]) / grid.resolution_m).astype(int), 0, grid.height - 1)
    samples, visible = [], []
    for image, camera in zip(images, cameras, strict=True):
        lowest = lowest_visible_m(surface.height_m, grid.resolution_m, camera.view_direction())
        value = _sample(image, camera.project(xyz))
        samples.append(value)
        visible.append((xyz[:, 2] >= lowest[row, column] - SEEN_TOLERANCE_M) & np.isfinite(value).all(axis=1))
    samples, visible = np.stack(samples), np.stack(visible)
    seen = visible.any(axis=0)
    samples[(~visible) & seen] = np.nan
    blank = ~np.isfinite(samples).any(axis=0)
    samples[:, blank] = 0.5
    return np.nanmedian(samples, axis=0).astype(np.float32), seen


def _sample(image: Float32[ndarray, "h w *c"], colrow: Float64[ndarray, "n 2"]) -> Float32[ndarray, "n 3"]:
    """Bilinear values as three channels, NaN outside the image."""
    row_length = 8192  # OpenCV's maps are limited to 32767 columns
    padded = np.full((-(-len(colrow) // row_length) * row_length, 2), -10.0, np.float32)
    padded[: len(colrow)] = colrow
    maps = padded.reshape(-1, row_length, 2)
    outside = {"borderMode": cv2.BORDER_CONSTANT, "borderValue": [np.nan] * 4}
    values = cv2.remap(np.asarray(image, np.float32), maps, None, cv2.INTER_LINEAR, **outside)
    values = values.reshape(len(padded), -1)[: len(colrow)]
    return np.repeat(values, 3, axis=1) if values.shape[1] == 1 else values[:, :3]
