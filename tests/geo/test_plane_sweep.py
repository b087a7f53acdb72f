"""Surfaces and points of a synthetic block on a slope in affine views, with known heights."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from scipy.ndimage import median_filter

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.image_pairs import MAX_PARTNERS, convergence_deg, height_step_m, select_stereo_pairs
from skyfall_ns.geo.matching_images import hue_layers
from skyfall_ns.geo.plane_sweep import (
    FEW_PAIRS_SWEEPS,
    MANY_PAIRS_SWEEPS,
    _count_confirmations,
    _search_limits,
    match_dense_surface,
)
from skyfall_ns.geo.surface_evidence import FILLED, MATCHED, UNKNOWN
from skyfall_ns.geo.surface_points import sample_surface_points
from skyfall_ns.geo.visibility import lowest_visible_m

GSD_M, SIZE = 0.5, 320
BLOCK, TOP_M = ((-20.0, -15.0), (20.0, 15.0)), 14.0  # south-west and north-east corner
BOX = np.array([[-50.0, -45.0, -6.0], [50.0, 45.0, 22.0]])


def make_camera(azimuth_deg: float, incidence_deg: float) -> AffineCamera:
    """A camera at an azimuth (clockwise from north) and incidence angle; north up, with GSD_M."""
    azimuth, tangent = np.deg2rad(azimuth_deg), np.tan(np.deg2rad(incidence_deg))
    lean = np.array([np.sin(azimuth), np.cos(azimuth)]) * tangent
    linear = np.array([[1.0, 0.0, -lean[0]], [0.0, -1.0, lean[1]]]) / GSD_M
    return AffineCamera(np.column_stack([linear, [SIZE / 2, SIZE / 2]]), None, (SIZE, SIZE))


def ground_m(x, y):
    return 0.05 * x - 0.03 * y


def truth_m(x, y):
    inside = (x > BLOCK[0][0]) & (x < BLOCK[1][0]) & (y > BLOCK[0][1]) & (y < BLOCK[1][1])
    return np.where(inside, TOP_M, ground_m(x, y))


def render_image(view: AffineCamera, seed: int = 0, gain: float = 1.0) -> np.ndarray:
    """Render roof, ground and gray walls by casting the ray of each pixel downward."""
    noise = np.random.default_rng(seed).normal(size=(2, 600, 600)).astype(np.float32)
    textures = [cv2.GaussianBlur(n, (0, 0), 1.0) * 400 + cv2.GaussianBlur(n, (0, 0), 5.0) * 1500 for n in noise]
    column, row = np.meshgrid(np.arange(SIZE, dtype=float), np.arange(SIZE, dtype=float))
    flat, offset = view.matrix[:, :2], np.stack([column, row], axis=-1) - view.matrix[:, 3]
    image = np.full(column.shape, np.nan, np.float32)
    pending = np.ones(column.shape, bool)
    for z in np.arange(BOX[1, 2], BOX[0, 2] - 5, -0.125):
        x, y = np.moveaxis((offset - z * view.matrix[:, 2]) @ np.linalg.inv(flat).T, -1, 0)
        hit = pending & (truth_m(x, y) >= z)
        roof = truth_m(x, y) == TOP_M
        wall = hit & roof & (z < TOP_M - 0.2)
        for mask, texture in ((hit & roof & ~wall, textures[0]), (hit & ~roof, textures[1])):
            maps = (300 + 3 * x[mask]).astype(np.float32), (300 - 3 * y[mask]).astype(np.float32)
            if mask.any():
                image[mask] = cv2.remap(texture, *maps, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT).ravel()
        image[wall] = 250.0
        pending &= ~hit
    return (1000 + gain * image).astype(np.float32)


VIEWS = [make_camera(250, 10), make_camera(80, 9), make_camera(350, 12), make_camera(170, 11)]


@pytest.fixture(scope="module")
def images():
    return [render_image(view, gain=gain) for view, gain in zip(VIEWS, (1.0, 0.7, 1.3, 1.0), strict=True)]


@pytest.fixture(scope="module")
def surface(images):
    return match_dense_surface(images, VIEWS, BOX, 0.5)


def height_errors(surface) -> np.ndarray:
    x, y = np.meshgrid(surface.grid.x_m(), surface.grid.y_m())
    return surface.height_m - truth_m(x, y)


def test_two_views_recover_the_slope_and_the_block(images):
    surface = match_dense_surface(images[:2], VIEWS[:2], BOX, 0.5)
    error = np.abs(height_errors(surface))
    assert np.isfinite(surface.height_m).all()
    assert np.median(error) < 0.1
    assert (error < 1).mean() > 0.9


def test_heights_of_few_views_are_medians(images, monkeypatch):
    """Medians of 3 x 3 cells, which are more accurate."""
    few = match_dense_surface(images[:2], VIEWS[:2], BOX, 0.5)
    monkeypatch.setattr(
        "skyfall_ns.geo.plane_sweep.FEW_PAIRS_SWEEPS",
        tuple(replace(sweep, median_cells=1) for sweep in FEW_PAIRS_SWEEPS),
    )
    noisy = match_dense_surface(images[:2], VIEWS[:2], BOX, 0.5)
    known = few.source != UNKNOWN
    np.testing.assert_array_equal(few.height_m[known], median_filter(noisy.height_m, 3, mode="nearest")[known])
    assert np.median(np.abs(height_errors(few))) < np.median(np.abs(height_errors(noisy)))


def test_more_views_reduce_the_errors(images, surface):
    two = np.abs(height_errors(match_dense_surface(images[:2], VIEWS[:2], BOX, 0.5)))
    four = np.abs(height_errors(surface))
    assert four.mean() < 0.8 * two.mean()
    assert (four < 1).mean() > 0.95


def test_confidence_is_higher_at_accurate_cells(surface):
    error, confidence = np.abs(height_errors(surface)), surface.confidence
    assert confidence.min() >= 0 and confidence.max() <= 1
    assert confidence[error < 0.5].mean() > confidence[error > 2].mean() + 0.3


def test_progress_counts_to_the_total(images):
    calls = []
    match_dense_surface(images[:2], VIEWS[:2], BOX, 2.0, progress=lambda done, total: calls.append((done, total)))
    assert [c[0] for c in calls] == list(range(1, len(calls) + 1)) and calls[-1][0] == calls[-1][1]


def test_tiles_have_no_seams(images, surface, monkeypatch):
    monkeypatch.setattr("skyfall_ns.geo.plane_sweep.TILE_VOXELS", 2_200_000)
    tiled = match_dense_surface(images, VIEWS, BOX, 0.5)
    assert (np.abs(tiled.height_m - surface.height_m) < 0.05).mean() > 0.98


def test_every_cell_is_matched_filled_or_unknown(images):
    """Two views: the roof of the block and the open ground are matched; the foot of the wall that one view does not see
    is filled at the height of the street and not of the roof, with a lower confidence."""
    surface = match_dense_surface(images[:2], VIEWS[:2], BOX, 0.5)
    x, y = np.meshgrid(surface.grid.x_m(), surface.grid.y_m())
    matched, filled = surface.source == MATCHED, surface.source == FILLED
    roof = (np.abs(x) < 17) & (np.abs(y) < 12)
    assert matched[roof].mean() > 0.95 and matched[(np.abs(x) > 30) | (np.abs(y) > 25)].mean() > 0.9
    beside = filled & (np.abs(x) > 21.5) & (np.abs(x) < 24) & (np.abs(y) < 12)
    assert beside.sum() > 20 and np.median(np.abs(height_errors(surface)[beside])) < 1.0
    assert np.isfinite(surface.sigma_m).all()
    assert np.median(surface.sigma_m[filled]) > 3 * np.median(surface.sigma_m[matched])
    assert surface.confidence[filled].max() <= 0.1
    error = np.abs(height_errors(surface))[matched]
    assert (error <= surface.sigma_m[matched]).mean() > 0.6
    sure = surface.sigma_m[matched] <= np.median(surface.sigma_m[matched])
    assert error[sure].mean() < 0.6 * error.mean()


def test_blank_roofs_have_the_height_of_their_rims(images):
    """A white roof without any texture in both images is filled at its own height."""
    white = []
    for view, image in zip(VIEWS[:2], images[:2], strict=True):
        x, y = np.meshgrid(np.arange(-14, 14, 0.1), np.arange(-9, 9, 0.1))
        colrow = np.round(view.project(np.stack([x, y, np.full_like(x, TOP_M)], -1))).astype(int)
        painted = image.copy()
        painted[colrow[..., 1], colrow[..., 0]] = 4000.0
        white.append(painted)
    surface = match_dense_surface(white, VIEWS[:2], BOX, 0.5)
    x, y = np.meshgrid(surface.grid.x_m(), surface.grid.y_m())
    inside = (np.abs(x) < 10) & (np.abs(y) < 6)
    assert (surface.source[inside] == FILLED).mean() > 0.95
    assert np.abs(surface.height_m[inside] - TOP_M).max() < 1.0


def test_cells_covered_by_two_views_only_above_the_ground_are_unknown(images):
    """One image ends at x = 0 on the ground; objects further east that appear in it are not matched."""
    cut = [image.copy() for image in images[:2]]
    cut[0][:, SIZE // 2 :] = np.nan
    surface = match_dense_surface(cut, VIEWS[:2], BOX, 0.5)
    x, _ = np.meshgrid(surface.grid.x_m(), surface.grid.y_m())
    assert (surface.source[x > 8] == UNKNOWN).mean() > 0.98
    known = surface.source != UNKNOWN
    assert surface.height_m[known].max() < TOP_M + 2.0 and surface.height_m[known].min() > BOX[0, 2] + 1.0
    assert np.isnan(surface.height_m[~known]).all() and np.isnan(surface.sigma_m[~known]).all()


def test_tall_boxes_are_swept_above_a_base_surface(images, monkeypatch):
    """The ground of a coarse sweep is the base of the fine sweep, which then tests far fewer heights."""
    monkeypatch.setattr("skyfall_ns.geo.plane_sweep.MAX_FLAT_RANGE_M", 20.0)
    tall = np.array([[*BOX[0, :2], -60.0], [*BOX[1, :2], 80.0]])
    levels = []
    whole = match_dense_surface(images, VIEWS, tall, 0.5, progress=lambda done, total: levels.append(total))
    error = np.abs(height_errors(whole))
    assert np.nanmedian(error) < 0.1 and (error < 1).mean() > 0.9
    assert levels[-1] < 0.5 * 140 / height_step_m(VIEWS, select_stereo_pairs(VIEWS), FEW_PAIRS_SWEEPS[0].step_px)


def test_unusable_pixels_are_unknown(images):
    masked = [image.copy() for image in images[:2]]
    for image in masked:
        image[:, : SIZE // 2] = np.nan
    surface = match_dense_surface(masked, VIEWS[:2], BOX, 1.0)
    assert np.isnan(surface.height_m[:, :40]).all() and not surface.confidence[:, :40].any()
    assert np.isfinite(surface.height_m[:, 60:]).all()


def test_pairs_and_height_steps():
    views = [make_camera(0, 0), make_camera(0, 1), make_camera(0, 17), make_camera(180, 40)]
    assert convergence_deg(views[0], views[2]) == pytest.approx(17)
    assert (
        select_stereo_pairs(views)[0] == (0, 2)
        and (0, 1) not in select_stereo_pairs(views)
        and (2, 3) not in select_stereo_pairs(views)
    )
    assert height_step_m(views, [(0, 2)], 0.15) == pytest.approx(0.15 * GSD_M / np.tan(np.deg2rad(17)))


def test_every_image_has_a_few_partners_and_a_single_image_of_a_cluster_those_of_others():
    views = [make_camera(24.0 * k, 12) for k in range(15)]
    pairs = select_stereo_pairs(views)
    degrees = np.bincount(np.array(pairs).ravel(), minlength=15)
    assert degrees.min() >= MAX_PARTNERS and len(pairs) <= MAX_PARTNERS * 15
    clusters = [0] * 14 + [1]
    grouped = select_stereo_pairs(views, clusters)
    unpaired = [pair for pair in grouped if 14 in pair]
    assert len(unpaired) == MAX_PARTNERS and grouped[-len(unpaired) :] == unpaired  # after those within clusters
    two = select_stereo_pairs(views[:4], [0, 0, 1, 1])
    assert set(two) == {(0, 1), (2, 3)}  # both clusters have pairs


def test_sweeps_of_many_pairs_recover_the_slope_and_the_block(images, monkeypatch):
    monkeypatch.setattr("skyfall_ns.geo.plane_sweep.MANY_PAIRS", 1)
    error = np.abs(height_errors(match_dense_surface(images, VIEWS, BOX, 0.5)))
    assert error.mean() < 0.2 and (error < 1).mean() > 0.98


def test_later_sweeps_search_near_the_previous_surface_with_unoccluded_views():
    """Ground beside a tower is occluded from the west and visible from above; far from it only the ground is tested."""
    previous = np.zeros((60, 60), np.float32)
    previous[20:40, 20:40] = 20.0
    grid, flat = Grid(0.0, 30.0, 0.5, 60, 60), np.zeros((60, 60), np.float32)
    limits = _search_limits(previous, flat, grid, (-5.0, 22.0), [make_camera(270, 30), make_camera(0, 0)])
    assert limits.lowest_visible_m.shape == (2, 60, 60)
    assert (
        limits.lowest_visible_m[0, 30, 42] > 8.0 and limits.lowest_visible_m[1, 30, 42] < 1.0
    )  # just east of the wall
    assert limits.lowest_visible_m[0, 30, 12] < 1.0  # west of it the ground is not occluded
    assert limits.lowest_m[30, 30] == -3.0 and limits.highest_m[30, 42] == 22.0  # within 12 m, and inside the range
    above_base = _search_limits(previous, flat + 7.0, grid, (-5.0, 22.0), [make_camera(270, 30), make_camera(0, 0)])
    np.testing.assert_allclose(
        above_base.lowest_visible_m, limits.lowest_visible_m, atol=1e-4
    )  # heights are above the base
    unlimited = _search_limits(None, flat, grid, (-5.0, 22.0), [make_camera(270, 30)])
    assert np.isneginf(unlimited.lowest_visible_m).all()
    assert (unlimited.lowest_m == -5).all() and (unlimited.highest_m == 22).all()


def test_better_matches_behind_a_tower_do_not_contradict_it_where_views_are_consistent():
    """Three views: one confirms a cell, the others have better matches behind it, or one behind and one in front."""
    ray_distance_m = np.array([[0.2, 0.2], [-9.0, -9.0], [-9.0, 9.0]])[:, :, None]
    textured = np.ones(ray_distance_m.shape, bool)
    consistency = np.full((2, 1), 0.8)
    np.testing.assert_array_equal(
        _count_confirmations(ray_distance_m, textured, consistency, FEW_PAIRS_SWEEPS[0]), [[1], [1]]
    )
    np.testing.assert_array_equal(
        _count_confirmations(ray_distance_m, textured, consistency, MANY_PAIRS_SWEEPS[0]), [[3], [2]]
    )
    np.testing.assert_array_equal(
        _count_confirmations(ray_distance_m, textured, 0.7 * consistency, MANY_PAIRS_SWEEPS[0]), [[1], [1]]
    )
    np.testing.assert_array_equal(
        _count_confirmations(ray_distance_m, textured, 0.1 * consistency, MANY_PAIRS_SWEEPS[2]), [[0], [0]]
    )
    np.testing.assert_array_equal(
        _count_confirmations(ray_distance_m - 9.0, textured, consistency, MANY_PAIRS_SWEEPS[0]), [[0], [3]]
    )


def test_hues_are_the_same_in_shadow_and_with_path_radiance():
    light = np.random.default_rng(0).uniform(0.2, 0.9, (60, 60, 3)).astype(np.float32)
    light[0] = 0.0  # black pixels in every image
    valid = np.ones((60, 60), bool)
    clear, with_path_radiance = (
        hue_layers(v ** (1 / 2.2), valid) for v in (light, 0.9 * light + np.float32([0.02, 0.04, 0.08]))
    )
    for a, b in zip(clear, with_path_radiance, strict=True):
        assert np.abs(a - b)[1:].max() < 0.01


def test_ranges_below_one_step_are_matched(images):
    flat = BOX.copy()
    flat[:, 2] = 0.0, 0.01
    assert np.isfinite(match_dense_surface(images[:2], VIEWS[:2], flat, 2.0).height_m).any()


def test_views_from_one_direction_are_rejected(images):
    with pytest.raises(SkyfallError, match=r"^No two images have view directions .* apart\. Add an image"):
        match_dense_surface([images[0], images[0]], [VIEWS[0], VIEWS[0]], BOX, 0.5)


def test_a_tower_occludes_the_ground_behind_it():
    height = np.zeros((40, 60), np.float32)
    height[18:22, 28:32] = 10.0
    lowest = lowest_visible_m(height, 1.0, np.array([np.sin(0.5), 0.0, np.cos(0.5)]))  # the satellite is in the east
    shadow_m = 10.0 * np.tan(0.5)
    assert (lowest[20, : 28 - int(shadow_m) - 1] <= 0).all()
    np.testing.assert_allclose(lowest[20, 27], 10.0 - 1 / np.tan(0.5), atol=1.0)
    assert lowest[20, 25] > 2.0 and (lowest[20, 33:] <= 0).all() and (lowest[10] <= 0).all()


def test_points_cover_roofs_ground_and_walls(images, surface):
    toned = [np.clip(image / 2000, 0, 1) for image in images]
    points = sample_surface_points(surface, toned, VIEWS)
    assert np.isfinite(points.colors).all() and points.colors.min() >= 0 and points.colors.max() <= 1
    np.testing.assert_allclose(np.linalg.norm(points.normals, axis=1), 1, atol=1e-5)
    walls = np.abs(points.normals[:, 2]) < 0.1
    inner = walls & (points.xyz_m[:, 2] > 4) & (points.xyz_m[:, 2] < 12)
    # West and east walls are at x = -20 and 20, south and north ones at y = -15 and 15; they face outward.
    for axis, side in ((0, 20.0), (1, 15.0)):
        facing = inner & (np.abs(points.normals[:, axis]) > 0.9)
        position = points.xyz_m[facing, axis]
        assert facing.sum() > 300
        assert np.median(np.abs(np.abs(position) - side)) < 1.0
        assert (np.sign(position) == np.sign(points.normals[facing, axis])).mean() > 0.95
    level = ~walls & (np.hypot(points.xyz_m[:, 0] / 20, points.xyz_m[:, 1] / 15) < 0.6)
    np.testing.assert_allclose(np.median(points.normals[level], axis=0), [0, 0, 1], atol=0.05)


def test_colors_come_from_views_that_see_the_point(images, surface):
    colors = [np.full((SIZE, SIZE, 3), value, np.float32) for value in (0.2, 0.6)]
    views = [make_camera(90, 25), make_camera(270, 25)]  # from the east and from the west
    points = sample_surface_points(surface, colors, views)
    walls = (np.abs(points.normals[:, 0]) > 0.9) & (points.xyz_m[:, 2] > 4) & (points.xyz_m[:, 2] < 10)
    walls &= np.abs(np.abs(points.xyz_m[:, 0]) - 20) < 1.5
    east, west = walls & (points.normals[:, 0] > 0), walls & (points.normals[:, 0] < 0)
    assert np.median(points.colors[east]) == pytest.approx(0.2) and np.median(points.colors[west]) == pytest.approx(0.6)
    roof = np.abs(points.xyz_m[:, 2] - TOP_M) < 0.5
    assert np.median(points.colors[roof]) == pytest.approx(0.4)


def test_a_larger_spacing_gives_fewer_points(images, surface):
    toned = [np.clip(image / 2000, 0, 1) for image in images]
    dense, sparse = (sample_surface_points(surface, toned, VIEWS, spacing) for spacing in (None, 1.5))
    assert len(sparse.xyz_m) == pytest.approx(len(dense.xyz_m) / 9, rel=0.15)
