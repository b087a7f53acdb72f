"""The difficult city: each difficulty is in its images or its ground truth, and not in the plain city."""

import json
from dataclasses import replace
from datetime import datetime
from unittest.mock import patch

import cv2
import numpy as np
import pytest

from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.raster import read_raster
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_readers import read_rpc
from skyfall_ns.synthetic_city import delivery as city_delivery
from skyfall_ns.synthetic_city import hard, sensor
from skyfall_ns.synthetic_city.acquisitions import LARGE_POINTING_ERROR_PX, plan_acquisitions, plan_hard_acquisitions
from skyfall_ns.synthetic_city.layout import UNPAINTED, plan_city, pond_radius
from skyfall_ns.synthetic_city.render import TREE, WATER, _render_in_bands

pytestmark = pytest.mark.slow

SIZE_M, VIEWS, SEED = 96.0, 5, 3
FRAME = LocalFrame.at_point(np.array(city_delivery.CITY_LONLATH))
CITY = hard.plan_hard_city(SIZE_M, SEED)


@pytest.fixture(scope="module")
def written_city(tmp_path_factory):
    directory = tmp_path_factory.mktemp("hard")
    with patch.object(city_delivery, "OBLIQUE_PX", 48):
        return directory, city_delivery.write_city(directory, size_m=SIZE_M, views=VIEWS, seed=SEED, hard=True)


@pytest.fixture(scope="module")
def images(written_city):
    return [read_raster(path).bands.transpose(1, 2, 0) for path in written_city[1].images]


@pytest.fixture(scope="module")
def true_rasters(written_city):
    directory, _ = written_city
    z, classes = (read_raster(directory / f"truth/{name}.tif").band_values() for name in ("dsm", "class"))
    ticks = (np.arange(len(z)) + 0.5) * 0.5 - SIZE_M / 2
    x, y = np.meshgrid(ticks, ticks[::-1])
    return x, y, z - FRAME.origin[2], classes


def pixels_at(written_city, images, points):
    """Per image, the pixels (n, 3) that show local points (n, 3); those of other surfaces before them included."""
    directory, city = written_city
    found = []
    for path, image in zip(city.images, images, strict=True):
        rpc = RPC.from_dict(json.loads((directory / f"truth/rpc/{path.stem}.json").read_text()))
        column, row = np.round(rpc.project(FRAME.to_geodetic(points))).astype(int).T
        found.append(image[row, column].astype(int))
    return found


def grid_on(box, share=0.6):
    """Points on a flat roof, within `share` of its sides."""
    ticks = np.linspace(-share, share, 7)
    u, v = (a.ravel() for a in np.meshgrid(ticks * CITY.boxes.half[box, 0], ticks * CITY.boxes.half[box, 1]))
    top = np.full(len(u), CITY.boxes.eave[box])
    return np.stack([CITY.boxes.center[box, 0] + u, CITY.boxes.center[box, 1] + v, top], 1)


def box_index(half_m, height_m):
    """Index of the box with these half widths and this height."""
    boxes = CITY.boxes
    found = np.isclose(boxes.half, half_m).all(1) & np.isclose(boxes.eave - boxes.base, height_m)
    return int(np.flatnonzero(found)[0])


def test_same_arguments_give_the_same_bytes(written_city, tmp_path):
    directory, _ = written_city
    with patch.object(city_delivery, "OBLIQUE_PX", 48):
        city_delivery.write_city(tmp_path, size_m=SIZE_M, views=VIEWS, seed=SEED, hard=True)
    files = sorted(p.relative_to(directory) for p in directory.rglob("*") if p.is_file())
    assert len(files) == 2 * VIEWS + 2 + 12 + 1
    for file in files:
        assert (directory / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_plain_city_has_none_of_the_difficulties():
    city = plan_city(SIZE_M, SEED)
    assert not any(city.slope[4:]) and city.sky == 0.32
    assert (city.boxes.paint == UNPAINTED).all() and (city.trees.leaves == 1).all() and (city.trees.brown == 0).all()
    assert all(
        acquisition.cloud_opacity == 0 and np.hypot(*acquisition.pointing_px) < 20
        for acquisition in plan_acquisitions(9, SEED)
    )


def test_white_roof_saturates_without_texture(written_city, images):
    roof = box_index((12, 16), 9.0)  # 30 x 40 m from 120 m on
    shown = pixels_at(written_city, images, grid_on(roof, 0.5))
    assert sum((pixels == 255).all() for pixels in shown) >= 3  # a cloud or a shadow may be on it
    assert all(0.02 < (image.max(-1) == 255).mean() < 0.12 for image in images)


def test_dark_roof_has_no_texture(written_city, images):
    shown = pixels_at(written_city, images, grid_on(box_index((4.5, 9.0), 6.0), 0.5))
    uniform = [pixels for pixels in shown if pixels.std(0).max() < 4]
    assert len(uniform) >= 2 and all(pixels.mean() < 110 for pixels in uniform)


def test_shadows_are_black(images):
    for image in images:
        valid = image.max(-1) > 0
        assert ((image.max(-1) < 36) & valid).sum() > 0.05 * valid.sum()


def test_tower_stands_over_low_houses(true_rasters):
    x, y, z, classes = true_rasters
    number = box_index((8.0, 8.0), 60.0)
    center, half = CITY.boxes.center[number], CITY.boxes.half[number]
    tower = (np.abs(x - center[0]) < half[0] - 0.5) & (np.abs(y - center[1]) < half[1] - 0.5)
    above = z - CITY.ground_height(x, y)
    assert tower.sum() * 0.25 > 200 and above[tower].min() > 59 and above[tower].max() < 64
    block = (x > 26) & (y > 26) & (classes == 1)  # behind the tower
    assert block.sum() > 300 and 3 < np.median(above[block]) < 10
    assert np.abs(center).max() + half.max() < SIZE_M / 2 - 15


def test_terrain_has_a_steep_part_with_buildings_on_it(true_rasters):
    x, y, z, classes = true_rasters
    north, east = np.gradient(CITY.ground_height(x, y), -0.5, 0.5)
    grade = np.hypot(north, east)
    steep = (grade > 0.3) & (grade < 0.37)
    assert 0.15 < steep.mean() < 0.6
    assert np.ptp(z[classes == 0]) > 12
    assert np.abs(z - CITY.ground_height(x, y))[classes == 0].max() < 1e-3
    houses = z - CITY.ground_height(x, y)
    assert (houses[steep & (classes == 1)] > 1.5).mean() > 0.95


def test_water_is_flat_has_its_own_class_and_changes_by_date(written_city, images, true_rasters):
    x, y, z, classes = true_rasters
    water = classes == WATER
    assert 0.02 < water.mean() < 0.1 and np.ptp(z[water]) < 1e-3
    inside = pond_radius(x, y, CITY.slope) < 0.3
    assert (classes[inside] == WATER).all()
    shown = pixels_at(written_city, images, np.stack([x[inside], y[inside], z[inside]], 1))
    spread, colors = zip(
        *[(p[p.max(1) > 0].std(0).max(), np.median(p[p.max(1) > 0], 0)) for p in shown[1:]], strict=True
    )
    assert np.median(spread) < 6  # noise and JPEG only
    assert np.ptp([color.mean() for color in colors]) > 15


def test_slanted_rays_meet_the_steep_ground():
    along = np.array([0.8, 0.35, -0.5])  # 30 degrees down, up the slope's side
    start = np.array([-60.0, -20.0, 60.0])
    high = start + np.stack(np.meshgrid([0.0, 60.0], [0.0, -40.0]), -1) @ np.array([[1.0, 0, 0], [0, 1.0, 0]])
    _, hits = _render_in_bands(CITY, high, high + along, 40, (40, 40), np.array([0, 0, 1.0]), 1)
    columns, rows = (np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1) + 0.5).transpose(2, 0, 1)
    origin = start + np.stack([columns * 60 / 40, -rows * 40 / 40, 0 * rows], -1)
    points = origin + hits[..., :1] * along / np.linalg.norm(along)
    ground = hits[..., 1] == 0
    gap = points[..., 2] - CITY.ground_height(points[..., 0], points[..., 1])
    assert ground.sum() > 300 and np.abs(gap[ground]).max() < 1e-4


def test_one_image_has_a_large_rpc_bias(written_city):
    directory, city = written_city
    errors = []
    for path in city.images:
        true = RPC.from_dict(json.loads((directory / f"truth/rpc/{path.stem}.json").read_text()))
        place = np.array(city_delivery.CITY_LONLATH)
        errors.append(np.linalg.norm(read_rpc(path).project(place) - true.project(place)))
    assert sorted(errors)[-1] == pytest.approx(LARGE_POINTING_ERROR_PX, abs=1e-6) and sorted(errors)[-2] < 20


def test_images_are_decoded_jpegs(images):
    """An image that was a JPEG of this quality changes little when it is encoded again; another image changes."""
    image = images[2]
    assert image.dtype == np.uint8
    noise = np.random.default_rng(0).normal(0, 2, image.shape)
    fresh = np.clip(image + noise, 0, 255).astype(np.uint8)
    again, other = (np.abs(sensor._through_jpeg(a).astype(int) - a).mean() for a in (image, fresh))
    assert again < 0.4 < 1.0 < other


def test_one_cloud_is_nodata(written_city, images):
    empty = [(image == 0).all(-1).mean() for image in images]
    assert 0.03 < empty[0] < 0.3 and not any(empty[1:])
    assert read_raster(written_city[1].images[0]).nodata == 0
    assert all(read_raster(path).nodata is None for path in written_city[1].images[1:])


def test_unmasked_cloud_brightens_a_part_of_the_image():
    acquisition = replace(plan_hard_acquisitions(5, SEED)[1], gain=(1.0, 1.0, 1.0))
    light = np.full((200, 200, 3), 0.1)
    clear, cloudy = (
        sensor.encode_display(light, replace(acquisition, cloud_opacity=cloud), 1.0, np.random.default_rng(1))
        .astype(int)
        .mean(-1)
        for cloud in (0.0, acquisition.cloud_opacity)
    )
    brighter = cv2.blur(cloudy - clear, (9, 9))
    assert 0.04 < (brighter > 20).mean() < 0.3
    assert (np.abs(brighter) < 3).mean() > 0.6
    assert not acquisition.cloud_masked


def test_trees_lose_their_leaves_in_winter():
    rng = np.random.default_rng(0)
    summer, winter = (hard.apply_date(CITY, datetime(2022, month, 10), rng) for month in (6, 12))
    high = np.array([[[-48.0, 48.0, 100.0], [48.0, 48.0, 100.0]], [[-48.0, -48.0, 100.0], [48.0, -48.0, 100.0]]])
    crowns = []
    for city in (summer, winter):
        image, hits = _render_in_bands(city, high, high - [0, 0, 1], 192, (192, 192), np.array([0.0, 0.0, 1.0]), 1)
        tree = hits[..., 1] == TREE
        crowns.append((tree.sum(), (image[tree][:, 1] < image[tree][:, 0]).mean()))
    assert crowns[1][0] < 0.85 * crowns[0][0]
    assert crowns[0][1] == 0 and 0.3 < crowns[1][1] < 0.9  # brown
    assert (winter.trees.leaves == 1).any()  # evergreens


def test_one_roof_is_repainted(written_city, images):
    before, after = [], []
    roof = grid_on(box_index((7.0, 6.0), 6.0), 0.4)
    for path, pixels in zip(written_city[1].images, pixels_at(written_city, images, roof), strict=True):
        lit = pixels[pixels.max(1) > 90]
        if len(lit) > 10:
            (before if path.stem[-8:] < "20230115" else after).append(np.median(lit[:, 0] - lit[:, 2]))
    assert min(before) > 60 and sorted(after)[1] < -60  # the tower hides it in one image


def test_cars_are_many_and_at_other_positions_in_each_image():
    one, other = (city_delivery._add_cars(CITY, np.random.default_rng(k), 250) for k in (1, 2))
    count = len(CITY.boxes.seed)
    assert len(one.boxes.seed) - count == 36
    assert not np.isclose(one.boxes.center[count:], other.boxes.center[count:]).all(1).any()


@pytest.mark.parametrize("seed", range(5))
def test_two_views_are_a_stereo_pair(seed):
    one, other = plan_hard_acquisitions(2, seed)
    rays = []
    for acquisition in (one, other):
        theta, phi = np.radians([acquisition.incidence_deg, acquisition.azimuth_deg])
        rays.append([np.sin(theta) * np.sin(phi), np.sin(theta) * np.cos(phi), np.cos(theta)])
    assert 17 <= np.degrees(np.arccos(np.dot(*rays))) <= 25
    assert abs((one.time - other.time).total_seconds()) < 120
    assert one.cloud_masked and other.cloud_opacity > 0 and max(np.hypot(*v.pointing_px) for v in (one, other)) > 30


def test_views_are_of_every_season():
    for views in (5, 9):
        leaves = [hard.leaf_state(acquisition.time)[0] for acquisition in plan_hard_acquisitions(views, 0)]
        assert min(leaves) < 0.5 and max(leaves) == 1.0


def test_adjustment_corrects_the_large_rpc_bias(hard_city_scene):
    """After adjustment the errors of all images are those of one common translation of the ground."""
    report = json.loads((hard_city_scene / "report.json").read_text())
    center, remaining, translations = np.array(city_delivery.CITY_LONLATH), [], []
    for path in sorted((hard_city_scene / "raw").glob("*.tif")):
        true = RPC.from_dict(json.loads((hard_city_scene / f"truth/rpc/{path.stem}.json").read_text()))
        error = read_rpc(path).project(center) - true.project(center)
        remaining.append(np.array(report["adjustment"]["shifts_px"][path.stem]) + error)
        moved = FRAME.to_geodetic(FRAME.from_geodetic(center) + np.eye(3))
        translations.append((true.project(moved) - true.project(center)).T)
    design, remaining = np.concatenate(translations), np.concatenate(remaining)
    translation = np.linalg.lstsq(design, remaining, rcond=None)[0]
    assert np.abs(design @ translation - remaining).max() < 1.0
