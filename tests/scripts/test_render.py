"""`skyfall-render` on the command line: runs, PLY files, poses, depth, and what is refused."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.untrained_run import save_untrained_run

from skyfall_ns.scene.scene import Scene
from skyfall_ns.scripts import export, path, render


@pytest.fixture(scope="module")
def config(city_scene, tmp_path_factory) -> Path:
    """config.yml of a run without training steps."""
    yield save_untrained_run(city_scene, tmp_path_factory.mktemp("runs"))
    torch.set_grad_enabled(True)  # loading a run disables it


@pytest.fixture
def call(monkeypatch, capsys):
    """Run the `main` of a script; exit code and output or errors."""

    def run_main(script, *arguments):
        monkeypatch.setattr(sys, "argv", [script.__name__, *map(str, arguments)])
        try:
            script.main()
        except SystemExit as exit_error:
            return exit_error.code, capsys.readouterr().err
        return 0, capsys.readouterr().out

    return run_main


def make_path(call, config, output: Path, *flags) -> Path:
    code, message = call(path, *flags, "--load-config", config, "--output", output, "--width", 96, "--height", 64)
    assert code == 0, message
    return output


def project(frame: dict, data: dict, xyz: np.ndarray) -> tuple[np.ndarray, float]:
    """Column and row (first pixel: 0), and depth, of a point by frames.json."""
    pose = np.array(frame["transform_matrix"])
    x, y, z = (xyz - pose[:3, 3]) @ pose[:3, :3]
    return np.array([x * frame["fl_x"] / -z + data["cx"], -y * frame["fl_y"] / -z + data["cy"]]) - 0.5, -z


def test_runs_and_paths_are_rendered_with_depth_and_poses(call, config, city_scene, tmp_path):
    paths = [make_path(call, config, tmp_path / f"{name}.json", name, "--frames", 2) for name in ("orbit", "named")]
    code, out = call(render, "--load-config", config, "--camera-path", *paths, "--output-dir", tmp_path / "out",
                     "--depth")  # fmt: skip
    assert code == 0 and out.count("2 frames of 96 x 64 pixels") == 2
    directory = next((tmp_path / "out").iterdir()) / "orbit"
    data = json.loads((directory / "frames.json").read_text())
    scene = Scene.from_directory(city_scene)
    assert data["frame"] == scene.frame.to_dict() and data["generative"] is False and len(data["frames"]) == 2
    checked = 0
    points = np.array([[x, y, 0.0] for x in (-15, 0, 15) for y in (-15, 0, 15)])
    import rasterio

    with rasterio.open(city_scene / str(scene.surface)) as file:
        east, north = scene.frame.origin[0] + points[:, 0], scene.frame.origin[1] + points[:, 1]
        points[:, 2] = [value[0] for value in file.sample(np.stack([east, north], 1))]
    points[:, 2] -= scene.frame.origin[2]
    for frame in data["frames"]:
        depth = cv2.imread(str(directory / frame["depth_file_path"]), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(str(directory / frame["file_path"]))
        assert depth.dtype == np.float32 and image.shape == (64, 96, 3) and image.std() > 10
        for point in points:
            (column, row), distance = project(frame, data, point)
            rendered = depth[round(row), round(column)]
            checked += abs(rendered - distance) < 1.5
    assert checked >= 8


def test_our_ply_is_rendered_like_the_run(call, config, tmp_path):
    pytest.importorskip("gsply", reason="the extra `export` is not installed")
    orbit = make_path(call, config, tmp_path / "orbit.json", "orbit", "--frames", 1)
    call(export, "ply", "--load-config", config, "--output", tmp_path / "a/city.ply", "--kernel-pixel", 0)
    call(export, "ply", "--load-config", config, "--output", tmp_path / "b/city.ply", "--kernel-pixel", 0, "--crs",
         "EPSG:3035")  # fmt: skip
    call(render, "--load-config", config, "--camera-path", orbit, "--output-dir", tmp_path / "run")
    reference = cv2.imread(str(next((tmp_path / "run").rglob("rgb_00000.png")))).astype(float)
    for name in ("a", "b"):  # the placement beside the file says where it is
        code, out = call(render, "--ply", tmp_path / name / "city.ply", "--camera-path", orbit,
                         "--output-dir", tmp_path / name)  # fmt: skip
        assert code == 0, out
        image = cv2.imread(str(tmp_path / name / "city/orbit/rgb_00000.png"))
        assert np.abs(image - reference).mean() < 4.0 and reference.std() > 30


def test_a_ply_of_another_program_with_harmonics_is_rendered(call, tmp_path):
    """A red ball whose harmonics of degree one make it green from one side."""
    from plyfile import PlyData, PlyElement

    names = ["x", "y", "z", *(f"f_dc_{i}" for i in range(3)), *(f"f_rest_{i}" for i in range(9)), "opacity",
             *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]  # fmt: skip
    row = np.zeros(1, [(name, "f4") for name in names])
    row["f_dc_0"], row["opacity"], row["rot_0"] = 1.0, 4.0, 1.0
    row["f_rest_5"] = 2.0  # green, third harmonic: -x
    PlyData([PlyElement.describe(row, "vertex")]).write(str(tmp_path / "ball.ply"))
    frames = []
    for side in (1.0, -1.0):
        pose = np.array([[0, 0, side, 6 * side], [side, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]], float)
        frames.append({"camera_to_world": pose.reshape(-1).tolist(), "fov": 40.0, "aspect": 1})
    data = {"camera_path": frames, "render_width": 32, "render_height": 32, "fps": 2}
    (tmp_path / "path.json").write_text(json.dumps(data))
    code, out = call(render, "--ply", tmp_path / "ball.ply", "--camera-path", tmp_path / "path.json",
                     "--output-dir", tmp_path)  # fmt: skip
    assert code == 0, out
    images = [cv2.imread(str(tmp_path / f"ball/path/rgb_{i:05d}.png"))[16, 16].astype(float) for i in range(2)]
    assert images[0][1] > images[1][1] + 60 and abs(images[0][2] - images[1][2]) < 3  # seen from +x: direction is -x
    assert images[0][2] > 150


def test_an_older_checkpoint_is_rendered(call, config, tmp_path):
    orbit = make_path(call, config, tmp_path / "orbit.json", "orbit", "--frames", 1)
    code, _ = call(render, "--load-config", config, "--camera-path", orbit, "--output-dir", tmp_path, "--step", 0)
    assert code == 0
    code, err = call(render, "--load-config", config, "--camera-path", orbit, "--output-dir", tmp_path, "--step", 7)
    assert code == 1 and "has no checkpoint of step 7. Give one of its steps: 0." in err


@pytest.mark.parametrize("case", ["nothing", "both", "elsewhere", "no ply", "other ply", "file", "one keyframe"])
def test_bad_input_is_an_error_of_two_sentences(case, call, config, city_scene, tmp_path):
    orbit = make_path(call, config, tmp_path / "orbit.json", "orbit", "--frames", 1)
    arguments = {"--load-config": config, "--camera-path": orbit, "--output-dir": tmp_path / "out"}
    words = {
        "nothing": "Runs or a file are rendered", "both": "Runs or a file are rendered",
        "elsewhere": "shows the scene", "no ply": "does not exist", "other ply": "is not a PLY file of Gaussians",
        "file": "is a file", "one keyframe": "a path needs two",
    }[case]  # fmt: skip
    if case == "nothing":
        del arguments["--load-config"]
    elif case == "both":
        arguments["--ply"] = tmp_path / "a.ply"
    elif case == "elsewhere":
        data = json.loads(orbit.read_text())
        data["camera_path"][0]["camera_to_world"][3] += 500.0
        orbit.write_text(json.dumps(data))
    elif case in ("no ply", "other ply"):
        del arguments["--load-config"]
        arguments["--ply"] = tmp_path / "a.ply" if case == "no ply" else city_scene / "points.ply"
    elif case == "file":
        arguments["--output-dir"] = orbit
    else:
        orbit.write_text('{"keyframes": [{}], "camera_path": []}')
    code, err = call(render, *(word for pair in arguments.items() for word in pair))
    assert code == 1 and words in err and err.rstrip().count(". ") == 1
    assert not (tmp_path / "out").exists()
