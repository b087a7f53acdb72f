"""The area of interest: GeoJSON, a square, or the ground that all images show; unusable areas."""

import json

import numpy as np
import pytest
from helpers.vendor_files import GROUND_M, LAT, LEANS, LON, SIZE, vendor_rpc, write_vendor_images

from skyfall_ns.errors import RasterError, SkyfallError
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.processing.area_of_interest import (
    AreaOfInterest,
    check_image_shows_area,
    check_images_overlap,
    common_area_lonlat,
    two_view_fraction,
)
from skyfall_ns.processing.vendor_images import open_images

RING = [[LON, LAT], [LON + 1e-3, LAT], [LON + 1e-3, LAT + 2e-3], [LON, LAT]]
POLYGON = {"type": "Polygon", "coordinates": [RING]}


@pytest.mark.parametrize(
    "data",
    [
        POLYGON,
        {"type": "MultiPolygon", "coordinates": [[RING]]},
        {"type": "Feature", "properties": {}, "geometry": POLYGON},
        {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": None, "geometry": POLYGON}]},
    ],
)
def test_every_form_of_geojson_polygon_is_read(tmp_path, data):
    (tmp_path / "a.geojson").write_text(json.dumps(data))
    corners = AreaOfInterest(aoi=tmp_path / "a.geojson").corners_lonlat()
    np.testing.assert_allclose([corners.min(0), corners.max(0)], [[LON, LAT], [LON + 1e-3, LAT + 2e-3]])


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[]", "5", '"Polygon"', "null", "{}", json.dumps({"type": "Point", "coordinates": [LON, LAT]}),
        json.dumps({"type": "FeatureCollection", "features": []}), json.dumps({"type": "Feature", "geometry": None}),
        json.dumps({"type": "Polygon", "coordinates": [[[5e5, 4e6], [5e5, 5e6], [6e5, 4e6]]]}),
        json.dumps({"type": "Polygon", "coordinates": [[["a", "b"], ["c", "d"], ["e", "f"]]]}),
        json.dumps({"type": "Polygon", "coordinates": [[[float("nan"), 1], [2, 3], [4, 5]]]}),
        json.dumps({"type": "Polygon", "coordinates": [[LON, LAT]]}),
        json.dumps({"type": "Polygon", "coordinates": [[[1, 2]]]}), json.dumps({"type": "Polygon"}),
    ],
)  # fmt: skip
def test_files_without_a_polygon_in_degrees_are_refused(tmp_path, text):
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(SkyfallError, match=r"a.geojson is not a GeoJSON polygon in degrees \(.*\)\. Give"):
        AreaOfInterest(aoi=tmp_path / "a.geojson").corners_lonlat()


def test_files_that_cannot_be_opened_are_named(tmp_path):
    with pytest.raises(SkyfallError, match=r"none.geojson cannot be opened\. Check"):
        AreaOfInterest(aoi=tmp_path / "none.geojson").corners_lonlat()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(SkyfallError, match="is not a GeoJSON polygon"):
        AreaOfInterest(aoi=tmp_path / "bytes").corners_lonlat()


def test_square_has_its_size_on_the_ground():
    corners = AreaOfInterest(center=(LON, LAT), size_m=400.0).corners_lonlat()
    frame = LocalFrame.at_point(np.array([LON, LAT, 0.0]), "topocentric")
    local = frame.from_geodetic(np.column_stack([corners, np.zeros(4)]))[:, :2]
    np.testing.assert_allclose(np.linalg.norm(np.roll(local, 1, 0) - local, axis=1), 400, rtol=5e-4)  # UTM's scale
    np.testing.assert_allclose(local.mean(0), 0, atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"center": (LON, LAT)}, "--center LON LAT and --size METERS belong together"),
        ({"size_m": 100.0}, "--center LON LAT and --size METERS belong together"),
        ({"center": (LON, LAT), "size_m": -5.0}, "--size is -5.0 meters"),
        ({"center": (LON, LAT), "size_m": float("nan")}, "--size is nan meters"),
        ({"center": (LON, LAT), "size_m": float("inf")}, "--size is inf meters"),
        ({"center": (LON, LAT), "size_m": 9.0, "aoi": "a.geojson"}, "--aoi and --center both name the area"),
        ({"center": (LON, 91.0), "size_m": 9.0}, "is not a longitude and a latitude"),
        ({"center": (float("nan"), LAT), "size_m": 9.0}, "is not a longitude and a latitude"),
    ],
)
def test_incompatible_flags_are_refused(arguments, message):
    with pytest.raises(SkyfallError, match=rf"{message}.*\. Give .*\.$"):
        AreaOfInterest(**arguments).corners_lonlat()


def nadir_pixels(corners):
    """Columns and rows (half meters) of corners on the ground in a nadir image."""
    return vendor_rpc((0.0, 0.0)).project(np.column_stack([corners, np.full(len(corners), GROUND_M)]))


def test_common_area_is_the_ground_that_all_images_show(tmp_path):
    images = open_images(write_vendor_images(tmp_path))
    corners = common_area_lonlat(images, GROUND_M)
    displacements = 20 * np.array(LEANS)  # of the ground in each image, pixels
    low, high = -displacements.min(0), SIZE - 1 - displacements.max(0)
    found = nadir_pixels(corners)
    np.testing.assert_allclose(found.min(0), low, atol=3.5)  # cells of the search, and grid north is not true north
    np.testing.assert_allclose(found.max(0), high, atol=3.5)
    for image in images:
        colrow = image.rpc.project(np.column_stack([corners, np.full(4, GROUND_M)]))
        assert (colrow > -0.5).all() and (colrow < SIZE - 0.5).all()


def test_images_of_different_places_are_refused(tmp_path):
    images = open_images(write_vendor_images(tmp_path, [(0, 0), (300, 0)]))
    with pytest.raises(SkyfallError, match=r"The --images do not overlap\. Give"):
        common_area_lonlat(images, GROUND_M)


def test_overlap_is_searched_at_every_height(tmp_path):
    """With a range of kilometers, images of one place overlap at the ground's height but not in the range's middle."""
    images = open_images(write_vendor_images(tmp_path))
    check_images_overlap(images, (0.0, 200.0))
    with pytest.raises(SkyfallError, match=r"The --images do not overlap\. Give"):
        check_images_overlap(images, (1900.0, 2100.0))
    check_images_overlap(images, (0.0, 4000.0))


def test_areas_outside_an_image_are_refused(tmp_path):
    image = open_images(write_vendor_images(tmp_path))[0]
    check_image_shows_area(AreaOfInterest(center=(LON, LAT), size_m=50.0).corners_lonlat(), image, (0.0, 200.0))
    for center in ((LON + 0.01, LAT), (LON, LAT - 0.01), (-LON, -LAT), (LON + 120, LAT)):
        with pytest.raises(RasterError, match=r"lies outside .*view_1.tif\. Check"):
            check_image_shows_area(AreaOfInterest(center=center, size_m=50.0).corners_lonlat(), image, (0.0, 200.0))
    with pytest.raises(RasterError, match=r"far larger than the ground in .*view_1.tif\. Give"):
        check_image_shows_area(AreaOfInterest(center=(LON, LAT), size_m=5000.0).corners_lonlat(), image, (0.0, 200.0))


def test_two_view_fraction_of_the_ground(tmp_path):
    images = open_images(write_vendor_images(tmp_path))
    frame = LocalFrame.at_point(np.array([LON, LAT, GROUND_M]))
    inside, twice_as_wide = (
        np.stack([*np.meshgrid(np.linspace(-x, x, 90), np.linspace(-20, 20, 30)), np.zeros((30, 90))], -1).reshape(
            -1, 3
        )
        for x in (20.0, 110.0)
    )
    assert two_view_fraction(images, frame, inside) == 1.0
    assert two_view_fraction(images, frame, twice_as_wide) == pytest.approx(0.5, abs=0.05)
    assert two_view_fraction(images[:1], frame, inside) == 0.0
