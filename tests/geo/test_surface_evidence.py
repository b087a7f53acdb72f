"""Matched, filled and unknown cells of synthetic surfaces."""

import numpy as np

from skyfall_ns.geo.hole_filling import rim_heights
from skyfall_ns.geo.surface_evidence import FILLED, MATCHED, UNKNOWN, classify_heights, large_patches, nearby_ground_m

CELL_M = 0.5


def classify_surface(
    height, confirmations=None, covered=None, covered_from=None, bright=None, min_confirmations=2, patch_cells=80
):
    shape = height.shape
    filled_with = lambda value, dtype: np.full(shape, value, dtype)  # noqa: E731
    return classify_heights(
        height.astype(np.float32),
        filled_with(2, int) if confirmations is None else confirmations,
        filled_with(True, bool) if covered is None else covered,
        filled_with(-np.inf, np.float32) if covered_from is None else covered_from,
        filled_with(False, bool) if bright is None else bright,
        min_confirmations,
        patch_cells,
        CELL_M,
    )


def street_and_roof():
    """Street at 0 m in the west, a roof at 12 m in the east."""
    height = np.zeros((60, 80), np.float32)
    height[:, 40:] = 12.0
    return height


def test_confirmed_heights_are_matched_and_kept():
    result = classify_surface(street_and_roof())
    assert (result.source == MATCHED).all()
    np.testing.assert_array_equal(result.height_m, street_and_roof())
    assert not result.rim_range_m.any()


def test_holes_beside_a_wall_get_the_street_height():
    confirmations = np.full((60, 80), 2)
    confirmations[:, 34:40] = 0
    height = street_and_roof()
    height[:, 34:40] = 40.0  # a false match
    result = classify_surface(height, confirmations)
    assert (result.source[:, 34:40] == FILLED).all()
    np.testing.assert_array_equal(result.height_m[:, 34:40], 0.0)
    np.testing.assert_array_equal(result.rim_range_m[30, 34:40], 12.0)


def test_bright_blank_cells_get_the_middle_height_of_their_rim_and_dark_ones_the_lower_height():
    """A hole in a roof, open to the street on its west side."""
    confirmations = np.full((60, 80), 2)
    confirmations[20:40, 40:60] = 0
    hole = np.zeros((60, 80), bool)
    hole[20:40, 40:60] = True
    inner = (slice(25, 35), slice(46, 57))
    bright = classify_surface(street_and_roof(), confirmations, bright=hole)
    np.testing.assert_array_equal(bright.height_m[inner], 12.0)
    dark = classify_surface(street_and_roof(), confirmations)
    assert dark.height_m[30, 42] == 0.0


def test_blank_roofs_are_filled_with_planes_through_their_rims():
    """A pitched roof with a blank interior, beside a street."""
    rows, columns = np.mgrid[:60, :80].astype(np.float32)
    height = np.where(columns >= 30, 10 + 0.1 * (columns - 30), 0).astype(np.float32)
    hole = (columns >= 36) & (columns < 74) & (rows >= 6) & (rows < 54)
    confirmations = np.where(hole, 0, 2)
    result = classify_surface(np.where(hole, 3.0, height), confirmations, bright=hole)
    assert (result.source[hole] == FILLED).all()
    np.testing.assert_allclose(result.height_m[hole], height[hole], atol=1e-3)


def test_small_patches_above_their_rim_are_not_matched():
    height = np.zeros((60, 80), np.float32)
    height[20:26, 20:26] = 15.0  # 36 cells
    height[40:55, 40:60] = 15.0  # 300 cells
    result = classify_surface(height)
    assert (result.source[20:26, 20:26] == FILLED).all() and not result.height_m[20:26, 20:26].any()
    assert (result.source[40:55, 40:60] == MATCHED).all()


def test_cells_covered_only_far_above_the_ground_are_unknown():
    height = np.zeros((60, 80), np.float32)
    height[:, 70:] = 30.0
    covered_from = np.full(height.shape, -np.inf, np.float32)
    covered_from[:, 70:] = 28.0
    result = classify_surface(height, covered_from=covered_from)
    assert (result.source[:, 70:] == UNKNOWN).all() and (result.source[:, :70] == MATCHED).all()
    covered_from[:, 70:] = 2.0  # nearly at the ground
    assert (classify_surface(height, covered_from=covered_from).source[:, 70:] == MATCHED).all()


def test_matches_grow_into_confirmed_neighbors_by_three_cells():
    """Cells confirmed by one view become matched beside matched cells of their height, three cells from each side."""
    confirmations = np.full((60, 80), 2)
    confirmations[:, 50:60] = 1
    result = classify_surface(np.zeros((60, 80)), confirmations)
    assert (result.source[5:-5, [50, 51, 52, 57, 58, 59]] == MATCHED).all()
    assert (result.source[5:-5, 53:57] == FILLED).all()


def test_without_matches_all_cells_are_unknown():
    result = classify_surface(np.full((30, 30), 7.0), np.zeros((30, 30), int))
    assert (result.source == UNKNOWN).all() and not result.height_m.any()


def test_rims_are_the_nearest_matched_cells_in_sixteen_directions():
    height = np.full((41, 41), 5.0, np.float32)
    height[:, :10] = 1.0
    matched = np.zeros(height.shape, bool)
    matched[:, [9, 31]] = True
    lowest, lower, highest, middle = rim_heights(height, matched, 1.0)
    assert (lowest[20, 20], lower[20, 20], highest[20, 20]) == (1.0, 1.0, 5.0)
    assert middle[20, 11] == 1.0 and middle[20, 29] == 5.0  # the nearer side has more weight
    assert lowest[20, 9] == highest[20, 9] == 1.0
    far = rim_heights(height, matched, 8.0)  # 80 m are ten cells
    assert np.isnan(far[0][20, 20])


def test_ground_near_is_the_lowest_match_within_reach():
    height = np.zeros((100, 200), np.float32)
    height[:, 100:] = 9.0
    near = nearby_ground_m(height, np.ones(height.shape, bool), CELL_M)
    assert near[50, 100 + 29] == 0.0 and near[50, 100 + 33] == 9.0  # 15 m
    assert not nearby_ground_m(height, np.zeros(height.shape, bool), CELL_M).any()


def test_large_patches_are_separated_by_steps_between_neighbors():
    ramp = np.add.outer(np.zeros(40), 0.5 * np.arange(40)).astype(np.float32)
    assert large_patches(ramp, np.ones(ramp.shape, bool), 200).all()
    ramp[10:15, 10:15] += 10.0
    large = large_patches(ramp, np.ones(ramp.shape, bool), 30)
    assert not large[10:15, 10:15].any() and large.sum() == ramp.size - 25
