"""`skyfall-path orbit` on the command line."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.scene.scene import Scene, SceneImage, Tone
from skyfall_ns.scripts import path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """config.yml of a run of 200 x 150 m around (10, -5), with one model unit per 100 m."""
    scene = tmp_path / "scene"
    scene.mkdir()
    (scene / "a.tif").touch()
    camera = AffineCamera(np.array([[2.0, 0, 0, 2], [0, -2.0, 0, 2]]), None, (4, 4))
    image = SceneImage("a", "a.tif", 4, 4, camera, Tone((0.0,), (1.0,)))
    box = np.array([[-90.0, -80.0, -5.0], [110.0, 70.0, 40.0]])
    Scene(LocalFrame("EPSG:32637", (3e5, 4e6, 700.0)), box, (image,), points=None).save_to(scene)
    config = tmp_path / "config.yml"
    config.write_text(f"pipeline: {{datamanager: {{data: ['{scene}']}}}}\n")
    transform = [[1, 0, 0, -10.0], [0, 1, 0, 5.0], [0, 0, 1, 0]]
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps({"transform": transform, "scale": 0.01}))
    return config


def call_command(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["skyfall-path", *map(str, arguments)])
    path.main()


def test_meters_are_converted_to_model_units(config, tmp_path, monkeypatch):
    out = tmp_path / "new" / "path.json"
    options = ("--radius", 300, "--elevation", 30, "--frames", 4, "--width", 320, "--height", 180, "--fps", 2)
    call_command(monkeypatch, "orbit", "--load-config", config, "--output", out, *options)
    data = json.loads(out.read_text())
    assert (data["render_width"], data["render_height"], data["seconds"]) == (320, 180, 2.0)
    poses = np.array([frame["camera_to_world"] for frame in data["camera_path"]]).reshape(-1, 4, 4)
    np.testing.assert_allclose(poses[0, :3, 3], [0, -3 * np.cos(np.radians(30)), 1.5], atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(poses[:, :3, 3], axis=1), 3.0)


def test_by_default_the_scene_fills_the_image(config, tmp_path, monkeypatch):
    call_command(monkeypatch, "orbit", "--load-config", config, "--output", tmp_path / "path.json")
    data = json.loads((tmp_path / "path.json").read_text())
    assert len(data["camera_path"]) == 120 and data["seconds"] == 4.0
    distance = np.linalg.norm(np.reshape(data["camera_path"][7]["camera_to_world"], (4, 4))[:3, 3])
    assert distance == pytest.approx(1.25 / np.tan(np.radians(25)))


@pytest.mark.parametrize(
    "options", [("--elevation", 0), ("--elevation", 120), ("--radius", -1), ("--fov", 180), ("--frames", 0)]
)
def test_invalid_values_are_an_error_of_two_sentences(options, config, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as exit_info:
        call_command(monkeypatch, "orbit", "--load-config", config, "--output", tmp_path / "path.json", *options)
    message = capsys.readouterr().err
    assert exit_info.value.code == 1 and options[0] in message and message.count(". ") == 1
    assert not (tmp_path / "path.json").exists()


def test_the_target_and_google_earth_altitudes_place_the_cameras(config, tmp_path, monkeypatch):
    frame = LocalFrame("EPSG:32637", (3e5, 4e6, 700.0))
    lon, lat, height = frame.to_geodetic(np.array([40.0, 15.0, 12.0]))
    call_command(monkeypatch, "orbit", "--load-config", config, "--output", tmp_path / "path.json", "--radius", 300,
                 "--ges", 50, 450, "--frames", 3, "--target", lon, lat, height)  # fmt: skip
    poses = np.array([f["camera_to_world"] for f in json.loads((tmp_path / "path.json").read_text())["camera_path"]])
    eye = poses.reshape(-1, 4, 4)[:, :3, 3] * 100 - [-10.0, 5.0, 0.0] - [40.0, 15.0, 12.0]
    np.testing.assert_allclose(np.hypot(eye[:, 0], eye[:, 1]), 300.0, atol=1e-3)
    np.testing.assert_allclose(eye[:, 2], 400.0, atol=1e-3)


@pytest.mark.parametrize("shape", ["spiral", "grid", "flyover", "named"])
def test_every_shape_is_read_by_nerfstudio(shape, config, tmp_path, monkeypatch):
    from nerfstudio.cameras.camera_paths import get_path_from_json

    call_command(monkeypatch, shape, "--load-config", config, "--output", tmp_path / "path.json")
    data = json.loads((tmp_path / "path.json").read_text())
    assert len(get_path_from_json(data)) == len(data["camera_path"]) > 10
    assert data["skyfall_georeference"]["frame"]["crs"] == "EPSG:32637"


def test_paths_of_skyfall_gs_come_back(config, tmp_path, monkeypatch):
    ours, theirs, again = (tmp_path / f"{name}.json" for name in ("ours", "theirs", "again"))
    call_command(monkeypatch, "named", "--load-config", config, "--output", ours, "--frames", 4)
    call_command(monkeypatch, "to-skyfall-gs", "--input", ours, "--load-config", config, "--output", theirs)
    call_command(monkeypatch, "from-skyfall-gs", "--input", theirs, "--load-config", config, "--output", again)
    first, second = (
        np.array([f["camera_to_world"] for f in json.loads(p.read_text())["camera_path"]]) for p in (ours, again)
    )
    np.testing.assert_allclose(second, first, atol=1e-5)
    enu = np.array(json.loads(theirs.read_text())["camera_path"][0]["camera_to_world"]).reshape(4, 4)
    turn = np.degrees(np.arctan2(enu[1, 3], enu[0, 3]))
    assert 0.5 < abs(turn) < 3  # east of the frame is not true east: the meridian convergence


def test_a_line_of_geojson_is_flown(config, tmp_path, monkeypatch):
    frame = LocalFrame("EPSG:32637", (3e5, 4e6, 700.0))
    line = [frame.to_geodetic(np.array(point)).tolist()[:2] for point in ([-80.0, -60, 0], [100.0, 60, 0])]
    (tmp_path / "line.json").write_text(json.dumps({"type": "LineString", "coordinates": line}))
    call_command(monkeypatch, "from-geojson", "--input", tmp_path / "line.json", "--load-config", config,
                 "--output", tmp_path / "path.json", "--frames", 5, "--above-ground", 60)  # fmt: skip
    data = json.loads((tmp_path / "path.json").read_text())
    eyes = np.array([f["camera_to_world"] for f in data["camera_path"]]).reshape(-1, 4, 4)[:, :3, 3]
    np.testing.assert_allclose(eyes[0], [-0.9, -0.55, 0.6], atol=1e-5)
    call_command(monkeypatch, "to-kml", "--input", tmp_path / "path.json", "--output", tmp_path / "path.kml")
    assert (tmp_path / "path.kml").read_text().count("<Camera>") == 5


def test_a_path_that_shows_nothing_is_refused(config, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit):
        call_command(monkeypatch, "orbit", "--load-config", config, "--output", tmp_path / "path.json", "--radius", 50,
                     "--target", 38.0, 36.0, 700.0)  # fmt: skip
    message = capsys.readouterr().err
    assert "No frame of the path shows the scene. Move" in message and not (tmp_path / "path.json").exists()
