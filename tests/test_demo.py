"""The demo on a smaller city: every command succeeds and the page shows the results."""

import importlib.util
import json
import re
import shutil

import pytest
from helpers.commands import run_command
from PIL import Image

from skyfall_ns.errors import MissingExtraError
from skyfall_ns.scripts.demo import Demo

pytestmark = [pytest.mark.slow, pytest.mark.process]


def test_demo_writes_all_results(tmp_path):
    directory = tmp_path / "demo"
    result = run_command(
        "skyfall-demo", "--output-dir", directory, "--size", 96, "--views", 6, "--steps", 120, "--frames", 4
    )
    assert result.stdout.count("\n$ ") == 9
    page = (directory / "index.html").read_text()
    images = re.findall(r"src='([^']+)'", page)
    assert len(images) >= 6
    for image in images:
        assert Image.open(directory / image).size[0] > 90, image
    assert Image.open(directory / "flight.webp").n_frames == 4
    scores = json.loads((directory / "dsm.json").read_text())
    assert scores["registered"]["median_m"] < 0.4
    assert json.loads((directory / "images.json").read_text())["results"]["psnr"] > 16
    assert (directory / "export/splat.ply").stat().st_size > 100_000
    second_run = run_command("skyfall-demo", "--output-dir", directory, check=False)
    assert second_run.returncode == 1 and "exists already" in second_run.stderr


def test_a_missing_ffmpeg_is_an_error_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"ffmpeg, which is missing\. Run pip install 'skyfall-ns\[video\]'\."):
        Demo(tmp_path / "demo").main()
    assert not list(tmp_path.iterdir())
