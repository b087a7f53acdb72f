"""Dense surface from satellite views: object-space plane sweep over pairs, semi-global aggregation, confidence.

Every ground cell tries every height of the box; the views are warped to each height plane by their cameras and
compared by normalised cross-correlation. Images need no common radiometry: gains and hazes cancel in the correlation.
Where many views look, a coarse sweep comes first, and later ones ask only the views that the surface so far lets see a
cell: the feet of walls are hidden from one side, and views that see a wall instead would make the roof too wide.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import cv2
import numpy as np
from jaxtyping import Float32, UInt8, UInt16
from numpy import ndarray
from scipy.ndimage import distance_transform_edt

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.raster import Grid
from skyfall_ns.geo.sgm import aggregate
from skyfall_ns.geo.stereo_cost import UNIT, Matching, cost_volume
from skyfall_ns.geo.visibility import lowest_visible_m

CONVERGENCE_DEG = (2.5, 45.0)  # pairs outside have no parallax, or look too different
BEST_DEG = 17.0
MAX_PAIRS = 28
TILE_VOXELS = 220_000_000  # 3 bytes each
TILE_OVERLAP = 48  # cells
HIDDEN_M = 0.5  # a view that looks this far below the surface's edge may still see the cell
NEAR_M = 3.0  # beyond the surface so far, later sweeps look this far up and down
GAMMA = 2.2  # of pictures: hues are those of the light itself
HAZE_PERCENTILE = 0.3  # the darkest light of an image comes from the air (dark-object subtraction)
APART_M = 3.0  # what stands apart differs by more from every neighbour
SPECKLE_UNIT_M = 0.05  # heights are compared in whole units of 16 bits: 1.6 km up and down
HUE_FLOOR = 0.05  # of the sum of three bands of light: the hue of darker pixels is noise


@dataclass(frozen=True)
class Sweep:
    """One pass over all heights; `p1` and `p2` are the prices (1/100) of small and large height steps. Cells are
    `coarser` times as wide as the surface's, and one height step moves the widest pair's match by `step_px`. Patches
    smaller than `speckle_m2` that stand apart from all around them are mistakes, and heights are medians of
    `median_cells` square."""

    matching: Matching
    p1: int
    p2: int
    step_px: float
    coarser: int = 1
    speckle_m2: float = 0.0
    median_cells: int = 1


# noise is the enemy: patches below 20 m² were wrong by 16 and 22 m on average (Kahramanmaraş, two pairs), even where
# views agreed well
FEW = (Sweep(Matching(window=7, best_share=0.4), 5, 150, 0.15, speckle_m2=20.0, median_cells=3),)
_MATCHING = Matching(window=3, best_share=0.4, hue_weight=1.0, height_price=0.5)
MANY = (  # many pairs average noise away: edges stay sharp
    Sweep(Matching(window=3, best_share=0.3, hue_weight=0.5, height_price=0.5), 15, 150, 0.9, coarser=2),
    Sweep(_MATCHING, 25, 100, 0.45),
    Sweep(_MATCHING, 25, 100, 0.45),
)
MANY_PAIRS = 10


@dataclass(frozen=True)
class Surface:
    """Heights over a grid, local metres (NaN where no pair of views sees the ground), with confidence in 0..1."""

    grid: Grid
    height_m: Float32[ndarray, "h w"]
    confidence: Float32[ndarray, "h w"]


def dense_surface(
    images: Sequence[Float32[ndarray, "h w *b"]],
    cameras: Sequence[AffineCamera],
    box_m,
    resolution_m: float = 0.5,
    progress: Callable[[int, int], None] | None = None,
    groups: Sequence[int] | None = None,
) -> Surface:
    """The upper surface inside the box ([2, 3]: min and max, local metres), one height per cell. With `groups`, a
    number per image, only images of one group are matched with each other.

    `images` are gray "h w" or colour "h w 3" in 0..1, gamma-coded as pictures are, NaN where a pixel is unusable.
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
    sweeps = MANY if len(pairs) >= MANY_PAIRS else FEW
    used = sorted({view for pair in pairs for view in pair})
    views = _Views([images[v] for v in used], [cameras[v] for v in used], resolution_m, sweeps)
    pairs = [(used.index(i), used.index(j)) for i, j in pairs]
    grid = Grid.over(box_m, resolution_m)
    height = np.full((grid.height, grid.width), np.nan, np.float32)
    confidence = np.zeros_like(height)
    step_m = height_step_m(cameras, pairs, sweeps[-1].step_px)
    tiles = list(_tiles(grid, math.ceil((box_m[1, 2] - box_m[0, 2]) / step_m)))
    for number, (window, core) in enumerate(tiles):
        part = Grid(
            grid.x_min_m + window[1].start * resolution_m,
            grid.y_max_m - window[0].start * resolution_m,
            resolution_m,
            window[1].stop - window[1].start,
            window[0].stop - window[0].start,
        )
        tile_progress = _part_of(progress, number, len(tiles))
        h, c = _tile_surface(views, pairs, part, (box_m[0, 2], box_m[1, 2]), sweeps, tile_progress)
        inner = tuple(slice(k.start - w.start, k.stop - w.start) for k, w in zip(core, window, strict=True))
        height[core], confidence[core] = h[inner], c[inner]
    return Surface(grid, height, confidence)


def good_pairs(cameras: Sequence[AffineCamera], groups: Sequence[int] | None = None) -> list[tuple[int, int]]:
    """Pairs (of one group) with useful convergence angles, best first, at most MAX_PAIRS."""
    scored = []
    for i, j in combinations(range(len(cameras)), 2):
        if groups is not None and groups[i] != groups[j]:
            continue
        angle = convergence_deg(cameras[i], cameras[j])
        if CONVERGENCE_DEG[0] <= angle <= CONVERGENCE_DEG[1]:
            scored.append((abs(math.log(angle / BEST_DEG)), i, j))
    return [(i, j) for _, i, j in sorted(scored)[:MAX_PAIRS]]


def convergence_deg(a: AffineCamera, b: AffineCamera) -> float:
    """Angle between two views' directions."""
    return math.degrees(math.acos(min(1.0, float(a.view_direction() @ b.view_direction()))))


def height_step_m(cameras: Sequence[AffineCamera], pairs: Sequence[tuple[int, int]], step_px: float) -> float:
    """The height that moves the widest pair's match by `step_px`."""
    slopes = [camera.view_direction()[:2] / camera.view_direction()[2] for camera in cameras]
    parallax = max(
        float(np.linalg.norm(slopes[i] - slopes[j])) / max(cameras[i].gsd_m(), cameras[j].gsd_m()) for i, j in pairs
    )
    return step_px / parallax


def _part_of(progress, number: int, count: int):
    """Progress of one of several tiles as progress of all."""
    return None if progress is None else lambda done, total: progress(number * total + done, count * total)


class _Views:
    """The cameras, and their images prepared for every cell size that the sweeps need."""

    def __init__(self, images, cameras: Sequence[AffineCamera], resolution_m: float, sweeps: tuple[Sweep, ...]) -> None:
        self.cameras = cameras
        sizes = {resolution_m * sweep.coarser for sweep in sweeps}
        self._images = {s: [_prepared(i, c, s) for i, c in zip(images, cameras, strict=True)] for s in sizes}

    def at(self, cell_m: float) -> list[Float32[ndarray, "h w k"]]:
        """The images for cells of a size."""
        return self._images[cell_m]


def _prepared(
    image: Float32[ndarray, "h w *b"], camera: AffineCamera, resolution_m: float
) -> Float32[ndarray, "h w k"]:
    """Gray scaled to about 0..255 and, of colour images, two hues: smoothed where the grid is coarser than the pixels;
    unusable pixels stay NaN."""
    bands = np.asarray(image, np.float32).reshape(*image.shape[:2], -1)
    valid = np.isfinite(bands).all(-1)
    coarser = resolution_m / camera.gsd_m()
    if coarser > 1.5:
        weight = cv2.GaussianBlur(valid.astype(np.float32), (0, 0), 0.5 * coarser)
        smooth = cv2.GaussianBlur(np.where(valid[..., None], bands, 0), (0, 0), 0.5 * coarser).reshape(bands.shape)
        bands = smooth / np.maximum(weight, 1e-6)[..., None]
    gray = bands.mean(-1)
    low, high = np.percentile(gray[valid][:: max(1, valid.sum() // 1_000_000)], [0.5, 99.5])
    layers = [(gray - np.float32(low)) * np.float32(255.0 / max(high - low, 1e-6))]
    if bands.shape[2] == 3:
        layers += _hues(np.where(valid[..., None], bands, 0), valid)
    return np.where(valid[..., None], np.stack(layers, -1), np.nan).astype(np.float32)


def _hues(bands: Float32[ndarray, "h w 3"], valid) -> list[Float32[ndarray, "h w"]]:
    """Shares of red and blue in the light above the haze: the same in sun and in shadow."""
    light = np.clip(bands, 0, None) ** np.float32(GAMMA)
    haze = np.percentile(light[valid], HAZE_PERCENTILE, axis=0).astype(np.float32)
    light = np.clip(light - haze, 0, None)
    total = light.sum(-1) + np.float32(HUE_FLOOR)
    return [light[..., k] / total for k in (0, 2)]


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


def _tile_surface(views: _Views, pairs, grid: Grid, range_m: tuple[float, float], sweeps, progress):
    """Heights and confidence of one tile."""
    height = None
    for number, sweep in enumerate(sweeps):
        cells = _coarse(grid, sweep.coarser)
        low, high = range_m if height is None else _around(height, range_m)
        step_m = height_step_m(views.cameras, pairs, sweep.step_px)
        heights = low + step_m * np.arange(max(3, math.ceil((high - low) / step_m) + 1))  # a parabola needs three
        lowest = _lowest_seen(height, cells, views.cameras)
        part = _part_of(progress, number, len(sweeps))
        images = views.at(cells.resolution_m)
        cost, seen = cost_volume(images, views.cameras, pairs, cells, heights, lowest, sweep.matching, part)
        total = aggregate(cost, sweep.p1, np.full(cost.shape[:2], sweep.p2, np.int16))
        height, index = _minimum(total, heights)
        height, confidence = _without_outliers(
            height, _confidence(cost, index, sweep.matching.height_price * (heights[1] - heights[0]))
        )
        if sweep.speckle_m2:
            height, confidence = _without_speckles(
                height, confidence, seen, round(sweep.speckle_m2 / cells.resolution_m**2)
            )
        height = cv2.medianBlur(height, sweep.median_cells)
    return np.where(seen, height, np.nan).astype(np.float32), np.where(seen, confidence, 0).astype(np.float32)


def _coarse(grid: Grid, coarser: int) -> Grid:
    """The grid in cells `coarser` times as wide; it may reach a little further south and east."""
    width, height = -(-grid.width // coarser), -(-grid.height // coarser)
    return Grid(grid.x_min_m, grid.y_max_m, grid.resolution_m * coarser, width, height)


def _around(height, range_m: tuple[float, float]) -> tuple[float, float]:
    """The heights that a later sweep tries."""
    return max(range_m[0], float(height.min()) - NEAR_M), min(range_m[1], float(height.max()) + NEAR_M)


def _lowest_seen(height, grid: Grid, cameras: Sequence[AffineCamera]) -> Float32[ndarray, "v h w"]:
    """Per view, from which height on a cell is seen, by the surface so far; it is eroded by a cell, because it is too
    wide. Without a surface everything is seen."""
    if height is None:
        return np.full((len(cameras), grid.height, grid.width), -np.inf, np.float32)
    finer = -(-grid.width // height.shape[1])
    spread = np.repeat(np.repeat(height, finer, axis=0), finer, axis=1)[: grid.height, : grid.width]
    eroded = cv2.erode(spread, np.ones((3, 3)))
    lowest = [lowest_visible_m(eroded, grid.resolution_m, camera.view_direction()) for camera in cameras]
    return np.stack(lowest) - np.float32(HIDDEN_M)


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


def _confidence(cost: UInt8[ndarray, "h w d"], index, price: float) -> Float32[ndarray, "h w"]:
    """In 0..1: how well the views agree at the chosen height; `price` per step is no disagreement."""
    disagreement = np.take_along_axis(cost, index[..., None], axis=2)[..., 0] - np.float32(price) * index
    return np.clip(1.0 - disagreement / UNIT, 0, 1).astype(np.float32)


def _without_outliers(height, confidence):
    """Cells far from all their neighbours take the neighbourhood's median, with little confidence."""
    median = cv2.medianBlur(height, 5)
    lonely = np.abs(height - median) > 2.0
    return np.where(lonely, median, height), np.where(lonely, 0.1 * confidence, confidence)


def _without_speckles(height, confidence, seen, cells: int):
    """Patches of at most so many seen cells that stand apart take the nearest other height, with little confidence."""
    unknown = np.iinfo(np.int16).max
    units = np.round((height - np.median(height)) / SPECKLE_UNIT_M).clip(-unknown, unknown - 1)
    marked = np.where(seen, units, unknown).astype(np.int16)
    marked, _ = cv2.filterSpeckles(marked, unknown, cells, APART_M / SPECKLE_UNIT_M)
    wrong = seen & (marked == unknown)
    if wrong.sum() == seen.sum():
        return height, confidence
    nearest = distance_transform_edt(marked == unknown, return_distances=False, return_indices=True)
    rows, columns = np.asarray(nearest)
    return np.where(wrong, height[rows, columns], height), np.where(wrong, 0.1 * confidence, confidence)
