"""Boxes, crops, masks and surfaces of high relief: a tower of 250 m, a slope of 500 m."""

import json

import cv2
import numpy as np
import pytest
from helpers.relief_files import Frame, Relief, deliver_relief, local_m
from helpers.vendor_files import LAT, LON, METRES_PER_DEGREE

from skyfall_ns.geo.cameras import camera_from_dict
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.processing.area_of_interest import Area
from skyfall_ns.processing.height_range import box_heights_m, relief_of_ties, search_heights_m, ties_within
from skyfall_ns.processing.process import Options, prepare

SLOPES = ((0.17, 0.02), (-0.15, 0.10), (0.02, -0.17))
TOWER = Relief(100.0, 0.0, (-15.0, -15.0, 15.0, 15.0, 350.0))
HILL = Relief(400.0, 1.0)  # 45 degrees


def process(folder, relief, frame, east_m, north_m, resolution_m, **options):
    """A scene of a rectangle around (LON, LAT)."""
    corners = [(x * east_m / 2, y * north_m / 2) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]
    degrees = [
        (LON + x / (METRES_PER_DEGREE * np.cos(np.deg2rad(LAT))), LAT + y / METRES_PER_DEGREE) for x, y in corners
    ]
    (folder / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [degrees]}))
    paths = deliver_relief(folder / "raw", relief, frame, SLOPES)
    (folder / "scene").mkdir()
    options = Options(area=Area(aoi=folder / "area.geojson"), resolution_m=resolution_m, **options)
    return folder / "scene", prepare(paths, folder / "scene", options, lambda text: None)


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    frame = Frame(360, 360, 2.0, 100.0, (0.0, 700.0))
    return *process(tmp_path_factory.mktemp("tower"), TOWER, frame, 70.0, 70.0, 1.0), TOWER


@pytest.fixture(scope="module")
def hill(tmp_path_factory):
    frame = Frame(760, 300, 1.0, 400.0, (0.0, 900.0))
    return *process(tmp_path_factory.mktemp("hill"), HILL, frame, 500.0, 100.0, 2.0), HILL


def truth_m(prepared, relief):
    """Heights of the cells of the surface, local meters, and their places."""
    grid, frame = prepared.surface.grid, LocalFrame.from_dict(prepared.scene.frame)
    x, y = np.meshgrid(grid.x_m(), grid.y_m())
    place = local_m(frame.to_geodetic(np.stack([x, y, np.zeros_like(x)], -1)))
    return relief.height_m(place[..., 0], place[..., 1]) - frame.origin[2], np.stack([x, y], -1)


def test_the_box_holds_the_tower_and_the_slope(tower, hill):
    for (_, prepared, _), low, high in ((tower, 100.0, 350.0), (hill, 150.0, 650.0)):
        bottom, top = prepared.scene.box_m[:, 2] + prepared.scene.frame["origin"][2]
        assert low - 25 < bottom < low - 4 and high + 2 < top < high + 20


@pytest.mark.parametrize("which", ["tower", "hill"])
def test_heights_are_right_to_the_top(which, request):
    _, prepared, relief = request.getfixturevalue(which)
    truth, _ = truth_m(prepared, relief)
    error = np.abs(prepared.surface.height_m - truth)
    assert np.nanmedian(error) < 1.0 and np.isfinite(error).mean() > 0.95
    highest = truth > truth.max() - 25.0
    assert np.nanmedian(error[highest]) < 1.0
    assert (prepared.surface.source[highest] == 1).mean() > 0.8


@pytest.mark.parametrize("which", ["tower", "hill"])
def test_crops_show_the_surface_and_masks_let_it_be_used(which, request):
    folder, prepared, relief = request.getfixturevalue(which)
    truth, place = truth_m(prepared, relief)
    low, high = prepared.scene.box_m[:, :2]
    inside = ((place > low) & (place < high)).all(-1)
    highest = inside & (truth > truth.max() - 15.0)
    for image in prepared.scene.images:
        camera = camera_from_dict(image.camera)
        mask = cv2.imread(str(folder / image.mask), cv2.IMREAD_UNCHANGED) > 0
        colrow = np.round(camera.project(np.dstack([place, truth]))).astype(int)
        shown = ((colrow >= 0) & (colrow < camera.size)).all(-1)
        assert shown[inside].all()
        col, row = colrow[highest].T
        assert mask[row, col].mean() > 0.97
        outside = ~inside & (np.abs(place - np.clip(place, low - 10, high + 10)).max(-1) > 1) & shown
        col, row = colrow[outside].T
        assert not outside.any() or mask[row, col].mean() < 0.05


def test_crops_and_masks_of_ties_alone_follow_a_slope(tmp_path):
    frame = Frame(760, 300, 1.0, 400.0, (0.0, 900.0))
    folder, prepared = process(tmp_path, HILL, frame, 500.0, 100.0, 2.0, points="sparse")
    local = LocalFrame.from_dict(prepared.scene.frame)
    low, high = prepared.scene.box_m[:, :2]
    x, y = np.meshgrid(np.linspace(low[0] + 3, high[0] - 3, 90), np.linspace(low[1] + 3, high[1] - 3, 30))
    place = local_m(local.to_geodetic(np.stack([x, y, np.zeros_like(x)], -1)))
    surface = np.stack([x, y, HILL.height_m(place[..., 0], place[..., 1]) - local.origin[2]], -1)
    assert surface[..., 2].min() > prepared.scene.box_m[0, 2] and surface[..., 2].max() < prepared.scene.box_m[1, 2]
    for image in prepared.scene.images:
        mask = cv2.imread(str(folder / image.mask), cv2.IMREAD_UNCHANGED) > 0
        col, row = np.moveaxis(np.round(camera_from_dict(image.camera).project(surface)).astype(int), -1, 0)
        assert col.min() >= 0 and row.min() >= 0 and col.max() < image.width and row.max() < image.height
        assert mask[row, col].mean() > 0.98


def test_crops_of_a_tower_are_smaller_than_those_of_its_box(tower):
    _, prepared, _ = tower
    low, high = prepared.scene.box_m + np.array([[-10, -10, 0], [10, 10, 0]])
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    for image in prepared.scene.images:
        width, height = np.ptp(camera_from_dict(image.camera).project(corners), axis=0)
        assert image.width * image.height < 0.95 * (width + 16) * (height + 16)


def test_a_range_that_was_asked_for_stays(tmp_path):
    paths = deliver_relief(tmp_path / "raw", TOWER, Frame(360, 360, 2.0, 100.0, (0.0, 700.0)), SLOPES)
    (tmp_path / "scene").mkdir()
    options = Options(area=Area(center=(LON, LAT), size_m=40.0), height_range_m=(80.0, 370.0), resolution_m=2.0)
    prepared = prepare(paths, tmp_path / "scene", options, lambda text: None)
    np.testing.assert_allclose(prepared.scene.box_m[:, 2] + prepared.scene.frame["origin"][2], [80, 370])


def test_heights_that_are_searched_stay_within_the_rpcs_range():
    ties = np.column_stack([np.zeros((200, 2)), np.linspace(100, 140, 200)])
    assert search_heights_m(ties, (-500.0, 9000.0)) == pytest.approx((0.0, 440.0), abs=1)
    assert search_heights_m(ties, (50.0, 200.0)) == (50.0, 200.0)


def test_boxes_hold_ties_and_surface():
    ties = np.column_stack([np.zeros((200, 2)), np.linspace(0, 40, 200)])
    assert box_heights_m(ties, (5.0, 90.0)) == pytest.approx((-10, 98), abs=1)
    assert box_heights_m(ties, (-30.0, 20.0)) == pytest.approx((-40, 48), abs=1)
    assert box_heights_m(ties, None) == pytest.approx((-10, 48), abs=1)
    assert box_heights_m(ties, None, 60.0) == pytest.approx((-10, 100), abs=1)


def test_ties_of_the_area_count_unless_they_are_few():
    ties = np.array([[0.0, 0.0, 1.0]] * 30 + [[500.0, 0.0, 900.0]] * 30)
    area = np.array([[-10.0, -10.0], [10.0, 10.0]])
    assert (ties_within(ties, area)[:, 2] == 1).all()
    assert len(ties_within(ties[20:], area)) == 40
    assert relief_of_ties(ties, np.array([[-10.0, -10.0], [510.0, 10.0]])).height_m[:, [0, -1]].mean(
        0
    ) == pytest.approx([1, 900])
