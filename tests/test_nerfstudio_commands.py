"""Commands of Nerfstudio on a small run: train, resume, eval, render, export, viewer."""

import json
import re
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from helpers.commands import BIN, run_command

from skyfall_ns.geo.raster import read_raster
from skyfall_ns.io.ply import read_ply

pytestmark = [pytest.mark.slow, pytest.mark.process]

STEPS = 60


@pytest.fixture(scope="module")
def config(city_scene, tmp_path_factory) -> Path:
    """config.yml of a short run."""
    output_dir = tmp_path_factory.mktemp("runs")
    run_command(
        "ns-train", "skyfall", "--data", city_scene, "--output-dir", output_dir, "--experiment-name", "small",
        "--timestamp", "first", "--vis", "tensorboard", "--max-num-iterations", STEPS, "--steps-per-save", 20,
    )  # fmt: skip
    return output_dir / "small/skyfall/first/config.yml"


def checkpoint_names(config_path: Path) -> list[str]:
    return sorted(p.name for p in (config_path.parent / "nerfstudio_models").iterdir())


def test_training_ends_with_one_complete_checkpoint(config):
    assert checkpoint_names(config) == [f"step-{STEPS - 1:09d}.ckpt"]
    assert json.loads((config.parent / "dataparser_transforms.json").read_text())["scale"] == 0.01


def test_eval_scores_the_held_out_image(config, tmp_path):
    run_command("ns-eval", "--load-config", config, "--output-path", tmp_path / "scores.json")
    results = json.loads((tmp_path / "scores.json").read_text())["results"]
    assert results["psnr"] > 15 and 0.2 < results["ssim"] < 1


def test_resume_continues_to_the_total(config, city_scene):
    result = run_command(
        "ns-train", "skyfall", "--data", city_scene, "--output-dir", config.parents[3], "--experiment-name", "small",
        "--timestamp", "second", "--vis", "tensorboard", "--max-num-iterations", STEPS + 20,
        "--load-dir", config.parent / "nerfstudio_models",
    )  # fmt: skip
    assert "Done loading" in result.stdout
    assert checkpoint_names(config.parent.with_name("second") / "config.yml") == [f"step-{STEPS + 19:09d}.ckpt"]


def test_render_a_camera_path_and_the_dataset(config, tmp_path):
    run_command("skyfall-path", "orbit", "--load-config", config, "--output", tmp_path / "path.json", "--frames", 3,
        "--width", 96, "--height", 64)  # fmt: skip
    run_command("ns-render", "camera-path", "--load-config", config, "--camera-path-filename", tmp_path / "path.json",
        "--output-path", tmp_path / "frames", "--output-format", "images")  # fmt: skip
    frames = sorted((tmp_path / "frames").glob("*.jpg"))
    assert len(frames) == 3 and all(f.stat().st_size > 500 for f in frames)
    run_command("ns-render", "dataset", "--load-config", config, "--output-path", tmp_path / "images",
                "--split", "test", "--rendered-output-names", "rgb")  # fmt: skip
    assert len(list((tmp_path / "images").rglob("*.jpg"))) == 1


def test_interpolated_video(config, tmp_path):
    run_command("ns-render", "interpolate", "--load-config", config, "--output-path", tmp_path / "flight.mp4",
        "--interpolation-steps", 2, "--pose-source", "train")  # fmt: skip
    assert (tmp_path / "flight.mp4").stat().st_size > 1000


def test_nerfstudio_export_writes_a_ply(config, tmp_path):
    run_command("ns-export", "gaussian-splat", "--load-config", config, "--output-dir", tmp_path)
    header = (tmp_path / "splat.ply").read_bytes()[:2000].decode("ascii", "ignore")
    count = int(re.search(r"element vertex (\d+)", header)[1])
    assert count > 1000 and "f_dc_0" in header and "rot_3" in header
    placement = json.loads((tmp_path / "placement.json").read_text())["files"]["splat.ply"]
    assert placement["unit_m"] == 100.0 and placement["crs"].startswith("EPSG:326") and not placement["generative"]


def test_exports_that_need_perspective_cameras_name_ours(config, tmp_path):
    result = run_command("ns-export", "tsdf", "--load-config", config, "--output-dir", tmp_path, check=False)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    message = result.stderr[result.stderr.index("Error: ns-export tsdf does not work on satellite images. ") :]
    assert "Use skyfall-export mesh --load-config" in message and message.count(". ") == 1


def test_dsm_export_is_close_to_the_truth(config, city_scene, tmp_path):
    run_command("skyfall-export", "dsm", "--load-config", config, "--output", tmp_path / "dsm.tif")
    run_command(
        "skyfall-eval", "dsm", tmp_path / "dsm.tif", city_scene / "truth/dsm.tif", "--json", tmp_path / "dsm.json"
    )
    scores = json.loads((tmp_path / "dsm.json").read_text())
    assert scores["registered"]["median_m"] < 0.5
    assert scores["completeness"] > 0.6  # after sixty steps the Gaussians are still faint
    assert np.hypot(*scores["shift_m"][:2]) < 8


def test_dsm_export_writes_mask_and_sigma(config, tmp_path):
    run_command("skyfall-export", "dsm", "--load-config", config, "--output", tmp_path / "dsm.tif", "--resolution", 1,
        "--unmatched", "nodata", "--mask", tmp_path / "mask.tif", "--sigma", tmp_path / "new/sigma.tif")  # fmt: skip
    height, mask, sigma = (read_raster(tmp_path / f"{name}.tif") for name in ("dsm", "mask", "new/sigma"))
    known = np.isfinite(height.band_values())
    np.testing.assert_array_equal(known, mask.bands[0] == 1)
    assert (
        known.mean() > 0.4
        and (np.isfinite(sigma.band_values()) == known).all()
        and (sigma.band_values()[known] > 0).all()
    )
    assert height.transform == mask.transform == sigma.transform


def test_dsm_export_into_a_directory_is_one_message(tmp_path):
    result = run_command("skyfall-export", "dsm", "--load-config", tmp_path / "config.yml",
                         "--output", tmp_path / "dsm.tif", "--mask", tmp_path, check=False)  # fmt: skip
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert result.stderr == f"Error: --mask {tmp_path} is a directory. Give the name of a file in it.\n"


def test_viewer_listens_on_this_machine_only(config):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [BIN / "ns-viewer", "--load-config", config, "--viewer.websocket-port", str(port),
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
    result = run_command("ns-train", "skyfall", "--data", tmp_path / "nothing", "--output-dir", tmp_path, "--vis",
                 "tensorboard", check=False)  # fmt: skip
    assert result.returncode == 1
    assert "There is no scene at" in result.stderr and "Traceback" not in result.stderr
    assert read_ply(city_scene / "points.ply").xyz_m.shape[1] == 3
