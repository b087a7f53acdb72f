"""Classification of the cells of a surface into matched, filled and unknown ones.

A height is matched if views confirm it along their lines of sight, if it belongs to a large patch (or to a small one
within the heights of its surroundings), and if the images that cover it also cover the ground there. Where two images
overlap only far above the ground, their matches are false and the height is unknown.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from numpy import ndarray
from scipy.ndimage import binary_dilation, distance_transform_edt, find_objects, label, minimum_filter

from skyfall_ns.geo.hole_filling import rim_heights

UNKNOWN, MATCHED, FILLED = 0, 1, 2
CONFIRMATION_TOLERANCE_M = 1.0  # a view confirms a height if the best match on its line of sight is this close
RIM_TOLERANCE_M = 1.0  # small patches this close to a height of their rim can be matched
TALL_RIM_M = 40.0  # with a larger height range of the rim, small patches match by chance at any height
TALL_RIM_PATCH_DIVISOR = 4  # and must be larger than 1 / this of the minimum size of isolated patches
PATCH_STEP_M = 3.0  # patches end where neighbors differ by more
QUANTIZATION_M = 0.05  # of 16-bit heights in the patch search: +-1.6 km
GROUND_REACH_M = 15.0  # the ground near a cell is the lowest matched height within this distance
MAX_HEIGHT_ABOVE_GROUND_M = 3.0  # cells that are covered only at greater heights above the ground are not matched
# Cells within EXPANSION_TOLERANCE_M of at least EXPANSION_NEIGHBORS of their eight neighbors, if matched, are matched
# too.
EXPANSION_TOLERANCE_M, EXPANSION_NEIGHBORS = 0.7, 3
EXPANSION_ROUNDS = 3
MIN_MATCHED_FRACTION = 0.05  # of the cells: fewer matches are by chance and define no surface
PLANE_RIM_CELLS, MIN_PLANE_CELLS = 4, 20  # of blank roofs: width of the rim, and minimum number of cells
PLANE_TOLERANCE_M, PLANE_ROUNDS = 2.0, 3  # largest distance of rim cells from the plane, and number of fits
MAX_PLANE_OFFSET = 0.25  # largest distance between the centers of a roof and its rim, as a fraction of the roof's size


@dataclass(frozen=True)
class ClassifiedHeights:
    """A surface with filled holes: heights above the base, their source (UNKNOWN, MATCHED or FILLED), and the range of
    heights of the rim around each cell (0 for matched cells)."""

    height_m: Float32[ndarray, "h w"]
    source: UInt8[ndarray, "h w"]
    rim_range_m: Float32[ndarray, "h w"]


def classify_heights(
    height_m: Float32[ndarray, "h w"],
    confirmations: Int[ndarray, "h w"],
    covered: Bool[ndarray, "h w"],
    covered_from_m: Float32[ndarray, "h w"],
    bright: Bool[ndarray, "h w"],
    min_confirmations: int,
    patch_cells: int,
    cell_m: float,
) -> ClassifiedHeights:
    """Classify heights as matched, filled or unknown; replace those that are not matched by heights of their rims.

    `confirmations` is the number of views that confirm a height. `covered` is True where two images cover the height,
    `covered_from_m` is the lowest height of the cell that they cover (above the same base). `bright` cells are blank
    and sunlit, so they are not occluded and are roofs as often as streets. Matched heights have at least
    `min_confirmations` and lie in patches of more than `patch_cells`. Holes are filled as `hole_filling` describes.
    """
    confirmed = covered & (confirmations >= min_confirmations)
    large = large_patches(height_m, confirmed, patch_cells)
    allowed = covered_from_m <= nearby_ground_m(height_m, large, cell_m) + MAX_HEIGHT_ABOVE_GROUND_M
    large &= allowed
    lowest, lower, highest, middle = rim_heights(height_m, large, cell_m)
    between = allowed & (height_m >= lowest - RIM_TOLERANCE_M) & (height_m <= highest + RIM_TOLERANCE_M)
    plausible = (height_m <= lower + RIM_TOLERANCE_M) | (np.abs(height_m - middle) <= RIM_TOLERANCE_M)
    plausible |= np.abs(height_m - highest) <= RIM_TOLERANCE_M
    plausible |= highest - lowest <= TALL_RIM_M
    plausible |= large_patches(height_m, confirmed & between, patch_cells // TALL_RIM_PATCH_DIVISOR)
    candidate = between & plausible
    matched = large | (confirmed & candidate)
    for _ in range(EXPANSION_ROUNDS):
        expands = _count_fitting_neighbors(height_m, matched) >= EXPANSION_NEIGHBORS
        matched |= covered & candidate & expands & (confirmations >= 1)
    if matched.mean() < MIN_MATCHED_FRACTION:
        matched = np.zeros_like(matched)
    return _fill_holes(height_m, matched, bright, covered_from_m, cell_m)


def _fill_holes(height_m, matched, bright, covered_from_m, cell_m: float) -> ClassifiedHeights:
    """Fill holes from their rims; cells that no two images cover near the ground are unknown."""
    lowest, lower, highest, middle = rim_heights(height_m, matched, cell_m)
    lower = np.where(bright, middle, lower)
    ground = nearby_ground_m(height_m, matched, cell_m)
    known = matched | (np.isfinite(lower) & (covered_from_m <= ground + MAX_HEIGHT_ABOVE_GROUND_M))
    height = np.where(np.isfinite(lower), lower, ground).astype(np.float32)
    height = np.where(matched, height, cv2.medianBlur(height, 5))
    height = fit_roof_planes(height, matched, bright & ~matched)
    source = np.where(matched, MATCHED, np.where(known, FILLED, UNKNOWN)).astype(np.uint8)
    return ClassifiedHeights(height.astype(np.float32), source, np.nan_to_num(highest - lowest))


def fit_roof_planes(
    height_m: Float32[ndarray, "h w"], matched: Bool[ndarray, "h w"], blank: Bool[ndarray, "h w"]
) -> Float32[ndarray, "h w"]:
    """Replace the filled heights of each connected blank region by a plane through its rim, as roofs are planar.

    The plane is fitted to the matched cells of the rim within PLANE_TOLERANCE_M of the median filled height, then of
    the previous plane. Regions that their rim does not surround keep their heights.
    """
    height_m = height_m.copy()
    regions, _ = label(blank)  # pyright: ignore[reportGeneralTypeIssues]  # a number only if given an output array
    for number, (rows, columns) in enumerate(find_objects(regions), start=1):
        window = (
            slice(max(rows.start - PLANE_RIM_CELLS, 0), rows.stop + PLANE_RIM_CELLS),
            slice(max(columns.start - PLANE_RIM_CELLS, 0), columns.stop + PLANE_RIM_CELLS),
        )
        region, heights = regions[window] == number, height_m[window]
        if region.sum() < MIN_PLANE_CELLS:
            continue
        rim = binary_dilation(region, iterations=PLANE_RIM_CELLS) & matched[window]
        row, column = np.indices(region.shape, np.float64) - 0.5 * np.array(region.shape)[:, None, None]
        terms = np.stack([row, column, np.ones_like(row)], -1)
        plane = np.full(region.shape, np.median(heights[region]))
        for _ in range(PLANE_ROUNDS):
            nearest = rim & (np.abs(heights - plane) <= PLANE_TOLERANCE_M)
            if nearest.sum() < MIN_PLANE_CELLS:
                break
            plane = terms @ np.linalg.lstsq(terms[nearest], heights[nearest], rcond=None)[0]
        else:
            if _rim_surrounds(nearest, region):
                heights[region] = plane[region]
    return height_m


def _rim_surrounds(rim: Bool[ndarray, "h w"], region: Bool[ndarray, "h w"]) -> bool:
    """Whether the centers of a rim and of a region are close to each other."""
    region_cells, rim_cells = (np.argwhere(mask) for mask in (region, rim))
    offset, size = np.abs(region_cells.mean(0) - rim_cells.mean(0)), np.ptp(region_cells, axis=0) + 1
    return bool((offset <= MAX_PLANE_OFFSET * size).all())


def nearby_ground_m(
    height_m: Float32[ndarray, "h w"], matched: Bool[ndarray, "h w"], cell_m: float
) -> Float32[ndarray, "h w"]:
    """Ground height near each cell: the lowest matched height within GROUND_REACH_M, after a median of 5 x 5 cells that
    removes isolated ones; farther away, that of the nearest such cell. Zero if no cell is matched."""
    if not matched.any():
        return np.zeros_like(height_m)
    size = 2 * round(GROUND_REACH_M / cell_m) + 1
    filtered = cv2.medianBlur(np.where(matched, height_m, np.float32(1e6)).astype(np.float32), 5)
    lowest = minimum_filter(filtered, size, mode="nearest")
    if (lowest > 1e5).all():
        lowest = minimum_filter(np.where(matched, height_m, np.float32(1e6)), size, mode="nearest")
    nearest = np.asarray(distance_transform_edt(lowest > 1e5, return_distances=False, return_indices=True))
    return lowest[tuple(nearest)].astype(np.float32)


def large_patches(
    height_m: Float32[ndarray, "h w"], mask: Bool[ndarray, "h w"], max_small_cells: int
) -> Bool[ndarray, "h w"]:
    """Cells of a mask in patches of more than `max_small_cells`; neighbors within a patch differ by at most
    PATCH_STEP_M."""
    no_patch = np.iinfo(np.int16).max
    units = np.round((height_m - np.median(height_m)) / QUANTIZATION_M).clip(-no_patch, no_patch - 1)
    quantized = np.where(mask, units, no_patch).astype(np.int16)
    quantized, _ = cv2.filterSpeckles(quantized, no_patch, max_small_cells, PATCH_STEP_M / QUANTIZATION_M)
    return mask & (quantized != no_patch)


def _count_fitting_neighbors(height_m, matched) -> Int[ndarray, "h w"]:
    """Number of the eight neighbors of each cell that are matched within EXPANSION_TOLERANCE_M of its height."""
    rows, columns = height_m.shape
    padded = np.pad(np.where(matched, height_m, np.inf), 1, constant_values=np.inf)
    around = [padded[r : r + rows, c : c + columns] for r in range(3) for c in range(3) if (r, c) != (1, 1)]
    return np.sum([np.abs(neighbor - height_m) <= EXPANSION_TOLERANCE_M for neighbor in around], axis=0)
