"""Which cells of a surface are matched, and what stands where they are not.

A height counts as matched if views confirm it along their lines of sight, if it belongs to a patch large enough to be
no accident (or to one within the heights of its surroundings), and if the images that see it would also see the ground
there: where two views meet only far above the ground, whatever they seem to agree on, nothing is known.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from numpy import ndarray
from scipy.ndimage import binary_dilation, distance_transform_edt, find_objects, label, minimum_filter

from skyfall_ns.geo.hole_filling import rim_heights

UNKNOWN, MATCHED, FILLED = 0, 1, 2
CONFIRMED_M = 1.0  # a view confirms a height if its line of sight is best within so much of it
RIM_M = 1.0  # a small patch is no accident if its heights are those of its rim, to within so much
TALL_M = 40.0  # beside what is taller, small patches match by chance at any height between
SMALLER = 4  # and have to be larger, but so many times less than where they stand apart
APART_M = 3.0  # what stands apart differs by more from every neighbor
UNIT_M = 0.05  # heights are compared in whole units of 16 bits: 1.6 km up and down
GROUND_REACH_M = 15.0  # the ground near a cell is the lowest matched height within so much
ABOVE_GROUND_M = 3.0  # a cell that images show only from so far above the ground on is not matched
GROWTH_M, GROWTH_NEIGHBORS = 0.7, 3  # cells that fit so many of their eight matched neighbors are matched too
GROWTH_ROUNDS = 3
LEAST_MATCHED = 0.05  # of the cells: fewer are matches by chance, and carry no surface
PLANE_RIM, PLANE_CELLS, PLANE_M, PLANE_ROUNDS = 4, 20, 2.0, 3  # of blank roofs: cells of rim, least number, tolerance
PLANE_OFF = 0.25  # of its size: how far a part's middle may lie from the middle of the rim that surrounds it


@dataclass(frozen=True)
class Judged:
    """A surface whose holes are filled: heights above the base everywhere, what each is (source), and how high its rim
    is from the lowest to the highest cell (0 for matched cells)."""

    height_m: Float32[ndarray, "h w"]
    source: UInt8[ndarray, "h w"]
    rim_m: Float32[ndarray, "h w"]


def judge(
    height_m: Float32[ndarray, "h w"],
    confirmations: Int[ndarray, "h w"],
    shown: Bool[ndarray, "h w"],
    shown_from_m: Float32[ndarray, "h w"],
    bright: Bool[ndarray, "h w"],
    needed: int,
    patch_cells: int,
    cell_m: float,
) -> Judged:
    """Matched cells keep their heights, the others take those of their rims (see `hole_filling`).

    `confirmations` counts the views that confirm a height, `shown` says whether two images show something there, and
    `shown_from_m` from which height on they show the cell (heights above the same base). `bright` cells are blank and
    in the sun, and no occlusions: a roof as likely as a street. `needed` confirmations make a height matched, in
    patches of at least `patch_cells`.
    """
    sure = shown & (confirmations >= needed)
    large = large_patches(height_m, sure, patch_cells)
    allowed = shown_from_m <= ground_near(height_m, large, cell_m) + ABOVE_GROUND_M
    large &= allowed
    lowest, lower, highest, middle = rim_heights(height_m, large, cell_m)
    between = allowed & (height_m >= lowest - RIM_M) & (height_m <= highest + RIM_M)
    usual = (height_m <= lower + RIM_M) | (np.abs(height_m - middle) <= RIM_M) | (np.abs(height_m - highest) <= RIM_M)
    usual |= highest - lowest <= TALL_M
    within = between & (usual | large_patches(height_m, sure & between, patch_cells // SMALLER))
    matched = large | (sure & within)
    for _ in range(GROWTH_ROUNDS):
        fits = _fitting_neighbors(height_m, matched) >= GROWTH_NEIGHBORS
        matched |= shown & within & fits & (confirmations >= 1)
    if matched.mean() < LEAST_MATCHED:
        matched = np.zeros_like(matched)
    return _filled(height_m, matched, bright, shown_from_m, cell_m)


def _filled(height_m, matched, bright, shown_from_m, cell_m: float) -> Judged:
    """Holes filled from their rims; what no two images show at such a height is unknown."""
    lowest, lower, highest, middle = rim_heights(height_m, matched, cell_m)
    lower = np.where(bright, middle, lower)
    ground = ground_near(height_m, matched, cell_m)
    known = matched | (np.isfinite(lower) & (shown_from_m <= ground + ABOVE_GROUND_M))
    height = np.where(np.isfinite(lower), lower, ground).astype(np.float32)
    height = np.where(matched, height, cv2.medianBlur(height, 5))
    height = with_planes(height, matched, bright & ~matched)
    source = np.where(matched, MATCHED, np.where(known, FILLED, UNKNOWN)).astype(np.uint8)
    return Judged(height.astype(np.float32), source, np.nan_to_num(highest - lowest))


def with_planes(
    height_m: Float32[ndarray, "h w"], matched: Bool[ndarray, "h w"], blank: Bool[ndarray, "h w"]
) -> Float32[ndarray, "h w"]:
    """Heights with a plane through the rim of each connected blank part, as a roof has it. Of the rim's matched cells
    count those that stand within PLANE_M of what fills the part, then of the plane. A part whose rim does not surround
    it keeps what fills it."""
    height_m = height_m.copy()
    parts, _ = label(blank)
    for number, (rows, columns) in enumerate(find_objects(parts), start=1):
        window = (
            slice(max(rows.start - PLANE_RIM, 0), rows.stop + PLANE_RIM),
            slice(max(columns.start - PLANE_RIM, 0), columns.stop + PLANE_RIM),
        )
        part, heights = parts[window] == number, height_m[window]
        if part.sum() < PLANE_CELLS:
            continue
        rim = binary_dilation(part, iterations=PLANE_RIM) & matched[window]
        row, column = np.indices(part.shape, np.float64) - 0.5 * np.array(part.shape)[:, None, None]
        terms = np.stack([row, column, np.ones_like(row)], -1)
        plane = np.full(part.shape, np.median(heights[part]))
        for _ in range(PLANE_ROUNDS):
            near = rim & (np.abs(heights - plane) <= PLANE_M)
            if near.sum() < PLANE_CELLS:
                break
            plane = terms @ np.linalg.lstsq(terms[near], heights[near], rcond=None)[0]
        else:
            if _surrounds(near, part):
                heights[part] = plane[part]
    return height_m


def _surrounds(rim: Bool[ndarray, "h w"], part: Bool[ndarray, "h w"]) -> bool:
    """Whether the middle of the rim is about that of the part."""
    ours, theirs = (np.argwhere(mask) for mask in (part, rim))
    return bool((np.abs(ours.mean(0) - theirs.mean(0)) <= PLANE_OFF * (np.ptp(ours, axis=0) + 1)).all())


def ground_near(
    height_m: Float32[ndarray, "h w"], matched: Bool[ndarray, "h w"], cell_m: float
) -> Float32[ndarray, "h w"]:
    """The lowest matched height within GROUND_REACH_M (of cells that have a matched neighbor on two sides); farther
    away that of the nearest such place. Zero where nothing is matched."""
    if not matched.any():
        return np.zeros_like(height_m)
    size = 2 * round(GROUND_REACH_M / cell_m) + 1
    steady = cv2.medianBlur(np.where(matched, height_m, np.float32(1e6)).astype(np.float32), 5)
    lowest = minimum_filter(steady, size, mode="nearest")
    if (lowest > 1e5).all():
        lowest = minimum_filter(np.where(matched, height_m, np.float32(1e6)), size, mode="nearest")
    near = np.asarray(distance_transform_edt(lowest > 1e5, return_distances=False, return_indices=True))
    return lowest[tuple(near)].astype(np.float32)


def large_patches(height_m: Float32[ndarray, "h w"], mask: Bool[ndarray, "h w"], cells: int) -> Bool[ndarray, "h w"]:
    """The cells of a mask in patches of more than so many cells, whose neighbors differ by at most APART_M."""
    unknown = np.iinfo(np.int16).max
    units = np.round((height_m - np.median(height_m)) / UNIT_M).clip(-unknown, unknown - 1)
    marked = np.where(mask, units, unknown).astype(np.int16)
    marked, _ = cv2.filterSpeckles(marked, unknown, cells, APART_M / UNIT_M)
    return mask & (marked != unknown)


def _fitting_neighbors(height_m, matched) -> Int[ndarray, "h w"]:
    """How many of a cell's eight neighbors are matched at its height, to within GROWTH_M."""
    rows, columns = height_m.shape
    padded = np.pad(np.where(matched, height_m, np.inf), 1, constant_values=np.inf)
    around = [padded[r : r + rows, c : c + columns] for r in range(3) for c in range(3) if (r, c) != (1, 1)]
    return np.sum([np.abs(a - height_m) <= GROWTH_M for a in around], axis=0)
