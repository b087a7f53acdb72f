"""Dense surface from satellite views: object-space plane sweep over pairs, semi-global aggregation, classification.

Every height of the box is tested for every ground cell: the views are warped to each height plane by their cameras and
compared by normalized cross-correlation. Images need no common radiometry: gains and path radiance cancel in the
correlation. Heights that views confirm along their lines of sight are matched, cells between them are filled from the
rims of the holes, and cells that no two images cover are unknown.
With many pairs, a coarse sweep comes first, and later sweeps compare only views in which a cell is not occluded by the
previous surface: the feet of walls are occluded from one side, and views that show a wall instead would make the roof
too wide.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Float32, Int, UInt8, UInt16
from numpy import ndarray
from scipy.ndimage import maximum_filter, minimum_filter

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.height_sigma import height_sigma_m
from skyfall_ns.geo.image_pairs import CONVERGENCE_DEG, height_step_m, select_stereo_pairs
from skyfall_ns.geo.matching_cost import COST_UNIT, MatchingOptions, PlaneWarp, SearchLimits, cost_volume
from skyfall_ns.geo.matching_images import MatchingImages
from skyfall_ns.geo.ray_consistency import distances_along_rays_m
from skyfall_ns.geo.sgm import aggregate_costs
from skyfall_ns.geo.surface_evidence import (
    CONFIRMATION_TOLERANCE_M,
    MATCHED,
    UNKNOWN,
    ClassifiedHeights,
    classify_heights,
    nearby_ground_m,
)
from skyfall_ns.geo.visibility import lowest_visible_m
from skyfall_ns.geo.window_support import find_noise

TILE_VOXELS = 220_000_000  # of 3 bytes each
TILE_OVERLAP = 48  # cells
VISIBILITY_TOLERANCE_M = 2.0  # heights this far below the lowest visible one still count as visible
SEARCH_MARGIN_M = 3.0  # later sweeps search this far below and above the previous surface
SEARCH_REACH_M = 12.0  # within this horizontal distance: edges may be displaced by as much
ROUGH_TOLERANCE_M = 6.0  # of the coarse surface, whose cells are 2 m wide
RELIEF_MARGIN_M = 10.0  # below and above the heights of a rough relief
MAX_FLAT_RANGE_M = 160.0  # in taller boxes, heights are counted from a ground surface that a coarse sweep finds
CONSISTENCY_CELLS = 5  # side of the window over which the consistency of the views is averaged
MIN_SUNLIT_GRAY = 127.0  # of 255: blank surfaces at least this bright are in the sun
FILLED_CONFIDENCE_FACTOR = 0.1  # for cells that are not matched


@dataclass(frozen=True)
class Sweep:
    """Options of one pass over all heights.

    `small_step_penalty` and `large_step_penalty` (P1 and P2 of SGM, in 1/100) are those of height changes by one step
    and by more. Cells are `downsample` times as wide as those of the surface, and one height step moves the match of
    the widest pair by `step_px`. Isolated patches smaller than `min_patch_m2` count as false matches. A height is
    matched if `confirming_fraction` of the views confirm it (at least two), if the consistency of the views (0..1, mean
    over CONSISTENCY_CELLS square) is at least `min_consistency`, and, with `excludes_noise`, if the views correlate in
    large windows, because noise (as of water) also matches at some height. Where the consistency is at least
    `occlusion_consistency`, better matches behind a cell do not contradict it. Heights are medians over `median_cells`
    square; `sigma_scale` calibrates their standard deviations.
    """

    matching: MatchingOptions
    small_step_penalty: int
    large_step_penalty: int
    step_px: float
    downsample: int = 1
    min_patch_m2: float = 0.0
    median_cells: int = 1
    confirming_fraction: float = 0.5
    sigma_scale: float = 1.0
    min_consistency: float = 0.0
    excludes_noise: bool = False
    occlusion_consistency: float = math.inf


# Few pairs leave noise: patches below 20 m² were wrong by 16 and 22 m on average (Kahramanmaraş, two pairs), even where
# the views agreed well.
FEW_PAIRS_SWEEPS = (
    Sweep(
        MatchingOptions(window=7, best_fraction=0.4),
        5,
        150,
        0.15,
        min_patch_m2=20.0,
        median_cells=3,
        sigma_scale=1.3,
        min_consistency=0.55,
    ),
)
_FINE_MATCHING = MatchingOptions(window=3, best_fraction=0.4, hue_weight=1.0, height_penalty=0.6)
MANY_PAIRS_SWEEPS = (  # many pairs average the noise: small windows keep edges sharp
    Sweep(
        MatchingOptions(window=3, best_fraction=0.5, hue_weight=0.5, height_penalty=0.2),
        15,
        80,
        0.9,
        downsample=2,
        min_patch_m2=6.0,
        occlusion_consistency=0.75,
    ),
    Sweep(_FINE_MATCHING, 25, 100, 0.45, min_patch_m2=6.0, occlusion_consistency=0.75),
    Sweep(
        _FINE_MATCHING,
        25,
        100,
        0.45,
        min_patch_m2=6.0,
        min_consistency=0.3,
        excludes_noise=True,
        occlusion_consistency=0.75,
    ),
)
RELIEF_SWEEP = Sweep(MatchingOptions(window=5, best_fraction=0.5), 15, 100, 2.0, downsample=4, min_patch_m2=200.0)
MANY_PAIRS = 10  # from this number of pairs on, MANY_PAIRS_SWEEPS are used


@dataclass(frozen=True)
class Surface:
    """Heights over a grid, local meters (NaN where unknown), with confidence in 0..1, source (0 unknown, 1 matched,
    2 filled) and the standard deviation of heights in meters (NaN where unknown)."""

    grid: Grid
    height_m: Float32[ndarray, "h w"]
    confidence: Float32[ndarray, "h w"]
    source: UInt8[ndarray, "h w"]
    sigma_m: Float32[ndarray, "h w"]


def match_dense_surface(
    images: Sequence[Float32[ndarray, "h w *b"]],
    cameras: Sequence[AffineCamera],
    box_m,
    resolution_m: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
    clusters: Sequence[int] | None = None,
    relief: tuple[Grid, Float32[ndarray, "r c"]] | None = None,
) -> Surface:
    """Match the upper surface inside the box ([2, 3]: min and max, local meters), one height per cell.

    `images` are gray "h w" or color "h w 3", gamma-encoded, in 0..1, NaN where a pixel is unusable. With `clusters`,
    one number per image, images of one cluster are matched with each other (see `select_stereo_pairs`). `relief` are
    rough heights (a grid, and local meters without NaN) that replace the coarse sweep of tall boxes. `progress` is
    called with (done, total). Raises SkyfallError if no two views differ enough in direction.
    """
    box_m = np.asarray(box_m, np.float64)
    pairs = select_stereo_pairs(cameras, clusters)
    if not pairs:
        low, high = CONVERGENCE_DEG
        raise SkyfallError(
            f"No two images have view directions between {low:g} and {high:g} degrees apart. "
            "Add an image from another direction, or use sparse points only (--points sparse)."
        )
    used = sorted({view for pair in pairs for view in pair})
    pairs = [(used.index(i), used.index(j)) for i, j in pairs]
    sweeps = MANY_PAIRS_SWEEPS if len(pairs) >= MANY_PAIRS else FEW_PAIRS_SWEEPS
    sizes = {resolution_m * sweep.downsample for sweep in (*sweeps, RELIEF_SWEEP)}
    views = MatchingImages([images[v] for v in used], [cameras[v] for v in used], sizes)
    grid = Grid.covering_box(box_m, resolution_m)
    base, (low, high), rough = _estimate_base(views, pairs, grid, (float(box_m[0, 2]), float(box_m[1, 2])), relief)
    layers = tuple(np.zeros((grid.height, grid.width), dtype) for dtype in (*(np.float32,) * 3, np.uint8))
    step_m = height_step_m(views.cameras, pairs, sweeps[-1].step_px)
    tiles = list(_tile_windows(grid, math.ceil((high - low) / step_m)))
    for index, (window, core) in enumerate(tiles):
        tile = grid.crop_cells(window)
        tile_progress = _partial_progress(progress, index, len(tiles))
        surfaces = base[window], None if rough is None else rough[window]
        result = _match_tile(views, pairs, tile, surfaces, (low, high), sweeps, tile_progress)
        core_of_tile = tuple(slice(k.start - w.start, k.stop - w.start) for k, w in zip(core, window, strict=True))
        for layer, values in zip(layers, result, strict=True):
            layer[core] = values[core_of_tile]
    height, confidence, sigma, source = layers
    return Surface(grid, height, confidence, source, sigma)


def _partial_progress(progress, index: int, count: int):
    """A callback that reports the progress of one of `count` equal parts as progress of the whole."""
    return None if progress is None else lambda done, total: progress(index * total + done, count * total)


def _estimate_base(views: MatchingImages, pairs, grid: Grid, range_m: tuple[float, float], relief):
    """The base surface "h w" above which heights are tested, the range above it, and the relief above it (or None).

    The base is zero, or the smoothed ground of the relief or of a coarse sweep if the range is larger than
    MAX_FLAT_RANGE_M."""
    level_ground = np.zeros((grid.height, grid.width), np.float32)
    if range_m[1] - range_m[0] <= MAX_FLAT_RANGE_M:
        return level_ground, range_m, None
    if relief is not None:
        return _base_from_relief(relief, grid)
    coarse_grid = _downsample_grid(grid, RELIEF_SWEEP.downsample)
    step_m = height_step_m(views.cameras, pairs, RELIEF_SWEEP.step_px)
    zero_base = np.zeros((coarse_grid.height, coarse_grid.width), np.float32)
    result = _run_sweep(views, pairs, coarse_grid, zero_base, range_m, step_m, RELIEF_SWEEP, None, None)
    known = result.classified.source == MATCHED
    if not known.any():
        return level_ground, range_m, None
    ground = nearby_ground_m(result.classified.height_m, known, coarse_grid.resolution_m)
    ground = cv2.GaussianBlur(ground, (0, 0), 15.0 / coarse_grid.resolution_m)
    height_above_ground = (result.classified.height_m - ground)[known]
    margin = 5.0 + 2 * step_m
    scale = RELIEF_SWEEP.downsample
    base = cv2.resize(ground, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    low, high = float(height_above_ground.min()) - margin, float(height_above_ground.max()) + margin
    return base[: grid.height, : grid.width], (low, high), None


def _base_from_relief(relief: tuple[Grid, Float32[ndarray, "r c"]], grid: Grid):
    """The smoothed ground of rough heights on another grid, the range of these heights above it, and they above it."""
    relief_grid, relief_m = relief
    cell_m = relief_grid.resolution_m
    ground = nearby_ground_m(relief_m, np.ones(relief_m.shape, bool), cell_m)
    ground = cv2.GaussianBlur(ground, (0, 0), 15.0 / cell_m)
    x, y = np.meshgrid(grid.x_m(), grid.y_m())
    row, column = relief_grid.locate(x, y)
    base, rough = (
        cv2.remap(values, column.astype(np.float32), row.astype(np.float32), mode, borderMode=cv2.BORDER_REPLICATE)
        for values, mode in ((ground, cv2.INTER_LINEAR), (relief_m, cv2.INTER_NEAREST))
    )
    above = relief_m - ground
    return base, (float(above.min()) - RELIEF_MARGIN_M, float(above.max()) + RELIEF_MARGIN_M), rough - base


def _tile_windows(grid: Grid, levels: int) -> Iterator[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """(window with overlap, core) of tiles with at most about TILE_VOXELS voxels."""
    side = max(2 * TILE_OVERLAP, int(math.sqrt(TILE_VOXELS / levels)) - 2 * TILE_OVERLAP)
    if grid.width * grid.height * levels <= TILE_VOXELS:
        side = max(grid.width, grid.height)
    rows, columns = -(-grid.height // side), -(-grid.width // side)
    for i in range(rows):
        for j in range(columns):
            core = (
                slice(i * grid.height // rows, (i + 1) * grid.height // rows),
                slice(j * grid.width // columns, (j + 1) * grid.width // columns),
            )
            yield (_extend_by_overlap(core[0], grid.height), _extend_by_overlap(core[1], grid.width)), core


def _extend_by_overlap(core: slice, size: int) -> slice:
    return slice(max(core.start - TILE_OVERLAP, 0), min(core.stop + TILE_OVERLAP, size))


def _match_tile(views: MatchingImages, pairs, grid: Grid, surfaces, range_m: tuple[float, float], sweeps, progress):
    """Heights, confidence, sigma and source of one tile; `surfaces` are the base, and rough heights above it or None;
    `range_m` is above the base."""
    result, (base, rough) = None, surfaces
    for index, sweep in enumerate(sweeps):
        sweep_grid = _downsample_grid(grid, sweep.downsample)
        sweep_base = _resample_nearest(base, sweep_grid)
        sweep_rough = None if rough is None else _resample_nearest(rough, sweep_grid)
        step_m = height_step_m(views.cameras, pairs, sweep.step_px)
        previous = None if result is None else _resample_nearest(result.classified.height_m, sweep_grid)
        sweep_progress = _partial_progress(progress, index, len(sweeps))
        result = _run_sweep(
            views, pairs, sweep_grid, sweep_base, range_m, step_m, sweep, previous, sweep_progress, sweep_rough
        )
    assert result is not None
    unknown = result.classified.source == UNKNOWN
    height = np.where(unknown, np.nan, result.classified.height_m + base).astype(np.float32)
    confidence = np.where(result.classified.source == MATCHED, 1.0, FILLED_CONFIDENCE_FACTOR) * result.confidence
    sigma = np.where(unknown, np.nan, result.sigma_m).astype(np.float32)
    return height, np.where(unknown, 0, confidence).astype(np.float32), sigma, result.classified.source


@dataclass(frozen=True)
class _SweepResult:
    """Heights of a sweep above the base, with their source, confidence and standard deviation."""

    classified: ClassifiedHeights
    confidence: Float32[ndarray, "h w"]
    sigma_m: Float32[ndarray, "h w"]


def _run_sweep(
    views: MatchingImages, pairs, grid: Grid, base, range_m, step_m: float, sweep: Sweep, previous, progress, rough=None
):
    """Run one sweep above a base surface; `previous` is the surface of the sweep before, and `rough` are heights of a
    coarse surface, both above the base, or None."""
    limits = _search_limits(previous, base, grid, range_m, views.cameras)
    low, high = float(limits.lowest_m.min()), float(limits.highest_m.max())
    levels = low + step_m * np.arange(max(3, math.ceil((high - low) / step_m) + 1))  # a parabola needs three levels
    warps = [PlaneWarp(camera, grid, base) for camera in views.cameras]
    volume = cost_volume(views.images_for(grid.resolution_m), warps, pairs, levels, limits, sweep.matching, progress)
    large_step_penalty = np.full(base.shape, sweep.large_step_penalty, np.int16)
    aggregated_cost = aggregate_costs(volume.cost, sweep.small_step_penalty, large_step_penalty)
    height, index = _find_minimum(aggregated_cost, levels)
    ray_distance_m = distances_along_rays_m(aggregated_cost, levels, base, index, views.cameras, grid.resolution_m)
    textured, bright = _classify_texture(views, warps, height, grid.resolution_m)
    penalties = np.array([sweep.matching.penalty_above(float(level - levels[0])) for level in levels], np.float32)
    confidence = _matching_confidence(volume.cost, index, penalties)
    consistency = cv2.blur(confidence, (CONSISTENCY_CELLS, CONSISTENCY_CELLS))
    expected = np.zeros(base.shape, bool) if rough is None else np.abs(height - rough) <= ROUGH_TOLERANCE_M
    confirmations = _count_confirmations(ray_distance_m, textured, consistency, sweep, expected)
    consistent = consistency >= sweep.min_consistency
    if sweep.excludes_noise:
        consistent &= ~find_noise(
            views.images_for(grid.resolution_m), warps, pairs, height, sweep.matching.best_fraction
        )
        confirmations = np.where(consistent, confirmations, 0)
    covered = (volume.first_level <= index) & (index <= volume.last_level) & (textured.sum(0) >= 2) & consistent
    covered_from_m = np.where(volume.last_level < 0, np.inf, levels[np.minimum(volume.first_level, len(levels) - 1)])
    covered_from_m = np.where(covered_from_m <= limits.lowest_m + 2 * step_m, -np.inf, covered_from_m).astype(
        np.float32
    )
    min_confirmations = max(2, round(sweep.confirming_fraction * len(views.cameras)))
    patch_cells = round(sweep.min_patch_m2 / grid.resolution_m**2)
    classified = classify_heights(
        height, confirmations, covered, covered_from_m, bright, min_confirmations, patch_cells, grid.resolution_m
    )
    classified = replace(classified, height_m=cv2.medianBlur(classified.height_m, sweep.median_cells))
    sigma = height_sigma_m(aggregated_cost, index, step_m, ray_distance_m, classified)
    return _SweepResult(classified, confidence, np.float32(sweep.sigma_scale) * sigma)


def _count_confirmations(
    ray_distance_m, textured, consistency, sweep: Sweep, expected: ndarray | bool = False
) -> Int[ndarray, "h w"]:
    """Number of views that confirm each cell: those without a better match along their lines of sight.

    Where the consistency is high, views with a better match behind the cell count too if at least one view confirms it
    or the height is `expected`: that match comes from other pairs, which see the ground that a tower occludes.
    """
    best = ((np.abs(ray_distance_m) <= CONFIRMATION_TOLERANCE_M) & textured).sum(0)
    not_behind = ((ray_distance_m <= CONFIRMATION_TOLERANCE_M) & textured).sum(0)
    confirmations = np.where((consistency >= sweep.occlusion_consistency) & ((best >= 1) | expected), not_behind, best)
    return np.where(consistency >= sweep.min_consistency, confirmations, 0)


def _classify_texture(views: MatchingImages, warps: Sequence[PlaneWarp], height_m, cell_m: float):
    """Masks of the cells with texture in each view, and of the cells that are blank and bright in at least half of the
    images that cover them."""
    textured = np.stack([w(image, height_m) for w, image in zip(warps, views.texture_masks_for(cell_m), strict=True)])
    gray = np.stack([w(image[..., :1], height_m) for w, image in zip(warps, views.images_for(cell_m), strict=True)])
    covered = np.isfinite(textured)
    blank = covered & (textured < 0.5) & (gray > MIN_SUNLIT_GRAY)
    return covered & (textured >= 0.5), (blank.sum(0) >= 0.5 * covered.sum(0)) & blank.any(0)


def _downsample_grid(grid: Grid, downsample: int) -> Grid:
    """The grid with cells `downsample` times as wide; it may extend slightly further south and east."""
    width, height = -(-grid.width // downsample), -(-grid.height // downsample)
    return Grid(grid.x_min_m, grid.y_max_m, grid.resolution_m * downsample, width, height)


def _resample_nearest(values: Float32[ndarray, "h w"], grid: Grid) -> Float32[ndarray, "r c"]:
    """Resample values to another grid with the same north-west corner by nearest neighbor."""
    rows = (np.arange(grid.height) * values.shape[0] / grid.height).astype(int)
    columns = (np.arange(grid.width) * values.shape[1] / grid.width).astype(int)
    if values.shape[0] < grid.height:  # to finer cells: whole cells are repeated, the last one may be cut
        factor = -(-grid.height // values.shape[0])
        rows, columns = np.arange(grid.height) // factor, np.arange(grid.width) // factor
    return values[np.ix_(rows, columns)]


def _search_limits(
    previous, base, grid: Grid, range_m: tuple[float, float], cameras: Sequence[AffineCamera]
) -> SearchLimits:
    """Heights that a sweep tests: all of them, or those near the previous surface that it does not occlude.

    For the occlusions the surface is eroded by one cell, because its buildings are too wide.
    """
    if previous is None:
        unoccluded = np.full((len(cameras), *base.shape), -np.inf, np.float32)
        low, high = (np.full(base.shape, value, np.float32) for value in range_m)
        return SearchLimits(low, high, unoccluded)
    size = 2 * round(SEARCH_REACH_M / grid.resolution_m) + 1
    low = np.maximum(minimum_filter(previous, size) - SEARCH_MARGIN_M, np.float32(range_m[0]))
    high = np.minimum(maximum_filter(previous, size) + SEARCH_MARGIN_M, np.float32(range_m[1]))
    eroded = cv2.erode(previous + base, np.ones((3, 3)))
    visible = [lowest_visible_m(eroded, grid.resolution_m, camera.view_direction()) for camera in cameras]
    return SearchLimits(low, high, np.stack(visible) - np.float32(VISIBILITY_TOLERANCE_M) - base)


def _find_minimum(aggregated_cost: UInt16[ndarray, "h w d"], levels):
    """Height of the minimum cost, refined between levels by a parabola, and the index of its level."""
    index = aggregated_cost.argmin(axis=2)
    inner = np.clip(index, 1, aggregated_cost.shape[2] - 2)
    below, center, above = (
        np.take_along_axis(aggregated_cost, (inner + k)[..., None], axis=2)[..., 0].astype(np.float32)
        for k in (-1, 0, 1)
    )
    curvature = below - 2 * center + above
    offset = np.where(curvature > 0, (below - above) / (2 * np.maximum(curvature, 1e-6)), 0.0)
    offset = np.where(index == inner, np.clip(offset, -0.5, 0.5), 0.0)
    return (levels[0] + (index + offset) * (levels[1] - levels[0])).astype(np.float32), index


def _matching_confidence(cost: UInt8[ndarray, "h w d"], index, penalties) -> Float32[ndarray, "h w"]:
    """Consistency of the views at the chosen height, in 0..1, without the penalty of its level in the cost."""
    disagreement = np.take_along_axis(cost, index[..., None], axis=2)[..., 0] - penalties[index]
    return np.clip(1.0 - disagreement / COST_UNIT, 0, 1).astype(np.float32)
