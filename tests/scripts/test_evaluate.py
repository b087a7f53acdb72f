"""`skyfall-eval dsm` as people call it."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from affine import Affine

from skyfall_ns.geo.raster import write_raster
from skyfall_ns.scripts import evaluate

UTM = "EPSG:32637"


def write(path: Path, heights: np.ndarray, crs: str | None = UTM, west: float = 5e5) -> Path:
    write_raster(
        path, heights[None].astype(np.float32), crs=crs, transform=Affine(0.5, 0, west, 0, -0.5, 4e6), nodata=-1
    )
    return path


def surface(moved: int = 0) -> np.ndarray:
    x, y = np.meshgrid(np.arange(100) - moved, np.arange(80))
    return 100 + 3 * np.sin(x / 9) * np.cos(y / 7) + 5 * ((x // 20 + y // 20) % 2)


def call(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["skyfall-eval", *map(str, arguments)])
    evaluate.main()


def test_report_and_map(tmp_path, monkeypatch, capsys):
    pred, ref = write(tmp_path / "pred.tif", surface(2) + 1.5), write(tmp_path / "ref.tif", surface())
    report_path, map_path = tmp_path / "new" / "report.json", tmp_path / "new" / "map.png"
    call(monkeypatch, "dsm", pred, ref, "--json", report_path, "--map", map_path)
    report = json.loads(report_path.read_text())
    assert report["shift_m"] == pytest.approx([-1.0, 0.0, -1.5], abs=0.05)
    assert {"mae_m", "median_m", "nmad_m", "rmse_m", "within_1m"} <= set(report["unregistered"])
    assert report["registered"]["mae_m"] < 0.05 < 1 < report["unregistered"]["mae_m"]
    assert report["completeness"] == 1.0 and report["pixels"] >= 98 * 80
    assert cv2.imread(str(map_path)).shape == (80, 100, 3)
    printed = capsys.readouterr().out
    assert "within 1 m" in printed and "-1.500" in printed
    assert {p.name for p in report_path.parent.iterdir()} == {"report.json", "map.png"}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("missing", "does not exist"),
        ("text", "cannot be read as a raster"),
        ("no crs", "no coordinate reference system"),
        ("empty", "no height at all"),
        ("elsewhere", "do not overlap"),
    ],
)
def test_bad_input_ends_in_two_sentences(kind, words, tmp_path, monkeypatch, capsys):
    pred, ref = tmp_path / "pred.tif", write(tmp_path / "ref.tif", surface())
    if kind == "text":
        pred.write_text("no image")
    elif kind != "missing":
        heights = np.full((80, 100), -1.0) if kind == "empty" else surface()
        write(pred, heights, None if kind == "no crs" else UTM, 9e5 if kind == "elsewhere" else 5e5)
    with pytest.raises(SystemExit) as exit_:
        call(monkeypatch, "dsm", pred, ref, "--json", tmp_path / "report.json")
    message = capsys.readouterr().err.strip()
    assert exit_.value.code == 1 and words in message and "pred.tif" in message and "Traceback" not in message
    assert message.endswith(".") and message.count(". ") == 1
    assert not (tmp_path / "report.json").exists()
