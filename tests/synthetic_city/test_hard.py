"""The difficult city: each difficulty is there, in the images or in the truth, and nowhere in the plain city."""

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
from skyfall_ns.synthetic_city import delivery, hard, sensor
from skyfall_ns.synthetic_city.acquisitions import LOST_PX, plan_hard_looks, plan_looks
from skyfall_ns.synthetic_city.layout import UNPAINTED, plan, pond_radius
from skyfall_ns.synthetic_city.render import TREE, WATER, _render

SIZE_M, VIEWS, SEED = 96.0, 5, 3
FRAME = LocalFrame.at(np.array(delivery.PLACE))
CITY = hard.plan_hard(SIZE_M, SEED)


@pytest.fixture(scope="module")
def delivery(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hard")
    with patch.object(delivery, "OBLIQUE_PX", 48):
        return folder, delivery.write_city(folder, size_m=SIZE_M, views=VIEWS, seed=SEED, hard=True)


@pytest.fixture(scope="module")
def images(delivery):
    return [read_raster(path).bands.transpose(1, 2, 0) for path in delivery[1].images]


@pytest.fixture(scope="module")
def truth(delivery):
    folder, _ = delivery
    z, kinds = (read_raster(folder / f"truth/{name}.tif").values() for name in ("dsm", "class"))
    ticks = (np.arange(len(z)) + 0.5) * 0.5 - SIZE_M / 2
    x, y = np.meshgrid(ticks, ticks[::-1])
    return x, y, z - FRAME.origin[2], kinds


def pixels_at(delivery, images, points):
    """Per image, the pixels (n, 3) that show local points (n, 3); those of other surfaces before them included."""
    folder, city = delivery
    found = []
    for path, image in zip(city.images, images, strict=True):
        rpc = RPC.from_dict(json.loads((folder / f"truth/rpc/{path.stem}.json").read_text()))
        column, row = np.round(rpc.project(FRAME.to_geodetic(points))).astype(int).T
        found.append(image[row, column].astype(int))
    return found


def grid_on(box, share=0.6):
    """Points on a flat roof, within `share` of its sides."""
    ticks = np.linspace(-share, share, 7)
    u, v = (a.ravel() for a in np.meshgrid(ticks * CITY.boxes.half[box, 0], ticks * CITY.boxes.half[box, 1]))
    top = np.full(len(u), CITY.boxes.eave[box])
    return np.stack([CITY.boxes.centre[box, 0] + u, CITY.boxes.centre[box, 1] + v, top], 1)


def box_like(half_m, height_m):
    boxes = CITY.boxes
    alike = np.isclose(boxes.half, half_m).all(1) & np.isclose(boxes.eave - boxes.base, height_m)
    return int(np.flatnonzero(alike)[0])


def test_same_seed_same_bytes(delivery, tmp_path):
    folder, _ = delivery
    with patch.object(delivery, "OBLIQUE_PX", 48):
        delivery.write_city(tmp_path, size_m=SIZE_M, views=VIEWS, seed=SEED, hard=True)
    files = sorted(p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert len(files) == 2 * VIEWS + 2 + 12 + 1
    for file in files:
        assert (folder / file).read_bytes() == (tmp_path / file).read_bytes(), file


def test_plain_city_has_no_difficulty():
    city = plan(SIZE_M, SEED)
    assert not any(city.slope[4:]) and city.sky == 0.32
    assert (city.boxes.paint == UNPAINTED).all() and (city.trees.leaves == 1).all() and (city.trees.brown == 0).all()
    assert all(look.cloud == 0 and np.hypot(*look.pointing_px) < 20 for look in plan_looks(9, SEED))


def test_white_roof_saturates_without_texture(delivery, images):
    roof = box_like((12, 16), 9.0)  # 30 x 40 m from 120 m on
    shown = pixels_at(delivery, images, grid_on(roof, 0.5))
    assert sum((pixels == 255).all() for pixels in shown) >= 3  # a cloud or a shadow may lie over it
    assert all(0.02 < (image.max(-1) == 255).mean() < 0.12 for image in images)


def test_dark_roof_has_no_texture(delivery, images):
    shown = pixels_at(delivery, images, grid_on(box_like((4.5, 9.0), 6.0), 0.5))
    calm = [pixels for pixels in shown if pixels.std(0).max() < 4]
    assert len(calm) >= 2 and all(pixels.mean() < 110 for pixels in calm)


def test_shadows_are_black(images):
    for image in images:
        valid = image.max(-1) > 0
        assert ((image.max(-1) < 36) & valid).sum() > 0.05 * valid.sum()


def test_tower_stands_over_low_houses(truth):
    x, y, z, kinds = truth
    number = box_like((8.0, 8.0), 60.0)
    center, half = CITY.boxes.centre[number], CITY.boxes.half[number]
    tower = (np.abs(x - center[0]) < half[0] - 0.5) & (np.abs(y - center[1]) < half[1] - 0.5)
    above = z - CITY.ground(x, y)
    assert tower.sum() * 0.25 > 200 and above[tower].min() > 59 and above[tower].max() < 64
    block = (x > 26) & (y > 26) & (kinds == 1)  # behind the tower
    assert block.sum() > 300 and 3 < np.median(above[block]) < 10
    assert np.abs(center).max() + half.max() < SIZE_M / 2 - 15


def test_a_part_is_steep_and_buildings_follow_it(truth):
    x, y, z, kinds = truth
    north, east = np.gradient(CITY.ground(x, y), -0.5, 0.5)
    grade = np.hypot(north, east)
    steep = (grade > 0.3) & (grade < 0.37)
    assert 0.15 < steep.mean() < 0.6
    assert np.ptp(z[kinds == 0]) > 12
    assert np.abs(z - CITY.ground(x, y))[kinds == 0].max() < 1e-3
    houses = z - CITY.ground(x, y)
    assert (houses[steep & (kinds == 1)] > 1.5).mean() > 0.95


def test_water_is_flat_of_its_own_class_and_changes_by_date(delivery, images, truth):
    x, y, z, kinds = truth
    water = kinds == WATER
    assert 0.02 < water.mean() < 0.1 and np.ptp(z[water]) < 1e-3
    inside = pond_radius(x, y, CITY.slope) < 0.3
    assert (kinds[inside] == WATER).all()
    shown = pixels_at(delivery, images, np.stack([x[inside], y[inside], z[inside]], 1))
    spread, colors = zip(
        *[(p[p.max(1) > 0].std(0).max(), np.median(p[p.max(1) > 0], 0)) for p in shown[1:]], strict=True
    )
    assert np.median(spread) < 6  # noise and JPEG only
    assert np.ptp([color.mean() for color in colors]) > 15


def test_slanted_rays_meet_the_steep_ground():
    along = np.array([0.8, 0.35, -0.5])  # 30 degrees down, up the slope's side
    start = np.array([-60.0, -20.0, 60.0])
    high = start + np.stack(np.meshgrid([0.0, 60.0], [0.0, -40.0]), -1) @ np.array([[1.0, 0, 0], [0, 1.0, 0]])
    _, met = _render(CITY, high, high + along, 40, (40, 40), np.array([0, 0, 1.0]), 1)
    columns, rows = (np.stack(np.meshgrid(np.arange(40), np.arange(40)), -1) + 0.5).transpose(2, 0, 1)
    origin = start + np.stack([columns * 60 / 40, -rows * 40 / 40, 0 * rows], -1)
    points = origin + met[..., :1] * along / np.linalg.norm(along)
    ground = met[..., 1] == 0
    gap = points[..., 2] - CITY.ground(points[..., 0], points[..., 1])
    assert ground.sum() > 300 and np.abs(gap[ground]).max() < 1e-4


def test_one_image_points_35_px_off(delivery):
    folder, city = delivery
    errors = []
    for path in city.images:
        true = RPC.from_dict(json.loads((folder / f"truth/rpc/{path.stem}.json").read_text()))
        place = np.array(delivery.PLACE)
        errors.append(np.linalg.norm(RPC.from_file(path).project(place) - true.project(place)))
    assert sorted(errors)[-1] == pytest.approx(LOST_PX, abs=1e-6) and sorted(errors)[-2] < 20


def test_images_are_decoded_jpegs(images):
    """What was a JPEG of this quality changes little when it becomes one again; what was none changes."""
    image = images[2]
    assert image.dtype == np.uint8
    noise = np.random.default_rng(0).normal(0, 2, image.shape)
    fresh = np.clip(image + noise, 0, 255).astype(np.uint8)
    again, other = (np.abs(sensor._through_jpeg(a).astype(int) - a).mean() for a in (image, fresh))
    assert again < 0.4 < 1.0 < other


def test_one_cloud_is_nodata(delivery, images):
    empty = [(image == 0).all(-1).mean() for image in images]
    assert 0.03 < empty[0] < 0.3 and not any(empty[1:])
    assert read_raster(delivery[1].images[0]).nodata == 0
    assert all(read_raster(path).nodata is None for path in delivery[1].images[1:])


def test_the_other_cloud_brightens_a_part():
    look = replace(plan_hard_looks(5, SEED)[1], gain=(1.0, 1.0, 1.0))
    light = np.full((200, 200, 3), 0.1)
    clear, cloudy = (
        sensor.deliver_display(light, replace(look, cloud=cloud), 1.0, np.random.default_rng(1)).astype(int).mean(-1)
        for cloud in (0.0, look.cloud)
    )
    brighter = cv2.blur(cloudy - clear, (9, 9))
    assert 0.04 < (brighter > 20).mean() < 0.3
    assert (np.abs(brighter) < 3).mean() > 0.6
    assert not look.cloud_masked


def test_trees_lose_their_leaves_in_winter():
    rng = np.random.default_rng(0)
    summer, winter = (hard.dated(CITY, datetime(2022, month, 10), rng) for month in (6, 12))
    high = np.array([[[-48.0, 48.0, 100.0], [48.0, 48.0, 100.0]], [[-48.0, -48.0, 100.0], [48.0, -48.0, 100.0]]])
    crowns = []
    for city in (summer, winter):
        image, met = _render(city, high, high - [0, 0, 1], 192, (192, 192), np.array([0.0, 0.0, 1.0]), 1)
        tree = met[..., 1] == TREE
        crowns.append((tree.sum(), (image[tree][:, 1] < image[tree][:, 0]).mean()))
    assert crowns[1][0] < 0.85 * crowns[0][0]
    assert crowns[0][1] == 0 and 0.3 < crowns[1][1] < 0.9  # brown
    assert (winter.trees.leaves == 1).any()  # evergreens


def test_a_roof_is_painted_anew(delivery, images):
    before, after = [], []
    roof = grid_on(box_like((7.0, 6.0), 6.0), 0.4)
    for path, pixels in zip(delivery[1].images, pixels_at(delivery, images, roof), strict=True):
        lit = pixels[pixels.max(1) > 90]
        if len(lit) > 10:
            (before if path.stem[-8:] < "20230115" else after).append(np.median(lit[:, 0] - lit[:, 2]))
    assert min(before) > 60 and sorted(after)[1] < -60  # the tower hides it in one image


def test_more_cars_that_move():
    one, other = (delivery._with_cars(CITY, np.random.default_rng(k), 250) for k in (1, 2))
    count = len(CITY.boxes.seed)
    assert len(one.boxes.seed) - count == 36
    assert not np.isclose(one.boxes.centre[count:], other.boxes.centre[count:]).all(1).any()


@pytest.mark.parametrize("seed", range(5))
def test_two_views_are_a_stereo_pair(seed):
    one, other = plan_hard_looks(2, seed)
    rays = []
    for look in (one, other):
        theta, phi = np.radians([look.incidence_deg, look.azimuth_deg])
        rays.append([np.sin(theta) * np.sin(phi), np.sin(theta) * np.cos(phi), np.cos(theta)])
    assert 17 <= np.degrees(np.arccos(np.dot(*rays))) <= 25
    assert abs((one.moment - other.moment).total_seconds()) < 120
    assert one.cloud_masked and other.cloud > 0 and max(np.hypot(*v.pointing_px) for v in (one, other)) > 30


def test_many_views_are_of_every_season():
    for views in (5, 9):
        leaves = [hard.season(look.moment)[0] for look in plan_hard_looks(views, 0)]
        assert min(leaves) < 0.5 and max(leaves) == 1.0


def test_processing_finds_the_lost_image(hard_city_scene):
    """What the adjustment adds to each image's error is the same movement of the ground for all."""
    report = json.loads((hard_city_scene / "report.json").read_text())
    place, left, moves = np.array(delivery.PLACE), [], []
    for path in sorted((hard_city_scene / "raw").glob("*.tif")):
        true = RPC.from_dict(json.loads((hard_city_scene / f"truth/rpc/{path.stem}.json").read_text()))
        error = RPC.from_file(path).project(place) - true.project(place)
        left.append(np.array(report["adjustment"]["shifts_px"][path.stem]) + error)
        moved = FRAME.to_geodetic(FRAME.from_geodetic(place) + np.eye(3))
        moves.append((true.project(moved) - true.project(place)).T)
    design, left = np.concatenate(moves), np.concatenate(left)
    ground = np.linalg.lstsq(design, left, rcond=None)[0]
    assert np.abs(design @ ground - left).max() < 1.0
