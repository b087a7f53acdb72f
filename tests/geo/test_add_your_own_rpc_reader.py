"""The example of docs/extending/add_an_rpc_reader.md, run as it is printed."""

import sys

import numpy as np
import pytest
import rasterio
from helpers.documents import load_example, python_blocks, table_entry
from helpers.vendor_files import LAT, LEANS, LON, vendor_rpc, write_vendor_images

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.raster import write_raster
from skyfall_ns.geo.rpc import COEFFICIENTS, NORMALIZATION
from skyfall_ns.geo.rpc_readers import RPC_READERS, read_gdal_rpc, read_rpc
from skyfall_ns.scene.scene import Scene
from skyfall_ns.scripts import process


@pytest.fixture
def read_ossim_rpc(tmp_path_factory, monkeypatch):
    """The reader of the page, which is in the table during the test."""
    source, line = python_blocks("extending/add_an_rpc_reader.md")
    module = load_example(source, "skyfall_ns.geo.ossim_geom", tmp_path_factory.mktemp("example"), monkeypatch)
    name, reader = table_entry(line, module)
    monkeypatch.setitem(RPC_READERS, name, reader)
    return reader


def write_geom(path, rpc):
    """Write an RPC as OSSIM does."""
    lines = [f"{name}:  {float(getattr(rpc, name))!r}" for name in NORMALIZATION]
    lines += [
        f"{name}_{k:02d}:  {float(value)!r}" for name in COEFFICIENTS for k, value in enumerate(getattr(rpc, name))
    ]
    path.write_text("\n".join(["polynomial_format:  B", *lines, "type:  ossimRpcModel", ""]))


def test_the_command_processes_images_with_the_rpcs_of_the_example(read_ossim_rpc, tmp_path, monkeypatch, capsys):
    images = write_vendor_images(tmp_path / "raw")[:3]
    write_geom(images[0].with_suffix(".geom"), read_rpc(images[0]))
    remove_rpc(images[0])
    arguments = ["images", "--images", *images, "--output-dir", tmp_path / "scene", "--center", LON, LAT, "--size", 60]
    monkeypatch.setattr(sys, "argv", ["skyfall-process", *map(str, arguments), "--points", "sparse"])
    process.main()
    assert capsys.readouterr().err == ""
    assert len(Scene.from_directory(tmp_path / "scene").images) == 3


def remove_rpc(path):
    """Write a vendor file again without its RPC."""
    with rasterio.open(path) as file:
        pixels = file.read()
    write_raster(path, pixels)
    assert read_gdal_rpc(path) is None


def test_rpcs_of_gdal_take_precedence(read_ossim_rpc, tmp_path):
    image = write_vendor_images(tmp_path)[0]
    write_geom(image.with_suffix(".geom"), vendor_rpc(LEANS[0]).with_offset(100.0, 0.0))
    assert read_rpc(image) == read_gdal_rpc(image) != read_ossim_rpc(image)


def test_images_without_any_rpc_are_refused(read_ossim_rpc, tmp_path):
    write_raster(tmp_path / "plain.tif", np.zeros((1, 8, 8), np.uint8))
    assert read_ossim_rpc(tmp_path / "plain.tif") is None
    with pytest.raises(RasterError, match=r"plain.tif has no RPC\. Put"):
        read_rpc(tmp_path / "plain.tif")


def test_damaged_files_are_refused(read_ossim_rpc, tmp_path):
    write_raster(tmp_path / "plain.tif", np.zeros((1, 8, 8), np.uint8))
    geom = tmp_path / "plain.geom"
    write_geom(geom, vendor_rpc(LEANS[0]))
    text = geom.read_text()
    for damaged, words in (
        (text.replace("format:  B", "format:  A"), "is not an RPC of polynomial format B"),
        (text.replace("line_off", "line_of"), r"is damaged \(KeyError: 'line_off'\)"),
        (text.replace("lat_scale:  ", "lat_scale:  -"), r"is damaged \(ValueError"),
    ):
        geom.write_text(damaged)
        with pytest.raises(RasterError, match=rf"plain\.geom {words}"):
            read_rpc(tmp_path / "plain.tif")


def test_the_example_reads_a_real_file(read_ossim_rpc, real_data):
    """The .geom file of the Giza image is that of the whole strip; the RPC tags are those of its crop."""
    giza = real_data / "giza_phr_pair"
    rpc = read_ossim_rpc(giza / "original/img1.tif").for_crop(20500, 5000)
    expected = read_gdal_rpc(giza / "images/img1.tif")
    corners = np.stack(np.meshgrid([31.12, 31.14], [29.97, 29.98], [20.0, 200.0]), -1).reshape(-1, 3)
    np.testing.assert_allclose(rpc.project(corners), expected.project(corners), atol=1e-6)
