"""The demo as a newcomer runs it, on a smaller city: every command succeeds and the page shows what they made."""

import importlib.util
import json
import re
import shutil

import pytest
from PIL import Image
from test_cli_host import run

from skyfall_ns.errors import MissingExtraError
from skyfall_ns.scripts.demo import Demo


def test_demo(tmp_path):
    folder = tmp_path / "demo"
    result = run("skyfall-demo", "--output-dir", folder, "--size", 96, "--views", 6, "--steps", 120, "--frames", 4)
    assert result.stdout.count("\n$ ") == 9
    page = (folder / "index.html").read_text()
    pictures = re.findall(r"src='([^']+)'", page)
    assert len(pictures) >= 6
    for picture in pictures:
        assert Image.open(folder / picture).size[0] > 90, picture
    assert Image.open(folder / "flight.webp").n_frames == 4
    scores = json.loads((folder / "dsm.json").read_text())
    assert scores["registered"]["median_m"] < 0.4
    assert json.loads((folder / "images.json").read_text())["results"]["psnr"] > 16
    assert (folder / "export/splat.ply").stat().st_size > 100_000
    again = run("skyfall-demo", "--output-dir", folder, check=False)
    assert again.returncode == 1 and "exists already" in again.stderr


def test_a_missing_ffmpeg_is_told_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"ffmpeg, which is missing\. Run pip install 'skyfall-ns\[video\]'\."):
        Demo(tmp_path / "demo").main()
    assert not list(tmp_path.iterdir())
