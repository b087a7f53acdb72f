"""A coarse surface over a large height range, in a second or two: the height range of a scene before dense matching.

Unlike a dense surface, it has no ground surface above which heights are tested: a tower of 250 m is as likely as a
street.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, UInt8
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.image_pairs import height_step_m, select_stereo_pairs
from skyfall_ns.geo.matching_cost import MatchingOptions, PlaneWarp, SearchLimits, cost_volume
from skyfall_ns.geo.matching_images import MatchingImages
from skyfall_ns.geo.ray_consistency import distances_along_rays_m
from skyfall_ns.geo.sgm import aggregate_costs
from skyfall_ns.geo.surface_evidence import classify_heights

MAX_VIEWS = 6
MATCHING_OPTIONS = MatchingOptions(window=5, best_fraction=0.5)
UNEXPECTED_HEIGHT_PENALTY = 0.1  # 1/100 per meter outside the expected range: smooth water matches at random heights
SMALL_STEP_PENALTY, LARGE_STEP_PENALTY = 10, 60  # in 1/100: towers are only a few cells wide
HEIGHT_STEP_PX = 0.6  # in pixels of the downsampled images
MIN_PATCH_M2 = 100.0  # smaller isolated patches count as false matches
MAX_MATCHED_COST = 45  # in 1/100, before aggregation: blank windows cost 50 or more
CONFIRMATION_STEPS = 1.5  # a view confirms a height if no better match lies in front of it by more height steps


@dataclass(frozen=True)
class CoarseSurface:
    """Heights over a grid in local meters, and their source (0 unknown, 1 matched, 2 filled)."""

    grid: Grid
    height_m: Float32[ndarray, "h w"]
    source: UInt8[ndarray, "h w"]


def match_coarse_surface(
    images: Sequence[Float32[ndarray, "h w"]],
    cameras: Sequence[AffineCamera],
    box_m: ndarray,
    cell_m: float,
    expected_m: tuple[float, float],
    clusters: Sequence[int] | None = None,
) -> CoarseSurface | None:
    """Match the upper surface inside a box ([2, 3]: min and max, local meters) in cells of `cell_m`.

    `images` are gray in 0..1, NaN where unusable. Heights outside `expected_m` (lowest, highest) get a penalty that
    grows with their distance. With `clusters`, one number per image, images of one cluster are matched with each other.
    Returns None if no two views differ enough in direction.
    """
    chosen, pairs = _select_views(select_stereo_pairs(cameras, clusters))
    if not pairs:
        return None
    downsampled = [downsample_view(images[k], cameras[k], cell_m) for k in chosen]
    views = MatchingImages([image for image, _ in downsampled], [camera for _, camera in downsampled], [cell_m])
    grid = Grid.covering_box(box_m, cell_m)
    shape = (grid.height, grid.width)
    step_m = height_step_m(views.cameras, pairs, HEIGHT_STEP_PX)
    low, high = float(box_m[0, 2]), float(box_m[1, 2])
    levels = low + step_m * np.arange(max(3, math.ceil((high - low) / step_m) + 1))
    base = np.zeros(shape, np.float32)
    limits = SearchLimits(
        base + np.float32(low), base + np.float32(levels[-1]), _unoccluded_heights(len(chosen), shape)
    )
    warps = [PlaneWarp(camera, grid, base) for camera in views.cameras]
    volume = cost_volume(views.images_for(cell_m), warps, pairs, levels, limits, MATCHING_OPTIONS)
    outside_m = np.maximum(0, np.maximum(expected_m[0] - levels, levels - expected_m[1]))
    penalty = np.round(UNEXPECTED_HEIGHT_PENALTY * outside_m).clip(0, 255).astype(np.uint16)
    aggregated_cost = aggregate_costs(
        np.minimum(volume.cost + penalty, 255).astype(np.uint8),
        SMALL_STEP_PENALTY,
        np.full(shape, LARGE_STEP_PENALTY, np.int16),
    )
    index = aggregated_cost.argmin(axis=2)
    height = levels[index].astype(np.float32)
    ray_distance_m = distances_along_rays_m(aggregated_cost, levels, base, index, views.cameras, cell_m)
    # Other pairs may match the ground behind a tower better than its roof: only better matches in front contradict.
    cost = np.take_along_axis(volume.cost, index[..., None], axis=2)[..., 0]
    matched = cost <= MAX_MATCHED_COST
    confirmations = matched * (ray_distance_m <= CONFIRMATION_STEPS * step_m).sum(0)
    covered = (volume.first_level <= index) & (index <= volume.last_level)
    covered_from_m = np.where(volume.last_level < 0, np.inf, levels[np.minimum(volume.first_level, len(levels) - 1)])
    covered_from_m = np.where(covered_from_m <= low + 2 * step_m, -np.inf, covered_from_m).astype(np.float32)
    patch_cells = round(MIN_PATCH_M2 / cell_m**2)
    classified = classify_heights(
        height,
        confirmations,
        covered,
        covered_from_m,
        np.zeros(shape, bool),
        max(2, round(0.5 * len(chosen))),
        patch_cells,
        cell_m,
    )
    return CoarseSurface(grid, classified.height_m, np.asarray(classified.source, np.uint8))


def _unoccluded_heights(views: int, shape: tuple[int, int]) -> Float32[ndarray, "v h w"]:
    """Lowest visible heights without any occlusion."""
    return np.full((views, *shape), -np.inf, np.float32)


def _select_views(pairs: Sequence[tuple[int, int]]) -> tuple[list[int], list[tuple[int, int]]]:
    """The views of the best pairs, at most MAX_VIEWS, and the pairs among them as indices into that list."""
    chosen: list[int] = []
    for pair in pairs:
        added = [view for view in pair if view not in chosen]
        if len(chosen) + len(added) <= MAX_VIEWS:
            chosen += added
    kept = [(chosen.index(i), chosen.index(j)) for i, j in pairs if i in chosen and j in chosen]
    return chosen, kept


def downsample_view(
    image: Float32[ndarray, "h w"], camera: AffineCamera, cell_m: float
) -> tuple[Float32[ndarray, "r c"], AffineCamera]:
    """Downsample a view to pixels of about `cell_m`: means of whole blocks, NaN where a block has no valid pixel."""
    factor = max(1, round(cell_m / camera.gsd_m()))
    if factor == 1:
        return image, camera
    rows, columns = (size // factor for size in image.shape)
    blocks = image[: rows * factor, : columns * factor]
    valid = np.isfinite(blocks)
    weight = cv2.resize(valid.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    mean = cv2.resize(np.where(valid, blocks, 0).astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA)
    downsampled = np.where(weight > 0, mean / np.maximum(weight, 1e-6), np.nan).astype(np.float32)
    matrix = camera.matrix / factor
    matrix[:, 3] += 0.5 / factor - 0.5  # the center of the first block
    quadratic = None if camera.quadratic is None else camera.quadratic / factor
    return downsampled, AffineCamera(matrix, quadratic, (columns, rows), camera.fit_px)
