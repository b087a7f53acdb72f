"""Dense surface from satellite views: object-space plane sweep over pairs, semi-global aggregation, confidence.

Every ground cell tries every height of the box; the views are warped to each height plane by their cameras and
compared by normalised cross-correlation. Images need no common radiometry: gains and hazes cancel in the correlation.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt16
from numpy import ndarray

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.raster import Grid
from skyfall_ns.geo.sgm import aggregate
from skyfall_ns.geo.stereo_cost import UNIT, Matching, cost_volume

CONVERGENCE_DEG = (2.5, 45.0)  # pairs outside have no parallax, or look too different
BEST_DEG = 17.0
MAX_PAIRS = 28
STEP_PX = 0.15  # parallax of one height step in the widest pair
P2 = 150  # of costs in 1/100, for a jump; small steps are cheaper (slopes)
FEW, P1_FEW = Matching(window=7, best_share=0.4), 5  # one or two pairs: noise is the enemy
MANY, P1_MANY = Matching(window=3, best_share=0.15), 15  # many pairs average noise away: edges stay sharp
MANY_PAIRS = 10
TILE_VOXELS = 220_000_000  # 3 bytes each
TILE_OVERLAP = 48  # cells


@dataclass(frozen=True)
class Surface:
    """Heights over a grid, local metres (NaN where no pair of views sees the ground), with confidence in 0..1."""

    grid: Grid
    height_m: Float32[ndarray, "h w"]
    confidence: Float32[ndarray, "h w"]


def dense_surface(
    images: Sequence[Float32[ndarray, "h w"]],
    cameras: Sequence[AffineCamera],
    box_m,
    resolution_m: float = 0.5,
    step_m: float | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Surface:
    """The upper surface inside the box ([2, 3]: min and max, local metres), one height per cell.

    `images` are gray, NaN where a pixel is unusable. `step_m` (None: what the views' parallax resolves) is the spacing
    of the heights tried. Raises SkyfallError where no two views differ enough in direction.
    """
    box_m = np.asarray(box_m, np.float64)
    pairs = good_pairs(cameras)
    if not pairs:
        low, high = CONVERGENCE_DEG
        raise SkyfallError(
            f"No two images look from directions between {low:g} and {high:g} degrees apart. "
            "Add an image from another direction, or go without dense points (--points sparse)."
        )
    step_m = step_m or height_step_m(cameras, pairs)
    heights = np.arange(box_m[0, 2], box_m[1, 2] + step_m, step_m)
    grid = Grid.over(box_m, resolution_m)
    used = sorted({view for pair in pairs for view in pair})
    images = [_prepared(images[v], cameras[v], resolution_m) for v in used]
    cameras = [cameras[v] for v in used]
    pairs = [(used.index(i), used.index(j)) for i, j in pairs]
    height = np.full((grid.height, grid.width), np.nan, np.float32)
    confidence = np.zeros_like(height)
    tiles = list(_tiles(grid, len(heights)))
    for number, (window, core) in enumerate(tiles):
        part = Grid(
            grid.x_min_m + window[1].start * resolution_m,
            grid.y_max_m - window[0].start * resolution_m,
            resolution_m,
            window[1].stop - window[1].start,
            window[0].stop - window[0].start,
        )
        tile_progress = _part_of(progress, number, len(tiles))
        h, c = _tile_surface(images, cameras, pairs, part, heights, tile_progress)
        inner = tuple(slice(k.start - w.start, k.stop - w.start) for k, w in zip(core, window, strict=True))
        height[core], confidence[core] = h[inner], c[inner]
    return Surface(grid, height, confidence)


def good_pairs(cameras: Sequence[AffineCamera]) -> list[tuple[int, int]]:
    """Pairs with useful convergence angles, best first, at most MAX_PAIRS."""
    scored = []
    for i, j in combinations(range(len(cameras)), 2):
        angle = convergence_deg(cameras[i], cameras[j])
        if CONVERGENCE_DEG[0] <= angle <= CONVERGENCE_DEG[1]:
            scored.append((abs(math.log(angle / BEST_DEG)), i, j))
    return [(i, j) for _, i, j in sorted(scored)[:MAX_PAIRS]]


def convergence_deg(a: AffineCamera, b: AffineCamera) -> float:
    """Angle between two views' directions."""
    return math.degrees(math.acos(min(1.0, float(a.view_direction() @ b.view_direction()))))


def height_step_m(cameras: Sequence[AffineCamera], pairs: Sequence[tuple[int, int]]) -> float:
    """The height that moves the widest pair's match by STEP_PX."""
    slopes = [camera.view_direction()[:2] / camera.view_direction()[2] for camera in cameras]
    parallax = max(
        float(np.linalg.norm(slopes[i] - slopes[j])) / max(cameras[i].gsd_m(), cameras[j].gsd_m()) for i, j in pairs
    )
    return STEP_PX / parallax


def _part_of(progress, number: int, count: int):
    """Progress of one of several tiles as progress of all."""
    return None if progress is None else lambda done, total: progress(number * total + done, count * total)


def _prepared(image: Float32[ndarray, "h w"], camera: AffineCamera, resolution_m: float) -> Float32[ndarray, "h w"]:
    """Scaled to about 0..255, and smoothed where the grid is coarser than the pixels; unusable pixels stay NaN."""
    image = np.asarray(image, np.float32)
    valid = np.isfinite(image)
    low, high = np.percentile(image[valid][:: max(1, valid.sum() // 1_000_000)], [0.5, 99.5])
    scaled = (image - np.float32(low)) * np.float32(255.0 / max(high - low, 1e-6))
    coarser = resolution_m / camera.gsd_m()
    if coarser > 1.5:
        weight = cv2.GaussianBlur(valid.astype(np.float32), (0, 0), 0.5 * coarser)
        smooth = cv2.GaussianBlur(np.where(valid, scaled, 0), (0, 0), 0.5 * coarser)
        scaled = np.where(valid, smooth / np.maximum(weight, 1e-6), np.nan).astype(np.float32)
    return scaled


def _tiles(grid: Grid, levels: int) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """(window with overlap, core) of tiles whose volumes fit TILE_VOXELS."""
    side = max(2 * TILE_OVERLAP, int(math.sqrt(TILE_VOXELS / levels)) - 2 * TILE_OVERLAP)
    if grid.width * grid.height * levels <= TILE_VOXELS:
        side = max(grid.width, grid.height)
    rows, columns = -(-grid.height // side), -(-grid.width // side)
    for i in range(rows):
        for j in range(columns):
            core = tuple(
                slice(k * size // count, (k + 1) * size // count)
                for k, size, count in ((i, grid.height, rows), (j, grid.width, columns))
            )
            window = tuple(
                slice(max(c.start - TILE_OVERLAP, 0), min(c.stop + TILE_OVERLAP, size))
                for c, size in zip(core, (grid.height, grid.width), strict=True)
            )
            yield window, core


def _tile_surface(images, cameras, pairs, grid: Grid, heights, progress):
    """Heights and confidence of one tile."""
    matching, p1 = (MANY, P1_MANY) if len(pairs) >= MANY_PAIRS else (FEW, P1_FEW)
    cost, seen = cost_volume(images, cameras, pairs, grid, heights, matching, progress)
    total = aggregate(cost, p1, np.full(cost.shape[:2], P2, np.int16))
    height, index = _minimum(total, heights)
    confidence = _confidence(cost, total, index)
    height, confidence = _without_outliers(height, confidence)
    return np.where(seen, height, np.nan).astype(np.float32), np.where(seen, confidence, 0).astype(np.float32)


def _minimum(total: UInt16[ndarray, "h w d"], heights):
    """Height of the least cost, between steps by a parabola, and its index."""
    index = total.argmin(axis=2)
    inner = np.clip(index, 1, total.shape[2] - 2)
    below, at, above = (
        np.take_along_axis(total, (inner + k)[..., None], axis=2)[..., 0].astype(np.float32) for k in (-1, 0, 1)
    )
    curvature = below - 2 * at + above
    offset = np.where(curvature > 0, (below - above) / (2 * np.maximum(curvature, 1e-6)), 0.0)
    offset = np.where(index == inner, np.clip(offset, -0.5, 0.5), 0.0)
    return (heights[0] + (index + offset) * (heights[1] - heights[0])).astype(np.float32), index


def _confidence(cost: UInt8[ndarray, "h w d"], total, index) -> Float32[ndarray, "h w"]:
    """In 0..1: how well the views agree at the chosen height, times how much worse the best other height is."""
    agreement = 1.0 - np.take_along_axis(cost, index[..., None], axis=2)[..., 0].astype(np.float32) / UNIT
    return np.clip(agreement, 0, 1)


def _without_outliers(height, confidence):
    """Cells far from all their neighbours take the neighbourhood's median, with little confidence."""
    median = cv2.medianBlur(height, 5)
    lonely = np.abs(height - median) > 2.0
    return np.where(lonely, median, height), np.where(lonely, 0.1 * confidence, confidence)
