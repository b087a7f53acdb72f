"""`skyfall-process` on the command line: scenes from images and synthetic cities; bad input leaves no files behind."""

import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
from helpers.commands import BIN
from helpers.vendor_files import LAT, LEANS, LON, make_texture, vendor_rpc, write_vendor_image, write_vendor_images
from rasterio.transform import rowcol
from rasterio.warp import transform

from skyfall_ns.geo.raster import read_raster
from skyfall_ns.processing import process as processing
from skyfall_ns.processing import scene_files
from skyfall_ns.scene.scene import Scene
from skyfall_ns.scripts import process
from skyfall_ns.synthetic_city import delivery as city_delivery

SQUARE = ("--center", LON, LAT, "--size", 60)
PEAK_MEMORY_PROGRAM = """
import resource, subprocess, sys
code = subprocess.call(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(code)
"""


@pytest.fixture
def images(tmp_path):
    """Three valid files in a directory of their own, so that anything else in tmp_path was left by the command."""
    return write_vendor_images(tmp_path / "raw")[:3]


@pytest.fixture
def call_command(monkeypatch, capsys):
    """Run the command in this process; its exit code, standard output and errors."""

    def run_process(*arguments):
        monkeypatch.setattr(sys, "argv", ["skyfall-process", *map(str, arguments)])
        try:
            process.main()
            code = 0
        except SystemExit as exit:
            code = exit.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_process


def test_images_to_a_scene(call_command, images, tmp_path):
    arguments = ("images", "--images", *images, "--output-dir", tmp_path / "scene", *SQUARE, "--points", "sparse")
    code, out, err = call_command(*arguments, "--test-images", "view_2", "--camera", "affine", "--gamma", "1.5")
    assert code == 0 and err == ""
    scene = Scene.from_directory(tmp_path / "scene")
    assert [i.split for i in scene.images] == ["train", "test", "train"]
    assert {i.camera.model for i in scene.images} == {"affine"}
    assert {i.tone.gamma for i in scene.images} == {1.5}
    assert "Finding tie points" in out and "px after" in out and f"ns-train skyfall --data {tmp_path / 'scene'}" in out
    assert json.loads((tmp_path / "scene/report.json").read_text())["points"]["count"] > 100
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "scene"]

    code, _, err = call_command(*arguments)
    assert code == 1 and "scene exists already. Choose another --output-dir, or pass --force" in err
    assert call_command(*arguments, "--force", "--no-adjust")[0] == 0
    scene = Scene.from_directory(tmp_path / "scene")
    assert {i.camera.model for i in scene.images} == {"quadratic"}
    assert {i.shift_px for i in scene.images} == {(0.0, 0.0)}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw", "scene"]


def write_orthoimage(directory):
    return write_vendor_image(directory / "ortho.tif", np.ones((60, 60), np.uint16), None, crs="EPSG:32636")


def write_without_rpc(directory):
    return write_vendor_image(directory / "bare.tif", np.ones((60, 60), np.uint16), None)


def write_text_file(directory):
    (directory / "text.tif").write_text("no image")
    return directory / "text.tif"


def write_distant_image(directory):
    rpc = vendor_rpc(LEANS[1])
    moved = rpc.to_dict() | {"long_off": LON + 0.1}
    return write_vendor_image(directory / "elsewhere.tif", make_texture()[:220, :220], type(rpc).from_dict(moved))


def copy_with_same_name(directory):
    (directory / "twins").mkdir()
    return shutil.copy(directory / "view_1.tif", directory / "twins/view_1.tif")


def write_point_geojson(directory):
    (directory / "aoi.geojson").write_text('{"type": "Point", "coordinates": [1, 2]}')
    return directory / "aoi.geojson"


DISTANT_LON = LON + 5
BAD_INPUTS = {
    "no image": (lambda f: [write_text_file(f)], (), "text.tif is not an image that can be read"),
    "no file": (lambda f: [f / "none.tif"], (), "none.tif does not exist"),
    "no RPC": (lambda f: [write_without_rpc(f)], (), "bare.tif has no RPC"),
    "an orthoimage": (lambda f: [write_orthoimage(f)], (), "ortho.tif is an orthoimage: it has a CRS but no RPC"),
    "one image": (None, (), "at least two images, --images names 1"),
    "no overlap": (lambda f: [write_distant_image(f)], (), "do not overlap"),
    "same names": (lambda f: [copy_with_same_name(f)], (), "are called view_1"),
    "area outside": (lambda f: [], ("--center", DISTANT_LON, LAT, "--size", 60), "area of interest lies outside"),
    "area and square": (lambda f: [], ("--aoi", "a.geojson", *SQUARE), "--aoi and --center both name the area"),
    "square without size": (lambda f: [], ("--center", LON, LAT), "--center LON LAT and --size METERS belong together"),
    "size alone": (lambda f: [], ("--size", 60), "--center LON LAT and --size METERS belong together"),
    "heights outside": (lambda f: [], ("--height-range", 50, 5000), "leaves the RPCs' range of 0 to 200 m"),
    "heights inverted": (lambda f: [], ("--height-range", 150, 50), "is empty"),
    "no gamma": (lambda f: [], ("--gamma", 0), "--gamma 0 is not a positive number"),
    "no polygon": (lambda f: [], ("--aoi", "GEOJSON"), "is not a GeoJSON polygon"),
    "no such test image": (lambda f: [], ("--test-images", "summer*"), "--test-images summer* matches none"),
    "a flag twice": (lambda f: [], ("--sun", "a=90,45", "--sun", "b=90,45"), "--sun is given 2 times"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_input_is_an_error_of_two_sentences_and_leaves_no_files(call_command, images, tmp_path, name):
    make_files, flags, message = BAD_INPUTS[name]
    directory = images[0].parent
    files = images[:1] if make_files is None else [*images, *make_files(directory)]
    flags = [write_point_geojson(directory) if flag == "GEOJSON" else flag for flag in flags]
    code, _, err = call_command("images", "--images", *files, "--output-dir", tmp_path / "scene", *flags)
    assert code == 1 and message in err
    text = err.strip().removeprefix("Error: ")
    assert len(re.findall(r"[.] (?=[A-Z])", text)) == 1 and text.endswith(".") and "\n" not in text, text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_an_invalid_rpc_is_refused(call_command, images, tmp_path):
    rpb = tmp_path / "raw/bare.RPB"
    vendor_rpc(LEANS[0]).write_rpb(rpb)
    rpb.write_text(re.sub(r"latScale = .*;", "latScale = 0.0;", rpb.read_text()))
    images = [*images, write_without_rpc(tmp_path / "raw")]
    code, _, err = call_command("images", "--images", *images, "--output-dir", tmp_path / "scene")
    assert code == 1 and "LAT_SCALE of" in err and "bare.RPB is 0" in err and "\n" not in err.strip()


@pytest.mark.parametrize(
    ("module", "step", "code", "message"),
    [
        (scene_files, "write_raster", errno.ENOSPC, "The disk is full"),
        (scene_files, "write_png", errno.EROFS, "The disk is read-only"),
        (processing, "write_ply", errno.EDQUOT, "The disk quota is used up"),
    ],
)
def test_disk_errors_are_messages_at_any_step(call_command, images, tmp_path, monkeypatch, module, step, code, message):
    def raise_disk_error(*_, **__):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, step, raise_disk_error)
    arguments = ("images", "--images", *images, "--output-dir", tmp_path / "scene", *SQUARE, "--points", "sparse")
    exit_code, _, err = call_command(*arguments)
    assert exit_code == 1 and f"{message}: {tmp_path / 'scene'}. " in err and "Traceback" not in err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_a_file_size_limit_is_a_message(images, tmp_path):
    """The operating system refuses to write, inside calls of GDAL and Python."""
    arguments = [BIN / "skyfall-process", "images", "--images", *images, "--output-dir", tmp_path / "scene"]
    result = subprocess.run(
        [*map(str, arguments), *map(str, SQUARE), "--points", "sparse"],
        capture_output=True, text=True,
        preexec_fn=lambda: (signal.signal(signal.SIGXFSZ, signal.SIG_IGN),
                            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))),
    )  # fmt: skip
    assert result.returncode == 1 and result.stderr.startswith("Error: The file is larger than this disk allows: ")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs a directory without write permission")
def test_a_directory_without_write_permission_is_refused(call_command, images):
    code, _, err = call_command("images", "--images", *images, "--output-dir", "/sys/kernel/scene")
    assert code == 1 and "/sys/kernel" in err and err.count(". ") == 1 and "Traceback" not in err


def test_interrupted_runs_leave_no_files(images, tmp_path):
    command = [BIN / "skyfall-process", "images", "--images", *images, "--output-dir", tmp_path / "scene"]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert "Reading" in run.stdout.readline()
        run.send_signal(signal.SIGINT)
        _, err = run.communicate(timeout=60)
    assert run.returncode == 130 and err == "Error: Interrupted.\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["raw"]


def test_exit_code_and_message_of_the_installed_command(images, tmp_path):
    """In a process of its own: one message, no traceback."""
    result = subprocess.run(
        [BIN / "skyfall-process", "images", "--images", str(images[0]), "--output-dir", str(tmp_path / "scene")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 1 and result.stdout.startswith("- Reading")
    assert result.stderr == (
        "Error: Heights need at least two images, --images names 1. Add another view of the same place.\n"
    )
    assert not (tmp_path / "scene").exists()


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ((), ("images", "city")),
        (("images",), ("--images", "--output-dir", "--aoi", "--center LON LAT", "--size METERS", "--height-range")),
        (("images",), ("--camera", "--no-adjust", "--points {dense,sparse}", "--test-images", "--sun", "--force")),
        (("city",), ("--output-dir", "--size", "--views", "--seed", "--force")),
    ],
)
def test_help_is_fast_and_names_every_flag(arguments, flags):
    start = time.perf_counter()
    result = subprocess.run([BIN / "skyfall-process", *arguments, "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and time.perf_counter() - start < 5
    for flag in flags:
        assert flag in result.stdout


def test_a_synthetic_city(call_command, tmp_path, monkeypatch):
    monkeypatch.setattr(city_delivery, "OBLIQUE_PX", 48)
    flags = ("--size", 48, "--views", 5, "--seed", 2, "--points", "sparse")
    code, out, err = call_command("city", "--output-dir", tmp_path / "scene", *flags)
    assert code == 0 and err == "" and "Building the city" in out
    scene = Scene.from_directory(tmp_path / "scene")
    assert [i.split for i in scene.images] == ["train"] * 4 + ["test"]
    assert all(i.acquired and i.sun_deg and i.sun_direction for i in scene.images)
    assert len(list((tmp_path / "scene/raw").glob("*.tif"))) == 5
    assert {"dsm.tif", "oblique", "rpc"} <= {p.name for p in (tmp_path / "scene/truth").iterdir()}
    report = json.loads((tmp_path / "scene/report.json").read_text())
    assert report["adjustment"]["median_px_after"] < 0.3 < report["adjustment"]["median_px_before"]
    raw = sorted((tmp_path / "scene/raw").glob("*.tif"))
    code, _, err = call_command("images", "--images", *raw, "--output-dir", tmp_path / "scene", "--force")
    assert code == 1 and "which --force would delete" in err and raw[0].exists()


def test_a_hard_synthetic_city_of_two_views(call_command, tmp_path, monkeypatch):
    monkeypatch.setattr(city_delivery, "OBLIQUE_PX", 48)
    flags = ("--hard", "--size", 96, "--views", 2, "--points", "sparse")
    code, _, err = call_command("city", "--output-dir", tmp_path / "scene", *flags)
    assert code == 0 and err == ""
    scene = Scene.from_directory(tmp_path / "scene")
    assert [i.split for i in scene.images] == ["train"] * 2
    masks = [cv2.imread(str(tmp_path / "scene" / i.mask), cv2.IMREAD_GRAYSCALE) for i in scene.images if i.mask]
    assert max((mask == 0).mean() for mask in masks) > 0.08  # the vendor's cloud mask, and saturated roofs
    raw = read_raster(sorted((tmp_path / "scene/raw").glob("*.tif"))[0])
    assert raw.bands.dtype == np.uint8 and raw.nodata == 0


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--size", 5), "--size 5 is not possible for a city"),
        (("--views", 1), "--views 1 is not a possible number of views"),
    ],
)
def test_invalid_cities_are_refused(call_command, tmp_path, flags, message):
    code, _, err = call_command("city", "--output-dir", tmp_path / "scene", *flags)
    assert code == 1 and message in err and list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_kahramanmaras_within_time_and_memory(kahramanmaras, real_data, tmp_path):
    """Four raw images with RPC biases of 6 to 9 pixels between dates: the published numbers, on two cores."""
    arguments = ["images", "--images", *map(str, kahramanmaras), "--output-dir", str(tmp_path / "scene")]
    start = time.perf_counter()
    # On Linux the peak memory of a process starts at that of its parent, so a small process measures it.
    run = subprocess.run(
        [sys.executable, "-c", PEAK_MEMORY_PROGRAM, BIN / "skyfall-process", *arguments, "--points", "sparse"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.returncode == 0 and time.perf_counter() - start <= 60
    assert 1e5 < int(run.stdout.splitlines()[-1]) <= 2e6  # kB
    report = json.loads((tmp_path / "scene/report.json").read_text())
    adjustment = report["adjustment"]
    assert adjustment["tracks"] >= 800 and adjustment["median_px_before"] > 3 and adjustment["median_px_after"] <= 0.2
    assert report["heights_m"]["median"] == pytest.approx(710, abs=3)
    assert max(camera["fit_max_px"] for camera in report["cameras"].values()) <= 1e-3
    published = json.loads((real_data / "kahramanmaras_west/set.json").read_text())["images"]
    expected = np.array([image["bias_col_row_px"] for image in published])
    found = np.array([adjustment["shifts_px"][image["image"]] for image in published])
    np.testing.assert_allclose(found - found[0], expected - expected[0], atol=0.3)
    assert report["cameras"]["post_event_img2"]["acquired"] == "2023-04-15"


@pytest.mark.slow
def test_height_of_the_great_pyramid(call_command, real_data, tmp_path):
    """138.5 m above its base, from a pair with a convergence angle of only 4.6 degrees."""
    images = sorted((real_data / "giza_phr_pair/images").glob("*.tif"))
    apex_lonlat = transform("EPSG:32636", "EPSG:4326", [319996.25], [3317944.75])
    square = ("--center", *(v[0] for v in apex_lonlat), "--size", 300)
    assert call_command("images", "--images", *images, "--output-dir", tmp_path / "scene", *square)[0] == 0
    surface = read_raster(tmp_path / "scene/surface.tif")
    row, col = rowcol(surface.transform, 319996.25, 3317944.75)
    heights = surface.band_values()
    apex = np.nanmedian(heights[row - 4 : row + 5, col - 4 : col + 5])
    base = np.nanmedian(heights[row - 150 : row + 200, col + 240 : col + 260])  # east of it, on the plateau
    assert apex - base == pytest.approx(138.5, rel=0.1)


def test_a_crop_with_the_rpc_of_its_strip_is_refused(call_command, real_data, tmp_path):
    """The RPC in the .geom file beside it was not moved with the crop."""
    giza = real_data / "giza_phr_pair"
    files = [giza / "images/img1.tif", giza / "original/color1.tif"]
    code, _, err = call_command("images", "--images", *files, "--output-dir", tmp_path / "scene")
    assert (
        code == 1 and "do not overlap. " in err and "color1.tif: SAMP_OFF 20000 and LINE_OFF 6822 in 800 x 801" in err
    )
