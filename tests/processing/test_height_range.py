"""Boxes, crops, masks and surfaces of high relief: a tower of 250 m, a slope of 500 m."""

import json

import cv2
import numpy as np
import pytest
from helpers.relief_files import ImageGeometry, Relief, to_local_m, write_relief_images
from helpers.vendor_files import LAT, LON, METERS_PER_DEGREE

from skyfall_ns.processing.area_of_interest import AreaOfInterest
from skyfall_ns.processing.height_range import (
    box_heights_m,
    relief_from_tie_points,
    search_height_range_m,
    tie_points_within,
)
from skyfall_ns.processing.options import ProcessingOptions
from skyfall_ns.processing.process import process_scene

SLOPES = ((0.17, 0.02), (-0.15, 0.10), (0.02, -0.17))
TOWER = Relief(100.0, 0.0, (-15.0, -15.0, 15.0, 15.0, 350.0))
HILL = Relief(400.0, 1.0)  # 45 degrees


def process_relief(directory, relief, frame, east_m, north_m, resolution_m, **options):
    """Process images of a relief over a rectangle around (LON, LAT); the scene directory and the result."""
    corners = [(x * east_m / 2, y * north_m / 2) for x, y in ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]
    degrees = [
        (LON + x / (METERS_PER_DEGREE * np.cos(np.deg2rad(LAT))), LAT + y / METERS_PER_DEGREE) for x, y in corners
    ]
    (directory / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [degrees]}))
    paths = write_relief_images(directory / "raw", relief, frame, SLOPES)
    (directory / "scene").mkdir()
    options = ProcessingOptions(
        area=AreaOfInterest(aoi=directory / "area.geojson"), resolution_m=resolution_m, **options
    )
    return directory / "scene", process_scene(paths, directory / "scene", options, lambda text: None)


@pytest.fixture(scope="module")
def tower_scene(tmp_path_factory):
    frame = ImageGeometry(360, 360, 2.0, 100.0, (0.0, 700.0))
    return *process_relief(tmp_path_factory.mktemp("tower"), TOWER, frame, 70.0, 70.0, 1.0), TOWER


@pytest.fixture(scope="module")
def hill_scene(tmp_path_factory):
    frame = ImageGeometry(760, 300, 1.0, 400.0, (0.0, 900.0))
    return *process_relief(tmp_path_factory.mktemp("hill"), HILL, frame, 500.0, 100.0, 2.0), HILL


def true_heights_m(result, relief):
    """True heights of the surface's cells and their (x, y), local meters."""
    grid, frame = result.surface.grid, result.scene.frame
    x, y = np.meshgrid(grid.x_m(), grid.y_m())
    position = to_local_m(frame.to_geodetic(np.stack([x, y, np.zeros_like(x)], -1)))
    return relief.height_m(position[..., 0], position[..., 1]) - frame.origin[2], np.stack([x, y], -1)


def test_box_contains_the_tower_and_the_slope(tower_scene, hill_scene):
    for (_, result, _), low, high in ((tower_scene, 100.0, 350.0), (hill_scene, 150.0, 650.0)):
        bottom, top = result.scene.box_m[:, 2] + result.scene.frame.origin[2]
        assert low - 25 < bottom < low - 4 and high + 2 < top < high + 20


@pytest.mark.parametrize("which", ["tower_scene", "hill_scene"])
def test_heights_are_right_up_to_the_top(which, request):
    _, result, relief = request.getfixturevalue(which)
    truth, _ = true_heights_m(result, relief)
    error = np.abs(result.surface.height_m - truth)
    assert np.nanmedian(error) < 1.0 and np.isfinite(error).mean() > 0.95
    highest = truth > truth.max() - 25.0
    assert np.nanmedian(error[highest]) < 1.0
    assert (result.surface.source[highest] == 1).mean() > 0.8


@pytest.mark.parametrize("which", ["tower_scene", "hill_scene"])
def test_crops_and_masks_contain_the_surface(which, request):
    directory, result, relief = request.getfixturevalue(which)
    truth, position = true_heights_m(result, relief)
    low, high = result.scene.box_m[:, :2]
    inside = ((position > low) & (position < high)).all(-1)
    highest = inside & (truth > truth.max() - 15.0)
    for image in result.scene.images:
        camera = image.camera
        mask = cv2.imread(str(directory / image.mask), cv2.IMREAD_UNCHANGED) > 0
        colrow = np.round(camera.project(np.dstack([position, truth]))).astype(int)
        shown = ((colrow >= 0) & (colrow < camera.size)).all(-1)
        assert shown[inside].all()
        col, row = colrow[highest].T
        assert mask[row, col].mean() > 0.97
        outside = ~inside & (np.abs(position - np.clip(position, low - 10, high + 10)).max(-1) > 1) & shown
        col, row = colrow[outside].T
        assert not outside.any() or mask[row, col].mean() < 0.05


def test_crops_and_masks_from_tie_points_follow_a_slope(tmp_path):
    frame = ImageGeometry(760, 300, 1.0, 400.0, (0.0, 900.0))
    directory, result = process_relief(tmp_path, HILL, frame, 500.0, 100.0, 2.0, points="sparse")
    local = result.scene.frame
    low, high = result.scene.box_m[:, :2]
    x, y = np.meshgrid(np.linspace(low[0] + 3, high[0] - 3, 90), np.linspace(low[1] + 3, high[1] - 3, 30))
    position = to_local_m(local.to_geodetic(np.stack([x, y, np.zeros_like(x)], -1)))
    surface = np.stack([x, y, HILL.height_m(position[..., 0], position[..., 1]) - local.origin[2]], -1)
    assert surface[..., 2].min() > result.scene.box_m[0, 2] and surface[..., 2].max() < result.scene.box_m[1, 2]
    for image in result.scene.images:
        mask = cv2.imread(str(directory / image.mask), cv2.IMREAD_UNCHANGED) > 0
        col, row = np.moveaxis(np.round(image.camera.project(surface)).astype(int), -1, 0)
        assert col.min() >= 0 and row.min() >= 0 and col.max() < image.width and row.max() < image.height
        assert mask[row, col].mean() > 0.98


def test_crops_of_a_tower_are_smaller_than_those_of_its_box(tower_scene):
    _, result, _ = tower_scene
    low, high = result.scene.box_m + np.array([[-10, -10, 0], [10, 10, 0]])
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    for image in result.scene.images:
        width, height = np.ptp(image.camera.project(corners), axis=0)
        assert image.width * image.height < 0.95 * (width + 16) * (height + 16)


def test_requested_height_range_is_that_of_the_box(tmp_path):
    paths = write_relief_images(tmp_path / "raw", TOWER, ImageGeometry(360, 360, 2.0, 100.0, (0.0, 700.0)), SLOPES)
    (tmp_path / "scene").mkdir()
    options = ProcessingOptions(
        area=AreaOfInterest(center=(LON, LAT), size_m=40.0), height_range_m=(80.0, 370.0), resolution_m=2.0
    )
    result = process_scene(paths, tmp_path / "scene", options, lambda text: None)
    np.testing.assert_allclose(result.scene.box_m[:, 2] + result.scene.frame.origin[2], [80, 370])


def test_searched_heights_stay_within_the_rpcs_range():
    tie_points = np.column_stack([np.zeros((200, 2)), np.linspace(100, 140, 200)])
    assert search_height_range_m(tie_points, (-500.0, 9000.0)) == pytest.approx((0.0, 440.0), abs=1)
    assert search_height_range_m(tie_points, (50.0, 200.0)) == (50.0, 200.0)


def test_box_contains_tie_points_and_surface():
    tie_points = np.column_stack([np.zeros((200, 2)), np.linspace(0, 40, 200)])
    assert box_heights_m(tie_points, (5.0, 90.0), 10.0, 8.0) == pytest.approx((-10, 98), abs=1)
    assert box_heights_m(tie_points, (-30.0, 20.0), 10.0, 8.0) == pytest.approx((-40, 48), abs=1)
    assert box_heights_m(tie_points, None, 10.0, 8.0) == pytest.approx((-10, 48), abs=1)
    assert box_heights_m(tie_points, None, 10.0, 60.0) == pytest.approx((-10, 100), abs=1)


def test_tie_points_outside_the_area_are_used_only_if_few_are_inside():
    tie_points = np.array([[0.0, 0.0, 1.0]] * 30 + [[500.0, 0.0, 900.0]] * 30)
    area = np.array([[-10.0, -10.0], [10.0, 10.0]])
    assert (tie_points_within(tie_points, area)[:, 2] == 1).all()
    assert len(tie_points_within(tie_points[20:], area)) == 40
    assert relief_from_tie_points(tie_points, np.array([[-10.0, -10.0], [510.0, 10.0]])).height_m[:, [0, -1]].mean(
        0
    ) == pytest.approx([1, 900])
