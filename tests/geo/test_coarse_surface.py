"""A coarse surface over hundreds of meters: towers are found, water and blank images are not matched."""

import numpy as np
import pytest
from helpers.relief_files import ImageGeometry, Relief, render_relief
from scipy.ndimage import gaussian_filter

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.coarse_surface import downsample_view, match_coarse_surface

SLOPES = ((0.17, 0.02), (-0.15, 0.10), (0.02, -0.17), (-0.07, -0.12))
GEOMETRY = ImageGeometry(400, 400, 2.0, 100.0, (0.0, 600.0))
EXPECTED = (-1.0, 1.0)
BOX = np.array([[-50.0, -50.0, -100.0], [50.0, 50.0, 300.0]])


def make_camera(slope) -> AffineCamera:
    return AffineCamera(np.array([[2.0, 0, -2 * slope[0], 200], [0, -2.0, 2 * slope[1], 200]]), None, (400, 400))


def make_views(relief, count):
    images = [(render_relief(relief, GEOMETRY, slope) / 2000).astype(np.float32) for slope in SLOPES[:count]]
    return images, [make_camera(slope) for slope in SLOPES[:count]]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_tower_of_250_m_and_24_m_width_is_found(count):
    tower = Relief(100.0, 0.0, (-12.0, -12.0, 12.0, 12.0, 350.0))
    surface = match_coarse_surface(*make_views(tower, count), BOX, 2.0, EXPECTED)
    matched = surface.height_m[surface.source == 1]
    assert matched.min() > -6 and 246 < matched.max() < 254
    x, y = np.meshgrid(surface.grid.x_m(), surface.grid.y_m())
    roof = (np.abs(x) < 10) & (np.abs(y) < 10)
    assert (np.abs(surface.height_m[roof] - 250) < 6).mean() > 0.6


def test_smooth_water_is_not_matched_far_from_the_expected_heights():
    """Water with a brightness gradient and different blurred clouds in each image matches at any height; without the
    penalty outside the expected heights, the best match is at 220 m."""
    images, cameras = make_views(Relief(), 4)
    for k, image in enumerate(images):
        noise = gaussian_filter(np.random.default_rng(k).normal(size=(200, 400)), 12.0)
        image[200:] = 0.3 + 0.002 * np.arange(400) + 0.02 * noise / noise.std()
    surface = match_coarse_surface(images, cameras, BOX, 2.0, EXPECTED)
    heights = surface.height_m[surface.source == 1]
    assert heights.min() > -20 and heights.max() < 20


def test_blank_images_have_no_matched_cells():
    images = [np.full((400, 400), 0.5, np.float32) + 0.001 * render_relief(Relief(), GEOMETRY, (0, 0), seed=k) % 0.01
              for k in range(3)]  # fmt: skip
    surface = match_coarse_surface(
        [i.astype(np.float32) for i in images], [make_camera(s) for s in SLOPES[:3]], BOX, 2.0, EXPECTED
    )
    assert not (surface.source == 1).any()


def test_views_from_one_direction_have_no_surface():
    images, _ = make_views(Relief(), 2)
    assert match_coarse_surface(images, [make_camera(SLOPES[0])] * 2, BOX, 2.0, EXPECTED) is None


def test_downsampled_views_show_the_same_points():
    image = np.add.outer(np.zeros(40), np.arange(43.0)).astype(np.float32)
    image[:, :8] = np.nan
    image[0, 8] = np.nan
    view = AffineCamera(np.array([[2.0, 0, 0, 20], [0, -2.0, 0, 20]]), None, (43, 40))
    downsampled, downsampled_camera = downsample_view(image, view, 2.0)
    assert downsampled.shape == (10, 10) == downsampled_camera.size[::-1] and np.isnan(downsampled[:, :2]).all()
    point = np.array([5.0, -3.0, 0.0])
    col, row = downsampled_camera.project(point)
    assert 4 * col + 1.5 == pytest.approx(view.project(point)[0]) and 4 * row + 1.5 == pytest.approx(
        view.project(point)[1]
    )
    assert downsampled[5, 5] == pytest.approx(4 * 5 + 1.5) and downsampled[0, 2] == pytest.approx(
        (8 * 3 + 9 * 4 + 10 * 4 + 11 * 4) / 15
    )
