"""Vendor files: windows, metadata in the forms of vendors, missing data, saturation, damaged files."""

import shutil

import numpy as np
import pytest
from helpers.vendor_files import SIZE, vendor_rpc, write_vendor_image, write_vendor_images
from rasterio.enums import ColorInterp

from skyfall_ns.errors import RasterError
from skyfall_ns.processing import image_windows, vendor_images
from skyfall_ns.processing.acquisition import parse_acquisition_time, parse_sun_angles
from skyfall_ns.processing.image_bands import find_color_bands
from skyfall_ns.processing.image_windows import saturation_mask
from skyfall_ns.processing.vendor_images import open_images, read_crop

LEAN = (0.35, 0.05)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"ACQUISITION_DATETIME": "2022-03-04T10:30:00Z"}, "2022-03-04T10:30:00"),
        ({"ACQUISITION_DATE": "2022-03-04", "TIFFTAG_DATETIME": "2024:01:01 00:00:00"}, "2022-03-04"),  # when processed
        ({"ACQUISITIONDATETIME": "2017-05-25 13:37:39"}, "2017-05-25T13:37:39"),
        ({"IMAGING_DATE": "2013-02-08", "IMAGING_TIME": "08:36:09.1Z"}, "2013-02-08T08:36:09"),
        ({"ACQUISITION_DATE": "2016-04-23"}, "2016-04-23"),
        ({"TIFFTAG_DATETIME": "2023:04:15 08:34:39"}, "2023-04-15T08:34:39"),
        ({"TIFFTAG_DATETIME": "last spring"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_acquisition_time_is_parsed_from_tags(tags, expected):
    assert parse_acquisition_time(tags) == expected


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ({"SUN_AZIMUTH": "151.2", "SUN_ELEVATION": "59.2"}, (151.2, 59.2)),
        ({"MEANSUNAZ": "-10", "MEANSUNEL": "40"}, (350.0, 40.0)),
        ({"SUN_AZIMUTH": "151.2"}, None),
        ({"SUN_AZIMUTH": "151.2", "SUN_ELEVATION": "-999"}, None),
        ({"SUN_AZIMUTH": "noon", "SUN_ELEVATION": "40"}, None),
    ],
)
def test_sun_angles_are_parsed_from_tags(tags, expected):
    assert parse_sun_angles(tags) == expected


def test_worldview_metadata_beside_the_image_is_read(real_data, tmp_path):
    paths = [write_vendor_image(tmp_path / f"{n}.tif", np.ones((40, 40), np.uint16), None) for n in "ab"]
    for path in paths:
        shutil.copy(real_data / "rpc_only/rpc_WV1.xml", path.with_suffix(".XML"))
    image = open_images(paths)[0]
    assert image.acquired == "2017-05-25T13:37:39" and image.sun_deg == (228.9, 52.4)


def test_windows_have_the_files_digital_numbers(tmp_path):
    paths = write_vendor_images(tmp_path)
    image = open_images(paths)[1]
    crop = read_crop(image, np.array([[30.2, 50.9], [99.5, 120.0]]), margin_px=4)
    assert (crop.col0, crop.row0) == (26, 46) and crop.size_px == (100 + 4 + 1 - 26, 120 + 4 + 1 - 46)
    whole = read_crop(image, np.array([[-50.0, -50], [1000, 1000]]), 0)
    assert whole.size_px == (SIZE, SIZE)
    np.testing.assert_array_equal(crop.dn, whole.dn[46:125, 26:105])
    assert crop.valid.all() and not crop.saturated.any() and crop.full_well == np.inf


def test_color_bands_are_found_by_their_interpretation(tmp_path):
    dn = np.stack([np.full((40, 40), v, np.uint16) for v in (10, 20, 30, 40)])
    path = write_vendor_image(tmp_path / "a.tif", dn, vendor_rpc(LEAN))
    other = write_vendor_image(tmp_path / "b.tif", dn, vendor_rpc(LEAN))
    images = open_images([path, other])
    assert images[0].pixels.bands == (1, 2, 3)
    red, green, blue, gray = (ColorInterp(v) for v in (3, 4, 5, 1))
    assert find_color_bands([None] * 4, [gray, blue, green, red]).bands == (4, 3, 2)  # the order of WorldView files
    assert find_color_bands([None] * 2, [gray, gray]).bands == (1,)
    assert read_crop(images[0], np.array([[0.0, 0], [39, 39]]), 0).dn[5, 5].tolist() == [10, 20, 30]


def test_missing_data_and_saturation_are_found(tmp_path):
    dn = np.full((60, 60), 700, np.uint16)
    dn[:10], dn[20, 20] = 0, 4095
    paths = [write_vendor_image(tmp_path / f"{n}.tif", dn, vendor_rpc(LEAN)) for n in "ab"]
    crop = read_crop(open_images(paths)[0], np.array([[0.0, 0], [59, 59]]), 0)
    assert not crop.valid[:10].any() and crop.valid[10:].all()
    assert np.argwhere(crop.saturated).tolist() == [[20, 20]] and crop.full_well == 4095


def test_saturation_is_the_maximum_of_a_sensors_bits():
    dn = np.full((5, 5, 3), 200, np.uint8)
    dn[1, 1, 2] = 255
    assert np.argwhere(saturation_mask(dn)).tolist() == [[1, 1]]
    assert not saturation_mask(np.where(dn == 255, 254, dn)).any()
    assert saturation_mask(np.array([[[2047.0]], [[12.5]]], np.float32))[:, 0].tolist() == [True, False]


def test_unusable_images_are_named(tmp_path, monkeypatch):
    paths = write_vendor_images(tmp_path)
    with pytest.raises(RasterError, match=r"at least two images, --images names 1\. Add"):
        open_images(paths[:1])
    (tmp_path / "other").mkdir()
    twin = shutil.copy(paths[0], tmp_path / "other/view_1.tif")
    with pytest.raises(RasterError, match=r"Two of the --images are called view_1\. Give"):
        open_images([*paths, twin])
    complex_path = write_vendor_image(tmp_path / "c.tif", np.ones((40, 40), np.complex64), vendor_rpc(LEAN))
    with pytest.raises(RasterError, match=r"c.tif holds complex64 pixels\. Convert"):
        open_images([paths[0], complex_path])
    image = open_images(paths)[0]
    with pytest.raises(RasterError, match=r"lies outside .*view_1.tif\. Check"):
        read_crop(image, np.array([[500.0, 10], [600, 90]]), 8)
    monkeypatch.setattr(vendor_images, "MAX_MEGAPIXELS", 0.01)
    with pytest.raises(RasterError, match=r"megapixels of .*view_1.tif are too many.*\. Choose a part"):
        read_crop(image, np.array([[0.0, 0], [200, 200]]), 0)


def test_truncated_file_is_named(tmp_path):
    paths = write_vendor_images(tmp_path)
    data = paths[0].read_bytes()
    paths[0].write_bytes(data[: len(data) // 2])
    with pytest.raises(RasterError, match=r"view_1.tif (cannot be read|is not an image|has no RPC).*\. "):
        read_crop(open_images(paths)[0], np.array([[0.0, 0], [SIZE - 1, SIZE - 1]]), 0)


def test_windows_within_one_that_was_read_are_not_read_again(tmp_path, monkeypatch):
    image = open_images(write_vendor_images(tmp_path))[0]
    outer = read_crop(image, np.array([[20.0, 30.0], [180.0, 190.0]]), 0)
    plain = read_crop(open_images(write_vendor_images(tmp_path))[0], np.array([[50.0, 60.0], [120.0, 140.0]]), 5)
    monkeypatch.setattr(image_windows, "read_pixels", lambda *_: pytest.fail("read again"))
    inner = read_crop(image, np.array([[50.0, 60.0], [120.0, 140.0]]), 5)
    assert (inner.col0, inner.row0) == (plain.col0, plain.row0) and np.array_equal(inner.dn, plain.dn)
    assert inner.dn.flags.owndata and not np.shares_memory(inner.dn, outer.dn)


def test_a_window_beyond_the_one_that_was_read_is_read(tmp_path):
    path = write_vendor_images(tmp_path)
    image, corners = open_images(path)[0], np.array([[10.0, 10.0], [150.0, 150.0]])
    read_crop(image, np.array([[50.0, 60.0], [120.0, 140.0]]), 0)
    assert np.array_equal(read_crop(image, corners, 0).dn, read_crop(open_images(path)[0], corners, 0).dn)
