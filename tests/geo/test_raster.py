"""GeoTIFFs: the same values in every reader, and no partial files."""

import cv2
import numpy as np
import pytest
import rasterio
from rasterio.transform import Affine

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.raster import Raster, read_data_extent, read_raster, write_raster

GEOREFERENCE = {"crs": "EPSG:32637", "transform": Affine(0.5, 0, 315000.0, 0, -0.5, 4162000.0)}


def make_heights(nan=True):
    values = np.random.default_rng(0).normal(700, 20, (40, 30)).astype(np.float32)
    if nan:
        values[3, 4] = np.nan
    return values


def test_round_trip_with_georeference_nodata_and_tags(tmp_path):
    write_raster(
        tmp_path / "a.tif", make_heights()[None], nodata=float("nan"), tags={"HEIGHTS": "ellipsoidal"}, **GEOREFERENCE
    )
    read_back = read_raster(tmp_path / "a.tif")
    np.testing.assert_array_equal(read_back.band_values(), make_heights().astype(np.float64))
    assert read_back.crs == "EPSG:32637" and read_back.transform == GEOREFERENCE["transform"]
    assert read_back.tags["HEIGHTS"] == "ellipsoidal"


@pytest.mark.parametrize(
    "bands", [make_heights()[None], np.random.default_rng(1).integers(0, 2047, (3, 40, 30), np.uint16)]
)
def test_opencv_reads_the_same_values(tmp_path, bands):
    write_raster(tmp_path / "a.tif", bands)
    opencv_values = cv2.imread(str(tmp_path / "a.tif"), cv2.IMREAD_UNCHANGED)
    opencv_values = opencv_values[None] if opencv_values.ndim == 2 else opencv_values[..., ::-1].transpose(2, 0, 1)
    np.testing.assert_array_equal(opencv_values, bands)


def test_cloud_optimized_files(tmp_path):
    write_raster(tmp_path / "a.tif", make_heights(nan=False)[None], nodata=-9999.0, cog=True, **GEOREFERENCE)
    with rasterio.open(tmp_path / "a.tif") as source:
        assert source.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert source.nodata == -9999.0
        np.testing.assert_array_equal(source.read(1), make_heights(nan=False))


def test_nodata_becomes_nan():
    bands = np.array([[1.0, -9999.0]], np.float32)
    values = Raster(bands[None], None, Affine.identity(), -9999.0).band_values()
    assert values[0, 0] == 1.0 and np.isnan(values[0, 1])


def test_failed_writes_leave_no_files(tmp_path):
    with pytest.raises(Exception):  # noqa: B017 (any error of rasterio for an impossible type)
        write_raster(tmp_path / "a.tif", np.zeros((1, 4, 4), np.complex256))
    assert list(tmp_path.iterdir()) == []


def test_unreadable_files_are_named_in_the_error(tmp_path):
    (tmp_path / "a.tif").write_bytes(b"no raster")
    for name, message in (("a.tif", "cannot be read"), ("b.tif", "does not exist")):
        with pytest.raises(RasterError, match=rf"{name} {message}.*\. Check"):
            read_raster(tmp_path / name)


def test_grid_edges_lie_on_multiples_of_the_resolution():
    grid = Grid.covering_box(np.array([[-10.2, -3.0], [7.1, 4.9]]), 0.5)
    assert (grid.x_min_m, grid.y_max_m, grid.width, grid.height) == (-10.5, 5.0, 36, 16)
    assert grid.x_m()[0] == -10.25 and grid.y_m()[0] == 4.75
    column, row = ~grid.affine_transform((100.0, 200.0)) * (100 + grid.x_m()[3], 200 + grid.y_m()[2])
    assert (column, row) == (3.5, 2.5)


def test_only_the_part_with_data_is_read(tmp_path):
    """A raster of 6000 x 6000 cells with a few heights takes no more memory than they."""
    import tracemalloc

    values = np.full((40, 30), 5.0, np.float32)
    values[0, 0] = np.nan
    profile = {"driver": "GTiff", "width": 6000, "height": 6000, "count": 1, "dtype": "float32", "crs": "EPSG:32637"}
    transform = rasterio.Affine(0.5, 0, 3e5, 0, -0.5, 4e6)
    with rasterio.open(
        tmp_path / "a.tif",
        "w",
        **profile,
        transform=transform,
        nodata=-9999.0,
        tiled=True,
        compress="deflate",
        sparse_ok=True,
    ) as file:
        file.write(values, 1, window=rasterio.windows.Window(4100, 2300, 30, 40))
    tracemalloc.start()
    found = read_data_extent(tmp_path / "a.tif")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.bands.shape == (1, 40, 30) and peak < 5e6
    np.testing.assert_array_equal(found.band_values(), values)
    assert found.transform == transform @ rasterio.Affine.translation(4100, 2300) and found.crs == "EPSG:32637"
    write_raster(tmp_path / "b.tif", np.full((1, 8, 8), -1.0, np.float32), nodata=-1.0)
    with pytest.raises(RasterError, match=r"b.tif has no height at all\. Check"):
        read_data_extent(tmp_path / "b.tif")
