"""The example of docs/extending/add_an_rpc_reader.md, run as it is printed."""

import sys

import numpy as np
import pytest
import rasterio
from helpers.documents import load_example, python_blocks, table_entry
from helpers.vendor_files import LAT, LEANS, LON, vendor_rpc, write_vendor_images

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.raster import write_raster
from skyfall_ns.geo.rpc_readers import RPC_READERS, choose_rpc, read_embedded_rpc, read_rpc
from skyfall_ns.scene.scene import Scene
from skyfall_ns.scripts import process


@pytest.fixture
def read_numpy_rpc(tmp_path_factory, monkeypatch):
    """The reader of the page, which is in the table during the test."""
    source, line = python_blocks("extending/add_an_rpc_reader.md")
    module = load_example(source, "skyfall_ns.geo.numpy_rpc", tmp_path_factory.mktemp("example"), monkeypatch)
    name, reader = table_entry(line, module)
    monkeypatch.setitem(RPC_READERS, name, reader)
    return reader


def write_arrays(image, rpc):
    """Write an RPC as the page's program does."""
    np.savez(image.with_name(f"{image.stem}.rpc.npz"), **{name: np.array(v) for name, v in rpc.to_dict().items()})


def remove_rpc(path):
    """Write a vendor file again without its RPC."""
    with rasterio.open(path) as file:
        pixels = file.read()
    write_raster(path, pixels)
    assert read_embedded_rpc(path) == []


def test_the_command_processes_images_with_the_rpcs_of_the_example(read_numpy_rpc, tmp_path, monkeypatch, capsys):
    images = write_vendor_images(tmp_path / "raw")[:3]
    write_arrays(images[0], read_rpc(images[0]))
    remove_rpc(images[0])
    arguments = ["images", "--images", *images, "--output-dir", tmp_path / "scene", "--center", LON, LAT, "--size", 60]
    monkeypatch.setattr(sys, "argv", ["skyfall-process", *map(str, arguments), "--points", "sparse"])
    process.main()
    assert capsys.readouterr().err == ""
    assert len(Scene.from_directory(tmp_path / "scene").images) == 3


def test_the_order_of_the_table_decides_and_the_others_are_compared(read_numpy_rpc, tmp_path):
    image = write_vendor_images(tmp_path)[0]
    write_arrays(image, vendor_rpc(LEANS[0]).with_offset(100.0, 0.0))
    chosen = choose_rpc(image)
    assert chosen.rpc == read_embedded_rpc(image)[0].rpc != read_numpy_rpc(image)[0].rpc
    assert chosen.notes == (
        "view_1.tif: the RPC in the image and view_1.rpc.npz differ by 100 pixels; the RPC in the image is used",
    )


def test_damaged_files_are_refused(read_numpy_rpc, tmp_path):
    write_raster(tmp_path / "plain.tif", np.zeros((1, 8, 8), np.uint8))
    assert read_numpy_rpc(tmp_path / "plain.tif") == []
    file = tmp_path / "plain.rpc.npz"
    fields = vendor_rpc(LEANS[0]).to_dict()
    for damaged, words in (
        ({name: value for name, value in fields.items() if name != "line_off"}, r"is damaged \(KeyError: 'line_off'\)"),
        (fields | {"lat_scale": 0.0}, r"is damaged \(ValueError"),
    ):
        np.savez(file, **damaged)
        with pytest.raises(RasterError, match=rf"plain\.rpc\.npz {words}"):
            read_rpc(tmp_path / "plain.tif")
    file.write_bytes(b"PK no archive")
    with pytest.raises(RasterError, match=r"plain\.rpc\.npz is damaged"):
        read_rpc(tmp_path / "plain.tif")
