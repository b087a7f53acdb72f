"""A coarse surface over hundreds of meters: towers are found, water and blank images are no evidence of height."""

import numpy as np
import pytest
from helpers.relief_files import Frame, Relief, render
from scipy.ndimage import gaussian_filter

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.coarse_surface import coarse_surface, reduce_view

SLOPES = ((0.17, 0.02), (-0.15, 0.10), (0.02, -0.17), (-0.07, -0.12))
FRAME = Frame(400, 400, 2.0, 100.0, (0.0, 600.0))
EXPECTED = (-1.0, 1.0)
BOX = np.array([[-50.0, -50.0, -100.0], [50.0, 50.0, 300.0]])


def camera(slope) -> AffineCamera:
    return AffineCamera(np.array([[2.0, 0, -2 * slope[0], 200], [0, -2.0, 2 * slope[1], 200]]), None, (400, 400))


def views(relief, count):
    images = [(render(relief, FRAME, slope) / 2000).astype(np.float32) for slope in SLOPES[:count]]
    return images, [camera(slope) for slope in SLOPES[:count]]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_tower_of_250_m_and_24_m_width_is_found(count):
    tower = Relief(100.0, 0.0, (-12.0, -12.0, 12.0, 12.0, 350.0))
    found = coarse_surface(*views(tower, count), BOX, 2.0, EXPECTED)
    matched = found.height_m[found.source == 1]
    assert matched.min() > -6 and 246 < matched.max() < 254
    x, y = np.meshgrid(found.grid.x_m(), found.grid.y_m())
    roof = (np.abs(x) < 10) & (np.abs(y) < 10)
    assert (np.abs(found.height_m[roof] - 250) < 6).mean() > 0.6


def test_smooth_water_is_no_evidence_of_heights_far_off():
    """Brighter to one side, with blurred clouds of its own in each image: it matches at any height, by chance best at
    220 m (seen without a price for what is far from the ties)."""
    images, cameras = views(Relief(), 4)
    for k, image in enumerate(images):
        noise = gaussian_filter(np.random.default_rng(k).normal(size=(200, 400)), 12.0)
        image[200:] = 0.3 + 0.002 * np.arange(400) + 0.02 * noise / noise.std()
    found = coarse_surface(images, cameras, BOX, 2.0, EXPECTED)
    heights = found.height_m[found.source == 1]
    assert heights.min() > -20 and heights.max() < 20


def test_blank_images_have_no_surface():
    images = [np.full((400, 400), 0.5, np.float32) + 0.001 * render(Relief(), FRAME, (0, 0), seed=k) % 0.01
              for k in range(3)]  # fmt: skip
    found = coarse_surface([i.astype(np.float32) for i in images], [camera(s) for s in SLOPES[:3]], BOX, 2.0, EXPECTED)
    assert not (found.source == 1).any()


def test_views_from_one_direction_have_no_surface():
    images, _ = views(Relief(), 2)
    assert coarse_surface(images, [camera(SLOPES[0])] * 2, BOX, 2.0, EXPECTED) is None


def test_reduced_views_show_the_same_places():
    image = np.add.outer(np.zeros(40), np.arange(43.0)).astype(np.float32)
    image[:, :8] = np.nan
    image[0, 8] = np.nan
    view = AffineCamera(np.array([[2.0, 0, 0, 20], [0, -2.0, 0, 20]]), None, (43, 40))
    reduced, smaller = reduce_view(image, view, 2.0)
    assert reduced.shape == (10, 10) == smaller.size[::-1] and np.isnan(reduced[:, :2]).all()
    point = np.array([5.0, -3.0, 0.0])
    col, row = smaller.project(point)
    assert 4 * col + 1.5 == pytest.approx(view.project(point)[0]) and 4 * row + 1.5 == pytest.approx(
        view.project(point)[1]
    )
    assert reduced[5, 5] == pytest.approx(4 * 5 + 1.5) and reduced[0, 2] == pytest.approx(
        (8 * 3 + 9 * 4 + 10 * 4 + 11 * 4) / 15
    )
