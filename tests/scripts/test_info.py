"""`skyfall-info` on the command line: contents of a scene, pixels of points, and damaged scenes."""

import json
import os
import platform
import re
import subprocess
import sys

import numpy as np
import pytest
from helpers.commands import BIN
from helpers.vendor_files import GROUND_M, LAT, LEANS, LON, vendor_rpc, write_vendor_images

from skyfall_ns.models.rasterizers import cuda_toolkit
from skyfall_ns.processing.area_of_interest import AreaOfInterest
from skyfall_ns.processing.options import ProcessingOptions
from skyfall_ns.processing.process import process_scene
from skyfall_ns.scripts import _system, info

POINT = (LON + 1e-4, LAT - 1e-4, GROUND_M + 7.5)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    directory = tmp_path_factory.mktemp("info")
    (directory / "scene").mkdir()
    area = AreaOfInterest(center=(LON, LAT), size_m=60.0)
    options = ProcessingOptions(area=area, points="sparse", test_images=("view_3",))
    process_scene(write_vendor_images(directory / "raw")[:3], directory / "scene", options, lambda text: None)
    return directory / "scene"


@pytest.fixture
def call_command(monkeypatch, capsys):
    """Run the command; its standard output, or its error message."""

    def run_info(*arguments):
        monkeypatch.setattr(sys, "argv", ["skyfall-info", *map(str, arguments)])
        try:
            info.main()
        except SystemExit as exit_error:
            assert exit_error.code == 1
            captured = capsys.readouterr()
            assert captured.out == ""
            return captured.err
        return capsys.readouterr().out

    return run_info


def test_pixels_of_a_point_are_those_of_the_adjusted_rpc_and_the_camera(scene, call_command):
    answer = json.loads(call_command(scene, "--at", *POINT, "--json"))
    stored = json.loads((scene / "scene.json").read_text())
    assert list(answer["images"]) == ["view_1", "view_2", "view_3"]
    for image, lean in zip(stored["images"], LEANS, strict=False):
        expected = vendor_rpc(lean).project(np.array(POINT)) + image["shift_px"] - image["crop_px"]
        found = answer["images"][image["name"]]
        np.testing.assert_allclose(found["rpc"], expected, atol=1e-6)
        np.testing.assert_allclose(found["camera"], expected, atol=1e-3)
        assert found["inside"] is True
    assert answer["local_m"][2] == pytest.approx(POINT[2] - stored["frame"]["origin"][2])
    distant = json.loads(call_command(scene, "--at", LON + 1, LAT, GROUND_M, "--json"))
    assert not any(image["inside"] for image in distant["images"].values())


def test_text_has_the_same_pixels_as_json(scene, call_command):
    answer = json.loads(call_command(scene, "--at", *POINT, "--json"))
    text = call_command(scene, "--at", *POINT)
    for name, image in answer["images"].items():
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert "{:.3f}, {:.3f}".format(*image["rpc"]) in line and "outside" not in line
    assert call_command(scene, "--at", LON + 1, LAT, GROUND_M).count("outside") == 3
    assert call_command(scene, "--at", -60, -10.5, -3).count("outside") == 3  # negative numbers are not flags


def test_description_of_a_scene(scene, call_command):
    answer = json.loads(call_command(scene, "--json"))
    assert answer["crs"] == "EPSG:32636" and answer["surface"] is None
    np.testing.assert_allclose(answer["center_lonlath"][:2], [LON, LAT], atol=1e-6)
    np.testing.assert_allclose(answer["size_m"][:2], 60, atol=0.1)
    np.testing.assert_allclose(answer["heights_m"], [GROUND_M - 10, GROUND_M + 60], atol=0.2)  # from tie points alone
    image = answer["images"]["view_3"]
    assert image["split"] == "test" and image["gsd_m"] == pytest.approx(0.5, rel=0.01)
    text = call_command(scene)
    for words in ("60 x 60 m", "EPSG:32636", "view_1", "quadratic", "test"):
        assert words in text


@pytest.mark.parametrize(
    ("at", "message"),
    [
        ((200, 45, 100), "is not a point on Earth"),
        ((33, -91, 1), "is not a point"),
        ((33, 45, "nan"), "is not a point"),
    ],
)
def test_invalid_points_are_refused(scene, call_command, at, message):
    assert message in call_command(scene, "--at", *at)


def test_missing_and_damaged_scenes_are_refused(scene, call_command, tmp_path):
    assert "There is no scene at" in call_command(tmp_path)
    (tmp_path / "scene.json").write_text((scene / "scene.json").read_text()[:-100])
    assert "is damaged" in call_command(tmp_path)
    (tmp_path / "scene.json").write_text((scene / "scene.json").read_text().replace('"version": 2', '"version": 3'))
    assert "has version 3, this program reads version 2. Update skyfall-ns." in call_command(tmp_path)
    (tmp_path / "scene.json").write_text((scene / "scene.json").read_text())
    assert "is missing. Run skyfall-process again" in call_command(tmp_path)


@pytest.mark.parametrize("key_path", ["frame.crs", "frame.origin", "images.0.rpc", "images.0.rpc.lat_scale",
                                  "images.0.rpc.line_num_coeff", "images.0.camera.quadratic", "images.0.camera.fit_px",
                                  "images.0.sun_deg", "images.0.acquired", "images.0.shift_px"])  # fmt: skip
@pytest.mark.parametrize("value", ["x", "EPSG:4326", -1, [], {}, [1, 2, 3], 1e999])
def test_damaged_values_are_an_error_message_or_are_not_used(
    scene, call_command, tmp_path, monkeypatch, key_path, value
):
    data = json.loads((scene / "scene.json").read_text())
    *path, last = (int(p) if p.isdigit() else p for p in key_path.split("."))
    node = data
    for key in path:
        node = node[key]
    node[last] = value
    (tmp_path / "scene.json").write_text(json.dumps(data))
    monkeypatch.setattr("skyfall_ns.scene.scene._referenced_files", lambda scene: [])
    for arguments in ((), ("--at", *POINT)):
        answer = call_command(tmp_path, *arguments)
        assert "view_2" in answer or (answer.startswith("Error: ") and answer.count(". ") >= 1), answer


def test_a_closed_pipe_is_not_an_error(scene):
    command = f"{BIN}/skyfall-info {scene} --json | true; echo ${{PIPESTATUS[0]}}"
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=buffered)
    assert result.stderr == "" and result.stdout.strip() in ("0", "141")


def test_a_refiner_without_its_weights_is_described_with_what_is_missing(call_command, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", "/nonexistent")
    answer = json.loads(call_command("--refiner", "flowedit", "--json"))
    assert answer["generative"] and answer["identity"] == {} and "is not on this machine" in answer["lacks"]
    assert "cannot run here: " in call_command("--refiner", "flowedit")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'skyfall-ns[diffusion]'" in call_command("--refiner", "flowedit")


def test_the_machine_is_described(call_command, monkeypatch):
    answer = json.loads(call_command("--system", "--json"))
    assert answer["python"] == platform.python_version() and answer["versions"]["gsplat"] == "1.4.0"
    assert set(answer["extras"]) == {"cuda", "depth", "diffusion", "video"} and answer["extras"]["depth"] == []
    text = call_command("--system")
    assert re.search(r"^device +CPU$", text, re.M) or answer["devices"]


def test_a_bare_machine_is_described_with_what_to_install_and_for_what(call_command, monkeypatch):
    monkeypatch.setattr(cuda_toolkit, "find_packaged_toolkit", lambda: None)
    monkeypatch.setattr(cuda_toolkit, "missing_compilers", lambda: ["nvcc", "ninja"])
    monkeypatch.setattr(cuda_toolkit, "is_compiled", lambda: False)
    monkeypatch.setattr(cuda_toolkit, "find_compiler", lambda: None)
    monkeypatch.setattr(_system.importlib.util, "find_spec", lambda name: None)
    gpu = {"name": "Some GPU", "capability": "9.0", "free_bytes": 8 * 2**30, "total_bytes": 10 * 2**30}
    monkeypatch.setattr(_system, "_has_cuda", lambda: True)
    monkeypatch.setattr(_system, "_describe_device", lambda index: gpu)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    text = call_command("--system")
    assert "Some GPU, compute capability 9.0, 8.0 of 10.0 GiB free" in text and re.search("^nvcc +none$", text, re.M)
    assert "Run `pip install 'skyfall-ns[cuda]'`, so that gsplat can render on the GPU." in text
    assert "pip install 'skyfall-ns[depth]' for learned depth priors" in text
    assert "extra diffusion     missing diffusers, transformers, accelerate" in text


def test_only_one_thing_is_described(call_command, scene):
    assert "describes one scene, one refiner or the machine. Give" in call_command(scene, "--system")
    assert "--at needs the images of a scene" in call_command("--system", "--at", 1, 2, 3)
