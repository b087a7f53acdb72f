"""Dense surface from satellite views: object-space plane sweep over pairs, semi-global aggregation, evidence.

Every ground cell tries every height of the box; the views are warped to each height plane by their cameras and
compared by normalized cross-correlation. Images need no common radiometry: gains and hazes cancel in the correlation.
Heights that views confirm along their lines of sight are matched, what lies between them is filled from its rim, and
what no two images show is unknown.
Where many views look, a coarse sweep comes first, and later ones ask only the views that the surface so far lets see a
cell: the feet of walls are hidden from one side, and views that see a wall instead would make the roof too wide.
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
from skyfall_ns.geo.height_sigma import height_sigma_m
from skyfall_ns.geo.image_pairs import CONVERGENCE_DEG, good_pairs, height_step_m
from skyfall_ns.geo.matching_cost import UNIT, Limits, Matching, PlaneWarp, cost_volume
from skyfall_ns.geo.matching_images import MatchingImages
from skyfall_ns.geo.raster import Grid
from skyfall_ns.geo.ray_consistency import distances_along_rays_m
from skyfall_ns.geo.sgm import aggregate
from skyfall_ns.geo.surface_evidence import CONFIRMED_M, MATCHED, UNKNOWN, Judged, ground_near, judge
from skyfall_ns.geo.visibility import lowest_visible_m

TILE_VOXELS = 220_000_000  # 3 bytes each
TILE_OVERLAP = 48  # cells
HIDDEN_M = 2.0  # a view that looks this far below the surface's edge may still see the cell
NEAR_M = 3.0  # beyond the surface so far, later sweeps look this far up and down
NEAR_REACH_M = 12.0  # and take the surface within this distance for near: edges may be that far off
RELIEF_M = 160.0  # boxes taller than this are swept above the ground that a coarse sweep finds
AGREEMENT_CELLS = 5
BRIGHT = 127.0  # of 255: blank surfaces this bright lie in the sun
FILLED_CONFIDENCE = 0.1  # factor for cells that are not matched


@dataclass(frozen=True)
class Sweep:
    """One pass over all heights; `p1` and `p2` are the penalties (1/100) of small and large height steps. Cells are
    `coarser` times as wide as the surface's, and one height step moves the widest pair's match by `step_px`. Patches
    smaller than `patch_m2` that stand apart from all around them are mistakes, `confirmations` of its views make a
    height matched (a share of those that look, at least two), and heights are medians of `median_cells` square.
    `sigma_scale` calibrates their sigma. Noise agrees somewhere too: around a matched cell, views agree (0..1, mean of
    AGREEMENT_CELLS square) by at least `least_agreement`. From `tower_agreement`
    on, what other pairs see behind a cell is nothing against it."""

    matching: Matching
    p1: int
    p2: int
    step_px: float
    coarser: int = 1
    patch_m2: float = 0.0
    median_cells: int = 1
    confirmations: float = 0.5
    sigma_scale: float = 1.0
    least_agreement: float = 0.0
    tower_agreement: float = math.inf


# noise is the enemy: patches below 20 m² were wrong by 16 and 22 m on average (Kahramanmaraş, two pairs), even where
# views agreed well
FEW = (
    Sweep(
        Matching(window=7, best_share=0.4),
        5,
        150,
        0.15,
        patch_m2=20.0,
        median_cells=3,
        sigma_scale=1.3,
        least_agreement=0.55,
    ),
)
_MATCHING = Matching(window=3, best_share=0.4, hue_weight=1.0, height_price=0.6)
MANY = (  # many pairs average noise away: edges stay sharp
    Sweep(
        Matching(window=3, best_share=0.5, hue_weight=0.5, height_price=0.2),
        15,
        80,
        0.9,
        coarser=2,
        patch_m2=6.0,
        tower_agreement=0.75,
    ),
    Sweep(_MATCHING, 25, 100, 0.45, patch_m2=6.0, tower_agreement=0.75),
    Sweep(_MATCHING, 25, 100, 0.45, patch_m2=6.0, least_agreement=0.3, tower_agreement=0.75),
)
RELIEF = Sweep(Matching(window=5, best_share=0.5), 15, 100, 2.0, coarser=4, patch_m2=200.0)
MANY_PAIRS = 10


@dataclass(frozen=True)
class Surface:
    """Heights over a grid, local meters (NaN where unknown), with confidence in 0..1, source (0 unknown, 1 matched,
    2 filled) and the standard deviation of heights in meters (NaN where unknown)."""

    grid: Grid
    height_m: Float32[ndarray, "h w"]
    confidence: Float32[ndarray, "h w"]
    source: UInt8[ndarray, "h w"]
    sigma_m: Float32[ndarray, "h w"]


def dense_surface(
    images: Sequence[Float32[ndarray, "h w *b"]],
    cameras: Sequence[AffineCamera],
    box_m,
    resolution_m: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
    groups: Sequence[int] | None = None,
) -> Surface:
    """The upper surface inside the box ([2, 3]: min and max, local meters), one height per cell. With `groups`, a
    number per image, images of one group are matched with each other (see `good_pairs`).

    `images` are gray "h w" or color "h w 3" in 0..1, gamma-coded as pictures are, NaN where a pixel is unusable.
    Raises SkyfallError where no two views differ enough in direction.
    """
    box_m = np.asarray(box_m, np.float64)
    pairs = good_pairs(cameras, groups)
    if not pairs:
        low, high = CONVERGENCE_DEG
        raise SkyfallError(
            f"No two images look from directions between {low:g} and {high:g} degrees apart. "
            "Add an image from another direction, or go without dense points (--points sparse)."
        )
    used = sorted({view for pair in pairs for view in pair})
    pairs = [(used.index(i), used.index(j)) for i, j in pairs]
    sweeps = MANY if len(pairs) >= MANY_PAIRS else FEW
    sizes = {resolution_m * sweep.coarser for sweep in (*sweeps, RELIEF)}
    views = MatchingImages([images[v] for v in used], [cameras[v] for v in used], sizes)
    grid = Grid.over(box_m, resolution_m)
    base, (low, high) = _relief(views, pairs, grid, (float(box_m[0, 2]), float(box_m[1, 2])))
    layers = tuple(np.zeros((grid.height, grid.width), kind) for kind in (*(np.float32,) * 3, np.uint8))
    step_m = height_step_m(views.cameras, pairs, sweeps[-1].step_px)
    tiles = list(_tiles(grid, math.ceil((high - low) / step_m)))
    for number, (window, core) in enumerate(tiles):
        part = grid.part(window)
        shown = _part_of(progress, number, len(tiles))
        found = _tile_surface(views, pairs, part, base[window], (low, high), sweeps, shown)
        inner = tuple(slice(k.start - w.start, k.stop - w.start) for k, w in zip(core, window, strict=True))
        for layer, values in zip(layers, found, strict=True):
            layer[core] = values[inner]
    height, confidence, sigma, source = layers
    return Surface(grid, height, confidence, source, sigma)


def _part_of(progress, number: int, count: int):
    """Progress of one of several parts as progress of all."""
    return None if progress is None else lambda done, total: progress(number * total + done, count * total)


def _relief(views: MatchingImages, pairs, grid: Grid, range_m: tuple[float, float]):
    """The ground "h w" above which heights are tried, smooth, and the range above it: level ground and the whole range,
    unless that is so large that a coarse sweep pays."""
    flat = np.zeros((grid.height, grid.width), np.float32)
    if range_m[1] - range_m[0] <= RELIEF_M:
        return flat, range_m
    cells = _coarse(grid, RELIEF.coarser)
    step_m = height_step_m(views.cameras, pairs, RELIEF.step_px)
    tall = np.zeros((cells.height, cells.width), np.float32)
    found = _sweep(views, pairs, cells, tall, range_m, step_m, RELIEF, None, None)
    known = found.judged.source == MATCHED
    if not known.any():
        return flat, range_m
    ground = ground_near(found.judged.height_m, known, cells.resolution_m)
    ground = cv2.GaussianBlur(ground, (0, 0), 15.0 / cells.resolution_m)
    above = (found.judged.height_m - ground)[known]
    margin = 5.0 + 2 * step_m
    base = cv2.resize(ground, None, fx=RELIEF.coarser, fy=RELIEF.coarser, interpolation=cv2.INTER_LINEAR)
    return base[: grid.height, : grid.width], (float(above.min()) - margin, float(above.max()) + margin)


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


def _tile_surface(views: MatchingImages, pairs, grid: Grid, base, range_m: tuple[float, float], sweeps, progress):
    """Heights, confidence, sigma and source of one tile; `range_m` is above the base."""
    found = None
    for number, sweep in enumerate(sweeps):
        cells = _coarse(grid, sweep.coarser)
        below = _resized(base, cells)
        step_m = height_step_m(views.cameras, pairs, sweep.step_px)
        before = None if found is None else _resized(found.judged.height_m, cells)
        part = _part_of(progress, number, len(sweeps))
        found = _sweep(views, pairs, cells, below, range_m, step_m, sweep, before, part)
    assert found is not None
    unknown = found.judged.source == UNKNOWN
    height = np.where(unknown, np.nan, found.judged.height_m + base).astype(np.float32)
    confidence = np.where(found.judged.source == MATCHED, 1.0, FILLED_CONFIDENCE) * found.confidence
    sigma = np.where(unknown, np.nan, found.sigma_m).astype(np.float32)
    return height, np.where(unknown, 0, confidence).astype(np.float32), sigma, found.judged.source


@dataclass(frozen=True)
class _Found:
    """What a sweep found: heights above the base, where they come from, and how sure they are."""

    judged: Judged
    confidence: Float32[ndarray, "h w"]
    sigma_m: Float32[ndarray, "h w"]


def _sweep(views: MatchingImages, pairs, grid: Grid, base, range_m, step_m: float, sweep: Sweep, before, progress):
    """One sweep above a base surface; `before` is the surface so far, above the base."""
    limits = _limits(before, base, grid, range_m, views.cameras)
    low, high = float(limits.low_m.min()), float(limits.high_m.max())
    levels = low + step_m * np.arange(max(3, math.ceil((high - low) / step_m) + 1))  # a parabola needs three
    warps = [PlaneWarp(camera, grid, base) for camera in views.cameras]
    volume = cost_volume(views.at(grid.resolution_m), warps, pairs, levels, limits, sweep.matching, progress)
    total = aggregate(volume.cost, sweep.p1, np.full(base.shape, sweep.p2, np.int16))
    height, index = _minimum(total, levels)
    apart = distances_along_rays_m(total, levels, base, index, views.cameras, grid.resolution_m)
    textured, bright = _texture(views, warps, height, grid.resolution_m)
    confidence = _confidence(volume.cost, index, sweep.matching.height_price * step_m)
    agreement = cv2.blur(confidence, (AGREEMENT_CELLS, AGREEMENT_CELLS))
    confirmations = _confirmations(apart, textured, agreement, sweep)
    agreed = agreement >= sweep.least_agreement
    shown = (volume.first <= index) & (index <= volume.last) & (textured.sum(0) >= 2) & agreed
    shown_from = np.where(volume.last < 0, np.inf, levels[np.minimum(volume.first, len(levels) - 1)])
    shown_from = np.where(shown_from <= limits.low_m + 2 * step_m, -np.inf, shown_from).astype(np.float32)
    needed = max(2, round(sweep.confirmations * len(views.cameras)))
    cells = round(sweep.patch_m2 / grid.resolution_m**2)
    judged = judge(height, confirmations, shown, shown_from, bright, needed, cells, grid.resolution_m)
    judged = replace(judged, height_m=cv2.medianBlur(judged.height_m, sweep.median_cells))
    sigma = height_sigma_m(total, index, step_m, apart, judged)
    return _Found(judged, confidence, np.float32(sweep.sigma_scale) * sigma)


def _confirmations(apart_m, textured, agreement, sweep: Sweep) -> Int[ndarray, "h w"]:
    """How many views confirm each cell: their lines of sight have nothing better. Where many views agree, lines that
    find something better behind the cell count too if one confirms it: other pairs see what a tower hides from them."""
    best = ((np.abs(apart_m) <= CONFIRMED_M) & textured).sum(0)
    not_hidden = ((apart_m <= CONFIRMED_M) & textured).sum(0)
    counted = np.where((agreement >= sweep.tower_agreement) & (best >= 1), not_hidden, best)
    return np.where(agreement >= sweep.least_agreement, counted, 0)


def _texture(views: MatchingImages, warps: Sequence[PlaneWarp], height_m, cell_m: float):
    """Per view and cell, whether the image has something to match there; and which cells are blank and bright in at
    least half of the images that show them."""
    textured = np.stack([w(image, height_m) for w, image in zip(warps, views.textured(cell_m), strict=True)])
    gray = np.stack([w(image[..., :1], height_m) for w, image in zip(warps, views.at(cell_m), strict=True)])
    shown = np.isfinite(textured)
    blank = shown & (textured < 0.5) & (gray > BRIGHT)
    return shown & (textured >= 0.5), (blank.sum(0) >= 0.5 * shown.sum(0)) & blank.any(0)


def _coarse(grid: Grid, coarser: int) -> Grid:
    """The grid in cells `coarser` times as wide; it may reach a little further south and east."""
    width, height = -(-grid.width // coarser), -(-grid.height // coarser)
    return Grid(grid.x_min_m, grid.y_max_m, grid.resolution_m * coarser, width, height)


def _resized(values: Float32[ndarray, "h w"], grid: Grid) -> Float32[ndarray, "r c"]:
    """Values of a grid with the same north-west corner in the cells of another: the nearest ones."""
    rows = (np.arange(grid.height) * values.shape[0] / grid.height).astype(int)
    columns = (np.arange(grid.width) * values.shape[1] / grid.width).astype(int)
    if values.shape[0] < grid.height:  # finer: whole cells are repeated, the last may be cut
        finer = -(-grid.height // values.shape[0])
        rows, columns = np.arange(grid.height) // finer, np.arange(grid.width) // finer
    return values[np.ix_(rows, columns)]


def _limits(before, base, grid: Grid, range_m: tuple[float, float], cameras: Sequence[AffineCamera]) -> Limits:
    """What a sweep tries: everything without a surface, else what is near it and not hidden by it. It is eroded by a
    cell for that, because it is too wide."""
    if before is None:
        nowhere = np.full((len(cameras), *base.shape), -np.inf, np.float32)
        low, high = (np.full(base.shape, value, np.float32) for value in range_m)
        return Limits(low, high, nowhere)
    size = 2 * round(NEAR_REACH_M / grid.resolution_m) + 1
    low = np.maximum(minimum_filter(before, size) - NEAR_M, np.float32(range_m[0]))
    high = np.minimum(maximum_filter(before, size) + NEAR_M, np.float32(range_m[1]))
    eroded = cv2.erode(before + base, np.ones((3, 3)))
    visible = [lowest_visible_m(eroded, grid.resolution_m, camera.view_direction()) for camera in cameras]
    return Limits(low, high, np.stack(visible) - np.float32(HIDDEN_M) - base)


def _minimum(total: UInt16[ndarray, "h w d"], levels):
    """Level of the least cost, between steps by a parabola, and its index."""
    index = total.argmin(axis=2)
    inner = np.clip(index, 1, total.shape[2] - 2)
    below, at, above = (
        np.take_along_axis(total, (inner + k)[..., None], axis=2)[..., 0].astype(np.float32) for k in (-1, 0, 1)
    )
    curvature = below - 2 * at + above
    offset = np.where(curvature > 0, (below - above) / (2 * np.maximum(curvature, 1e-6)), 0.0)
    offset = np.where(index == inner, np.clip(offset, -0.5, 0.5), 0.0)
    return (levels[0] + (index + offset) * (levels[1] - levels[0])).astype(np.float32), index


def _confidence(cost: UInt8[ndarray, "h w d"], index, price: float) -> Float32[ndarray, "h w"]:
    """In 0..1: how well the views agree at the chosen height; `price` per step is no disagreement."""
    disagreement = np.take_along_axis(cost, index[..., None], axis=2)[..., 0] - np.float32(price) * index
    return np.clip(1.0 - disagreement / UNIT, 0, 1).astype(np.float32)
