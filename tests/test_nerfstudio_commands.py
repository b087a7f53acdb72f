"""The host's commands as a user runs them: train, resume, eval, render, export, viewer; one small run for all."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from skyfall_ns.geo.raster import read_raster
from skyfall_ns.io.ply import read_ply

BIN = Path(sys.executable).parent
STEPS = 60


def run(*command: object, check: bool = True) -> subprocess.CompletedProcess:
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}
    arguments = [str(BIN / str(command[0])), *map(str, command[1:])]
    result = subprocess.run(arguments, capture_output=True, text=True, env=env, timeout=600)
    if check:
        assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result


@pytest.fixture(scope="module")
def trained(city_scene, tmp_path_factory) -> Path:
    """config.yml of a short run."""
    out = tmp_path_factory.mktemp("runs")
    run(
        "ns-train", "skyfall", "--data", city_scene, "--output-dir", out, "--experiment-name", "small",
        "--timestamp", "first", "--vis", "tensorboard", "--max-num-iterations", STEPS, "--steps-per-save", 20,
    )  # fmt: skip
    return out / "small/skyfall/first/config.yml"


def checkpoints(config: Path) -> list[str]:
    return sorted(p.name for p in (config.parent / "nerfstudio_models").iterdir())


def test_training_ends_with_one_whole_checkpoint(trained):
    assert checkpoints(trained) == [f"step-{STEPS - 1:09d}.ckpt"]
    assert json.loads((trained.parent / "dataparser_transforms.json").read_text())["scale"] == 0.01


def test_eval_scores_the_held_out_image(trained, tmp_path):
    run("ns-eval", "--load-config", trained, "--output-path", tmp_path / "scores.json")
    results = json.loads((tmp_path / "scores.json").read_text())["results"]
    assert results["psnr"] > 15 and 0.2 < results["ssim"] < 1


def test_resume_continues_to_the_total(trained, city_scene):
    result = run(
        "ns-train", "skyfall", "--data", city_scene, "--output-dir", trained.parents[3], "--experiment-name", "small",
        "--timestamp", "second", "--vis", "tensorboard", "--max-num-iterations", STEPS + 20,
        "--load-dir", trained.parent / "nerfstudio_models",
    )  # fmt: skip
    assert "Done loading" in result.stdout
    assert checkpoints(trained.parent.with_name("second") / "config.yml") == [f"step-{STEPS + 19:09d}.ckpt"]


def test_render_a_camera_path_and_the_dataset(trained, tmp_path):
    run("skyfall-path", "orbit", "--load-config", trained, "--output", tmp_path / "path.json", "--frames", 3,
        "--width", 96, "--height", 64)  # fmt: skip
    run("ns-render", "camera-path", "--load-config", trained, "--camera-path-filename", tmp_path / "path.json",
        "--output-path", tmp_path / "frames", "--output-format", "images")  # fmt: skip
    frames = sorted((tmp_path / "frames").glob("*.jpg"))
    assert len(frames) == 3 and all(f.stat().st_size > 500 for f in frames)
    run("ns-render", "dataset", "--load-config", trained, "--output-path", tmp_path / "images", "--split", "test",
        "--rendered-output-names", "rgb")  # fmt: skip
    assert len(list((tmp_path / "images").rglob("*.jpg"))) == 1


def test_interpolated_video(trained, tmp_path):
    run("ns-render", "interpolate", "--load-config", trained, "--output-path", tmp_path / "flight.mp4",
        "--interpolation-steps", 2, "--pose-source", "train")  # fmt: skip
    assert (tmp_path / "flight.mp4").stat().st_size > 1000


def test_export_of_gaussians_lands_in_the_scene(trained, tmp_path):
    run("ns-export", "gaussian-splat", "--load-config", trained, "--output-dir", tmp_path)
    header = (tmp_path / "splat.ply").read_bytes()[:2000].decode("ascii", "ignore")
    count = int(re.search(r"element vertex (\d+)", header)[1])
    assert count > 1000 and "f_dc_0" in header and "rot_3" in header


def test_dsm_export_is_close_to_the_truth(trained, city_scene, tmp_path):
    run("skyfall-export", "dsm", "--load-config", trained, "--output", tmp_path / "dsm.tif")
    run("skyfall-eval", "dsm", tmp_path / "dsm.tif", city_scene / "truth/dsm.tif", "--json", tmp_path / "dsm.json")
    scores = json.loads((tmp_path / "dsm.json").read_text())
    assert scores["registered"]["median_m"] < 0.5
    assert scores["completeness"] > 0.6  # sixty steps leave splats faint
    assert np.hypot(*scores["shift_m"][:2]) < 8


def test_dsm_export_writes_its_evidence(trained, tmp_path):
    run("skyfall-export", "dsm", "--load-config", trained, "--output", tmp_path / "dsm.tif", "--resolution", 1,
        "--unmatched", "nodata", "--mask", tmp_path / "mask.tif", "--sigma", tmp_path / "new/sigma.tif")  # fmt: skip
    height, mask, sigma = (read_raster(tmp_path / f"{name}.tif") for name in ("dsm", "mask", "new/sigma"))
    known = np.isfinite(height.values())
    np.testing.assert_array_equal(known, mask.bands[0] == 1)
    assert known.mean() > 0.4 and (np.isfinite(sigma.values()) == known).all() and (sigma.values()[known] > 0).all()
    assert height.transform == mask.transform == sigma.transform


def test_dsm_export_into_a_folder_is_one_message(tmp_path):
    result = run("skyfall-export", "dsm", "--load-config", tmp_path / "config.yml", "--output", tmp_path / "dsm.tif",
                 "--mask", tmp_path, check=False)  # fmt: skip
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr == f"Error: --mask {tmp_path} is a folder. Give the name of a file in it.\n"


def test_viewer_answers_on_this_machine_only(trained):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [BIN / "ns-viewer", "--load-config", trained, "--viewer.websocket-port", str(port),
         "--viewer.websocket-host", "127.0.0.1"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 180
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5) as page:
                    assert page.status == 200
                break
            except OSError:
                assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()[-2000:]
                time.sleep(1)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)


def test_bad_input_is_one_message(city_scene, tmp_path):
    result = run("ns-train", "skyfall", "--data", tmp_path / "nothing", "--output-dir", tmp_path, "--vis",
                 "tensorboard", check=False)  # fmt: skip
    assert result.returncode == 1
    assert "There is no scene at" in result.stderr and "Traceback" not in result.stderr
    assert read_ply(city_scene / "points.ply").xyz_m.shape[1] == 3
