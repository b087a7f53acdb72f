"""GeoTIFFs: what is written is what every reader reads; nothing half written."""

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.raster import Grid, read_raster, write_raster

PLACE = {"crs": "EPSG:32637", "transform": Affine(0.5, 0, 315000.0, 0, -0.5, 4162000.0)}


def heights(nan=True):
    values = np.random.default_rng(0).normal(700, 20, (40, 30)).astype(np.float32)
    if nan:
        values[3, 4] = np.nan
    return values


def test_round_trip_with_place_nodata_and_tags(tmp_path):
    write_raster(tmp_path / "a.tif", heights()[None], nodata=float("nan"), tags={"HEIGHTS": "ellipsoidal"}, **PLACE)
    again = read_raster(tmp_path / "a.tif")
    np.testing.assert_array_equal(again.values(), heights().astype(np.float64))
    assert again.crs == "EPSG:32637" and again.transform == PLACE["transform"]
    assert again.tags["HEIGHTS"] == "ellipsoidal"


@pytest.mark.parametrize("bands", [heights()[None], np.random.default_rng(1).integers(0, 2047, (3, 40, 30), np.uint16)])
def test_opencv_reads_the_same_values(tmp_path, bands):
    write_raster(tmp_path / "a.tif", bands)
    read = cv2.imread(str(tmp_path / "a.tif"), cv2.IMREAD_UNCHANGED)
    read = read[None] if read.ndim == 2 else read[..., ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(read, bands)


def test_cloud_optimized(tmp_path):
    write_raster(tmp_path / "a.tif", heights(nan=False)[None], nodata=-9999.0, cog=True, **PLACE)
    with rasterio.open(tmp_path / "a.tif") as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.nodata == -9999.0
        np.testing.assert_array_equal(file.read(1), heights(nan=False))


def test_nodata_becomes_nan():
    write = np.array([[1.0, -9999.0]], np.float32)
    from skyfall_ns.geo.raster import Raster

    values = Raster(write[None], None, Affine.identity(), -9999.0).values()
    assert values[0, 0] == 1.0 and np.isnan(values[0, 1])


def test_failed_writes_leave_nothing(tmp_path):
    with pytest.raises(Exception):  # noqa: B017 (whatever rasterio says of an impossible type)
        write_raster(tmp_path / "a.tif", np.zeros((1, 4, 4), np.complex256))
    assert list(tmp_path.iterdir()) == []


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"no raster")
    for name, words in (("a.tif", "cannot be read"), ("b.tif", "does not exist")):
        with pytest.raises(RasterError, match=rf"{name} {words}.*\. Check"):
            read_raster(tmp_path / name)


def test_grid_edges_lie_on_multiples_of_the_resolution():
    grid = Grid.over(np.array([[-10.2, -3.0], [7.1, 4.9]]), 0.5)
    assert (grid.x_min_m, grid.y_max_m, grid.width, grid.height) == (-10.5, 5.0, 36, 16)
    assert grid.x_m()[0] == -10.25 and grid.y_m()[0] == 4.75
    column, row = ~grid.transform((100.0, 200.0)) * (100 + grid.x_m()[3], 200 + grid.y_m()[2])
    assert (column, row) == (3.5, 2.5)
