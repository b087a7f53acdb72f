"""A coarse surface over a tall range of heights, in a second or two: how low and how high a scene is before it is
matched densely.

Unlike a dense surface it has no ground above which heights are tried: a tower of 250 m is as likely as a street.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.image_pairs import good_pairs, height_step_m
from skyfall_ns.geo.matching_cost import Limits, Matching, PlaneWarp, cost_volume
from skyfall_ns.geo.matching_images import MatchingImages
from skyfall_ns.geo.raster import Grid
from skyfall_ns.geo.ray_consistency import distances_along_rays_m
from skyfall_ns.geo.sgm import aggregate
from skyfall_ns.geo.surface_evidence import judge

MOST_VIEWS = 6
MATCHING = Matching(window=5, best_share=0.5)
UNEXPECTED = 0.1  # (1/100 a meter) beyond the heights of ties: smooth water matches best anywhere by chance
P1, P2 = 10, 60  # penalties (1/100): walls of towers are few cells
STEP_PX = 0.6  # of images reduced to the size of the cells
PATCH_M2 = 100.0  # smaller patches that stand apart are no evidence
MOST_COST = 45  # (1/100) of a cell's own windows: blank ones cost 50 or more
CONFIRMED_STEPS = 1.5  # a view confirms a height if nothing that matches better stands in front by more steps


@dataclass(frozen=True)
class CoarseSurface:
    """Heights over a grid, local meters, with their source (0 unknown, 1 matched, 2 filled)."""

    grid: Grid
    height_m: Float32[ndarray, "h w"]
    source: UInt8[ndarray, "h w"]


def coarse_surface(
    images: Sequence[Float32[ndarray, "h w"]],
    cameras: Sequence[AffineCamera],
    box_m: ndarray,
    cell_m: float,
    expected_m: tuple[float, float],
    groups: Sequence[int] | None = None,
) -> CoarseSurface | None:
    """The upper surface inside a box ([2, 3], local meters) in cells of about `cell_m`, from gray images in 0..1 (NaN
    where unusable); None where no two views differ enough in direction. The farther a height is from the `expected_m`
    ones (lowest and highest), the better it has to match."""
    chosen, pairs = _few_views(good_pairs(cameras, groups))
    if not pairs:
        return None
    reduced = [reduce_view(images[k], cameras[k], cell_m) for k in chosen]
    views = MatchingImages([image for image, _ in reduced], [camera for _, camera in reduced], [cell_m])
    grid = Grid.over(box_m, cell_m)
    shape = (grid.height, grid.width)
    step_m = height_step_m(views.cameras, pairs, STEP_PX)
    low, high = float(box_m[0, 2]), float(box_m[1, 2])
    levels = low + step_m * np.arange(max(3, math.ceil((high - low) / step_m) + 1))
    base = np.zeros(shape, np.float32)
    limits = Limits(base + np.float32(low), base + np.float32(levels[-1]), _everywhere(len(chosen), shape))
    warps = [PlaneWarp(camera, grid, base) for camera in views.cameras]
    volume = cost_volume(views.at(cell_m), warps, pairs, levels, limits, MATCHING)
    away = np.maximum(0, np.maximum(expected_m[0] - levels, levels - expected_m[1]))
    price = np.round(UNEXPECTED * away).clip(0, 255).astype(np.uint16)
    total = aggregate(np.minimum(volume.cost + price, 255).astype(np.uint8), P1, np.full(shape, P2, np.int16))
    index = total.argmin(axis=2)
    height = levels[index].astype(np.float32)
    apart = distances_along_rays_m(total, levels, base, index, views.cameras, cell_m)
    # What lies behind a tower is seen by other pairs, and may match better than its roof: only what is in front counts.
    cost = np.take_along_axis(volume.cost, index[..., None], axis=2)[..., 0]
    agreeing = cost <= MOST_COST
    confirmations = agreeing * (apart <= CONFIRMED_STEPS * step_m).sum(0)
    shown = (volume.first <= index) & (index <= volume.last)
    first = np.where(volume.last < 0, np.inf, levels[np.minimum(volume.first, len(levels) - 1)])
    first = np.where(first <= low + 2 * step_m, -np.inf, first).astype(np.float32)
    cells = round(PATCH_M2 / cell_m**2)
    judged = judge(
        height, confirmations, shown, first, np.zeros(shape, bool), max(2, round(0.5 * len(chosen))), cells, cell_m
    )
    return CoarseSurface(grid, judged.height_m, np.asarray(judged.source, np.uint8))


def _everywhere(views: int, shape: tuple[int, int]) -> Float32[ndarray, "v h w"]:
    """Lowest visible heights where nothing hides anything."""
    return np.full((views, *shape), -np.inf, np.float32)


def _few_views(pairs: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
    """The views of the best pairs, at most MOST_VIEWS, and the pairs among them, by position in that list."""
    chosen: list[int] = []
    for pair in pairs:
        new = [view for view in pair if view not in chosen]
        if len(chosen) + len(new) <= MOST_VIEWS:
            chosen += new
    kept = [(chosen.index(i), chosen.index(j)) for i, j in pairs if i in chosen and j in chosen]
    return chosen, kept


def reduce_view(
    image: Float32[ndarray, "h w"], camera: AffineCamera, cell_m: float
) -> tuple[Float32[ndarray, "r c"], AffineCamera]:
    """The view in pixels of about `cell_m`: means of whole blocks, NaN where a block has no usable pixel."""
    factor = max(1, round(cell_m / camera.gsd_m()))
    if factor == 1:
        return image, camera
    rows, columns = (size // factor for size in image.shape)
    blocks = image[: rows * factor, : columns * factor]
    usable = np.isfinite(blocks)
    weight = cv2.resize(usable.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    mean = cv2.resize(np.where(usable, blocks, 0).astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    reduced = np.where(weight > 0, mean / np.maximum(weight, 1e-6), np.nan).astype(np.float32)
    matrix = camera.matrix / factor
    matrix[:, 3] += 0.5 / factor - 0.5  # the center of the first block
    quadratic = None if camera.quadratic is None else camera.quadratic / factor
    return reduced, AffineCamera(matrix, quadratic, (columns, rows), camera.fit_px)
