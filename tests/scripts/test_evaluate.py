"""`skyfall-eval` on the command line."""

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from affine import Affine
from helpers.untrained_run import save_untrained_run

from skyfall_ns.geo.raster import write_raster
from skyfall_ns.scripts import evaluate

UTM = "EPSG:32637"


def write_dsm(path: Path, heights: np.ndarray, crs: str | None = UTM, west: float = 5e5) -> Path:
    write_raster(
        path, heights[None].astype(np.float32), crs=crs, transform=Affine(0.5, 0, west, 0, -0.5, 4e6), nodata=-1
    )
    return path


def make_heights(shift_cells: int = 0) -> np.ndarray:
    x, y = np.meshgrid(np.arange(100) - shift_cells, np.arange(80))
    return 100 + 3 * np.sin(x / 9) * np.cos(y / 7) + 5 * ((x // 20 + y // 20) % 2)


def call_command(monkeypatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["skyfall-eval", *map(str, arguments)])
    evaluate.main()


def test_dsm_report_and_map(tmp_path, monkeypatch, capsys):
    pred, ref = write_dsm(tmp_path / "pred.tif", make_heights(2) + 1.5), write_dsm(tmp_path / "ref.tif", make_heights())
    report_path, map_path = tmp_path / "new" / "report.json", tmp_path / "new" / "map.png"
    call_command(monkeypatch, "dsm", pred, ref, "--json", report_path, "--map", map_path)
    report = json.loads(report_path.read_text())
    assert report["shift_m"] == pytest.approx([-1.0, 0.0, -1.5], abs=0.05)
    assert {"mae_m", "median_m", "nmad_m", "rmse_m", "within_1m"} <= set(report["unregistered"])
    assert report["registered"]["mae_m"] < 0.05 < 1 < report["unregistered"]["mae_m"]
    assert report["completeness"] == 1.0 and report["pixels"] >= 98 * 80
    assert cv2.imread(str(map_path)).shape == (80, 100, 3)
    printed = capsys.readouterr().out
    assert "within 1 m" in printed and "-1.500" in printed and "MAE <= 1.5 m of edges" in printed
    assert report["registered"]["edges"]["distance_m"] == 1.5
    call_command(monkeypatch, "dsm", pred, ref, "--edges", "0.5", "--json", report_path)
    narrow, wide = json.loads(report_path.read_text())["registered"]["edges"], report["registered"]["edges"]
    assert narrow["distance_m"] == 0.5 and 0 < narrow["share"] < wide["share"]
    assert {p.name for p in report_path.parent.iterdir()} == {"report.json", "map.png"}


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("missing", "does not exist"),
        ("text", "cannot be read as a raster"),
        ("no crs", "no coordinate reference system"),
        ("empty", "no height at all"),
        ("elsewhere", "do not overlap"),
    ],
)
def test_bad_input_is_an_error_of_two_sentences(damage, words, tmp_path, monkeypatch, capsys):
    pred, ref = tmp_path / "pred.tif", write_dsm(tmp_path / "ref.tif", make_heights())
    if damage == "text":
        pred.write_text("no image")
    elif damage != "missing":
        heights = np.full((80, 100), -1.0) if damage == "empty" else make_heights()
        write_dsm(pred, heights, None if damage == "no crs" else UTM, 9e5 if damage == "elsewhere" else 5e5)
    with pytest.raises(SystemExit) as exit_info:
        call_command(monkeypatch, "dsm", pred, ref, "--json", tmp_path / "report.json")
    message = capsys.readouterr().err.strip()
    assert exit_info.value.code == 1 and words in message and "pred.tif" in message and "Traceback" not in message
    assert message.endswith(".") and message.count(". ") == 1
    assert not (tmp_path / "report.json").exists()


@pytest.fixture(scope="module")
def config(city_scene, tmp_path_factory) -> Path:
    """config.yml of a run without training steps: Gaussians on the stereo surface, in the points' colors."""
    yield save_untrained_run(city_scene, tmp_path_factory.mktemp("runs"))
    torch.set_grad_enabled(True)  # loading a run disables it


def read_psnrs(report: Path) -> np.ndarray:
    return np.array([view["psnr"] for view in json.loads(report.read_text())["views"]])


def test_scores_of_ground_truth_images(config, city_scene, tmp_path, monkeypatch, capsys):
    """The stereo surface renders similarly to the city, most similarly from above and after registration."""
    truth, report_path = city_scene / "truth/oblique", tmp_path / "views.json"
    call_command(monkeypatch, "views", "--load-config", config, "--truth", truth, "--json", report_path,
         "--pictures", tmp_path / "pictures")  # fmt: skip
    report = json.loads(report_path.read_text())
    assert list(report["elevations"]) == ["60", "45", "20"]
    for elevation, scores in report["elevations"].items():
        views = [v for v in report["views"] if f"{v['elevation_deg']:g}" == elevation]
        assert scores["n"] == len(views) == 4
        for key in ("psnr", "ssim"):
            assert scores[key] == pytest.approx(np.mean([v[key] for v in views]))
    assert report["elevations"]["60"]["psnr"] > max(14.0, report["elevations"]["20"]["psnr"])
    assert report["sunlit"] and 0 < np.hypot(*report["shift_m"][:2]) < 8
    printed = capsys.readouterr().out
    assert "elevation" in printed and "moved east, north, up" in printed and "has no sun" not in printed
    assert {p.name for p in (tmp_path / "pictures").iterdir()} == {v["file"] for v in report["views"]}
    assert cv2.imread(str(tmp_path / "pictures/e60_a030.png")).shape == (96, 192, 3)

    registered, camera_shift = read_psnrs(report_path), report["shift_m"]
    call_command(monkeypatch, "views", "--load-config", config, "--truth", truth, "--dsm", truth.parent / "dsm.tif",
         "--json", report_path)  # fmt: skip
    height_shift = json.loads(report_path.read_text())["shift_m"]
    assert 1e-6 < np.abs(np.subtract(height_shift, camera_shift)).max() < 0.5  # two independent estimates
    capsys.readouterr()

    alone = tmp_path / "moved/oblique"
    shutil.copytree(truth, alone)
    call_command(monkeypatch, "views", "--load-config", config, "--truth", alone, "--json", report_path)
    assert "not registered: no --dsm" in capsys.readouterr().out
    assert json.loads(report_path.read_text())["shift_m"] is None
    assert read_psnrs(report_path).mean() < registered.mean() - 0.3


def test_ground_truth_images_without_a_sun(config, city_scene, tmp_path, monkeypatch, capsys):
    shutil.copytree(city_scene / "truth/oblique", tmp_path / "oblique")
    cameras = tmp_path / "oblique/cameras.json"
    data = json.loads(cameras.read_text())
    del data["sun"]
    data["views"] = data["views"][:1]
    cameras.write_text(json.dumps(data))
    call_command(monkeypatch, "views", "--load-config", config, "--truth", tmp_path / "oblique",
         "--dsm", city_scene / "truth/dsm.tif")  # fmt: skip
    assert "cameras.json has no sun: rendered without shadows" in capsys.readouterr().out
    data["frame"]["origin"][0] += 1000.0
    cameras.write_text(json.dumps(data))
    with pytest.raises(SystemExit):
        call_command(monkeypatch, "views", "--load-config", config, "--truth", tmp_path / "oblique")
    message = capsys.readouterr().err.strip()
    assert "e60_a030.png shows too little of the scene" in message and message.count(". ") == 1
