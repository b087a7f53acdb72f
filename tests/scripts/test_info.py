"""`skyfall-info` as people call it: what a scene holds, where points appear, scenes that cannot be read."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.vendor_files import GROUND_M, LAT, LEANS, LON, deliver, vendor_rpc

from skyfall_ns.processing.area_of_interest import Area
from skyfall_ns.processing.process import Options, prepare
from skyfall_ns.scripts import info

BIN = Path(sys.executable).parent
POINT = (LON + 1e-4, LAT - 1e-4, GROUND_M + 7.5)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    folder = tmp_path_factory.mktemp("info")
    (folder / "scene").mkdir()
    options = Options(area=Area(center=(LON, LAT), size_m=60.0), points="sparse", test_images=("view_3",))
    prepare(deliver(folder / "raw")[:3], folder / "scene", options, lambda text: None)
    return folder / "scene"


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the command; its standard output, or its error message."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["skyfall-info", *map(str, arguments)])
        try:
            info.main()
        except SystemExit as exit:
            assert exit.code == 1
            captured = capsys.readouterr()
            assert captured.out == ""
            return captured.err
        return capsys.readouterr().out

    return run


def test_a_point_appears_where_the_adjusted_rpc_and_the_camera_say(scene, call):
    answer = json.loads(call(scene, "--at", *POINT, "--json"))
    stored = json.loads((scene / "scene.json").read_text())
    assert list(answer["images"]) == ["view_1", "view_2", "view_3"]
    for image, lean in zip(stored["images"], LEANS, strict=False):
        expected = vendor_rpc(lean).project(np.array(POINT)) + image["shift_px"] - image["crop_px"]
        told = answer["images"][image["name"]]
        np.testing.assert_allclose(told["rpc"], expected, atol=1e-6)
        np.testing.assert_allclose(told["camera"], expected, atol=1e-3)
        assert told["inside"] is True
    assert answer["local_m"][2] == pytest.approx(POINT[2] - stored["frame"]["origin"][2])
    far = json.loads(call(scene, "--at", LON + 1, LAT, GROUND_M, "--json"))
    assert not any(image["inside"] for image in far["images"].values())


def test_the_same_as_text(scene, call):
    answer = json.loads(call(scene, "--at", *POINT, "--json"))
    text = call(scene, "--at", *POINT)
    for name, image in answer["images"].items():
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert "{:.3f}, {:.3f}".format(*image["rpc"]) in line and "outside" not in line
    assert call(scene, "--at", LON + 1, LAT, GROUND_M).count("outside") == 3
    assert call(scene, "--at", -60, -10.5, -3).count("outside") == 3  # numbers with a sign are no flags


def test_description(scene, call):
    answer = json.loads(call(scene, "--json"))
    assert answer["crs"] == "EPSG:32636" and answer["surface"] is None
    np.testing.assert_allclose(answer["center_lonlath"][:2], [LON, LAT], atol=1e-6)
    np.testing.assert_allclose(answer["size_m"][:2], 60, atol=0.1)
    np.testing.assert_allclose(answer["heights_m"], [GROUND_M - 10, GROUND_M + 60], atol=0.2)  # ties alone
    image = answer["images"]["view_3"]
    assert image["split"] == "test" and image["gsd_m"] == pytest.approx(0.5, rel=0.01)
    text = call(scene)
    for words in ("60 x 60 m", "EPSG:32636", "view_1", "quadratic", "test"):
        assert words in text


@pytest.mark.parametrize(
    ("at", "message"),
    [((200, 45, 100), "is no point of the Earth"), ((33, -91, 1), "is no point"), ((33, 45, "nan"), "is no point")],
)
def test_points_that_are_nowhere(scene, call, at, message):
    assert message in call(scene, "--at", *at)


def test_scenes_that_cannot_be_read(scene, call, tmp_path):
    assert "There is no scene at" in call(tmp_path)
    (tmp_path / "scene.json").write_text((scene / "scene.json").read_text()[:-100])
    assert "is damaged" in call(tmp_path)
    (tmp_path / "scene.json").write_text((scene / "scene.json").read_text().replace('"version": 2', '"version": 3'))
    assert "has version 3, this program reads version 2. Update skyfall-ns." in call(tmp_path)
    (tmp_path / "scene.json").write_text((scene / "scene.json").read_text())
    assert "is missing. Run skyfall-process again" in call(tmp_path)


@pytest.mark.parametrize("spot", ["frame.crs", "frame.origin", "images.0.rpc", "images.0.rpc.lat_scale",
                                  "images.0.rpc.line_num_coeff", "images.0.camera.quadratic", "images.0.camera.fit_px",
                                  "images.0.sun_deg", "images.0.acquired", "images.0.shift_px"])  # fmt: skip
@pytest.mark.parametrize("odd", ["x", "EPSG:4326", -1, [], {}, [1, 2, 3], 1e999])
def test_whatever_is_damaged_is_told_in_words(scene, call, tmp_path, monkeypatch, spot, odd):
    data = json.loads((scene / "scene.json").read_text())
    *path, last = (int(p) if p.isdigit() else p for p in spot.split("."))
    place = data
    for key in path:
        place = place[key]
    place[last] = odd
    (tmp_path / "scene.json").write_text(json.dumps(data))
    monkeypatch.setattr("skyfall_ns.scene.scene._files", lambda scene: [])
    for arguments in ((), ("--at", *POINT)):
        told = call(tmp_path, *arguments)
        assert "view_2" in told or (told.startswith("Error: ") and told.count(". ") >= 1), told


def test_a_reader_that_has_seen_enough_is_no_error(scene):
    command = f"{BIN}/skyfall-info {scene} --json | true; echo ${{PIPESTATUS[0]}}"
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=buffered)
    assert done.stderr == "" and done.stdout.strip() in ("0", "141")
