"""Reports of the benchmarks: sections of other scenes are kept, and missing values are shown as such."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from skyfall_ns.method_configs import skyfall, skyfall_idu

DIRECTORY = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def stage1(monkeypatch):
    monkeypatch.syspath_prepend(DIRECTORY)
    monkeypatch.delitem(sys.modules, "stage1", raising=False)
    return importlib.import_module("stage1")


RESULT = {
    "seconds": 61.4,
    "gaussians": 12345,
    "held_out": {"psnr": 25.126, "ssim": 0.9314},
    "dsm": {
        "completeness": 0.987,
        "registered": {"median_m": 0.1, "within_1m": 0.9, "mae_m": 0.5, "edges": {"mae_m": 1.25}},
    },
    "views": {"60": {"psnr": 20.0}, "20": {"psnr": 15.5}},
}


def test_rows_of_stage_1(stage1):
    expected = "| a | 0.100 | 90.0% | 0.500 | 1.25 | 98.7% | 25.13 | 0.931 | 20.00 | - | 15.50 | 12,345 | 61 |"
    assert stage1.table_row("a", RESULT) == expected
    without_truth = stage1.table_row("a", RESULT | {"dsm": None, "views": None})
    assert without_truth == "| a | - | - | - | - | - | 25.13 | 0.931 | - | - | - | 12,345 | 61 |"
    table = stage1.make_section("C", {"default": RESULT, "no shadows": RESULT}, "said").splitlines()
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
    assert "- no shadows: `--pipeline.model.shadows False`" in table


def test_sections_of_other_scenes_are_kept(stage1):
    a, b, c = (stage1.make_section(name, {"default": RESULT}, "first") for name in "abc")
    text = stage1.replace_section(stage1.replace_section(stage1.replace_section("", a), b), c)
    assert text.startswith("# Stage 1") and [line for line in text.splitlines() if line.startswith("## ")] == [
        "## a", "## b", "## c",
    ]  # fmt: skip
    replaced = stage1.replace_section(text, stage1.make_section("b", {"default": RESULT}, "second"))
    assert replaced == text[: text.index("## b")] + text[text.index("## b") :].replace("first", "second", 1)
    assert stage1.replace_section(text, c) == text


def test_variants_have_different_directories(stage1):
    assert len({stage1.directory_name(name) for name in stage1.VARIANTS}) == len(stage1.VARIANTS)


def assert_exists(flag, config):
    """AssertionError if no option of a configuration, or of a table in it, has the flag's name."""
    for name in flag[2:].replace("-", "_").split("."):
        options = config if isinstance(config, dict) else vars(config)
        assert name in options, flag
        config = options[name]


def test_flags_of_variants_exist(stage1):
    for flags in stage1.VARIANTS.values():
        for flag in (f for f in flags if f.startswith("--")):
            assert_exists(flag, skyfall.config)


@pytest.fixture
def stage2(monkeypatch, stage1):
    monkeypatch.delitem(sys.modules, "stage2", raising=False)
    return importlib.import_module("stage2")


def make_manifest(seconds, refined, psnr, generative=False):
    """Manifest of an episode of two views."""
    phase = {"seconds": seconds, "peak_memory_bytes": 2_000_000_000 + int(seconds)}
    return {
        "views": {name: {"refined_sha256": "0" if number < refined else None} for number, name in enumerate("ab")},
        "generative": generative,
        "consistency": {} if psnr is None else {"raw": {"psnr": psnr}, "refined": {"psnr": psnr + 1}},
        "phases": {"render": phase, "refine": phase, "weights": {"seconds": 1.0, "peak_memory_bytes": None}},
    }


def test_costs_of_episodes(stage2):
    cost = stage2.episodes_cost([make_manifest(2.0, 2, 20.0), make_manifest(6.0, 1, 22.0, True)])
    assert cost == {
        "views": 4, "per_s": 3 / 8, "render": 8.0, "refine": 8.0, "weights": 2.0, "train": 0, "peak_gb": 2.000000006,
        "raw_psnr": 21.0, "refined_psnr": 22.0, "generative": True,
    }  # fmt: skip
    cost = stage2.episodes_cost([make_manifest(0.0, 0, None) | {"phases": {}}])
    assert (cost["per_s"], cost["peak_gb"], cost["raw_psnr"], cost["refine"]) == (None, None, None, 0)


def test_rows_of_stage_2(stage2):
    scores = RESULT | {"training_psnr": 27.5, "views": {"60": {"psnr": 20.0, "ssim": 0.7}}}
    run_result = scores | {"cost": stage2.episodes_cost([make_manifest(2.0, 2, 20.0)])}
    expected = "| a | 20.00 | 0.700 | - | - | - | - | 25.13 | 27.50 | 0.500 | 12,345 |"
    assert stage2.score_row("a", scores) == expected
    assert stage2.cost_row("a", run_result) == "| a | 2 | 1.00 | 2 | 2 | 1 | 0 | 61 | 2.00 | 20.00 | 21.00 | no |"
    assert "| 12,345 |" in stage2.score_row("a", scores | {"dsm": None, "views": None})
    text = stage2.make_section("City", {stage2.BEFORE: scores, "denoiser": run_result}, "said")
    for table in text.split("\n\n")[2:4]:
        assert len({line.count("|") for line in table.splitlines()}) == 1
    assert text.count("| before") == 1 and text.count("| denoiser |") == 2
    assert "- denoiser: `--pipeline.refiner.name denoiser`" in text
    assert stage2.replace_section(stage2.TITLE + "\n", text).startswith("# Stage 2")


def test_unknown_flags_of_stage_2_are_passed_to_training(stage2):
    words = ["S", "R/config.yml", "--only", "identity", "denoiser", "--pipeline.curriculum.steps", "100"]
    arguments, training_flags = stage2.make_parser().parse_known_args(words)
    assert arguments.only == ["identity", "denoiser"] and training_flags == ["--pipeline.curriculum.steps", "100"]
    assert stage2.typed_command(arguments, training_flags).endswith(
        "stage2.py S RUN/config.yml --pipeline.curriculum.steps 100"
    )


def test_flags_of_stage_2_exist(stage2):
    assert len({stage2.directory_name(name) for name in stage2.VARIANTS}) == len(stage2.VARIANTS)
    for flags in stage2.VARIANTS.values():
        for flag in (f for f in flags if f.startswith("--")):
            assert_exists(flag, skyfall_idu.config)


@pytest.fixture
def real_scenes(monkeypatch):
    monkeypatch.syspath_prepend(DIRECTORY)
    for name in ("real_scenes", "real_scenes_report"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("real_scenes")


def test_real_scenes_report_groups_renders_by_direction(real_scenes):
    error = {"mae_m": 0.5, "median_m": 0.1, "rmse_m": 1.5, "p99_m": 4.0, "within_1m": 0.9, "off_10m": 0.01}
    envelope = {"judged": 1.0, "above": 0.02, "below": 0.001, "towers": 7, "tallest_m": 20.5, "deepest_m": 3.5}
    scores = {"reference": error | {"completeness": 0.95}, "envelope": envelope}
    lidar = {"completeness": 1.0} | {z: {"all": error, "no_trees": error} for z in ("mean_z", "median_z")}
    sigma = {"within_1_sigma": 0.7, "within_2_sigma": 0.95, "best_half": 0.5, "cells": 1234}
    exposure = {"luma": 120.0, "median_luma": 118.0, "clipped": 0.03, "chroma_p99": 80.0}
    results = {
        "A, before": {
            "heights": {"surface": scores},
            "renders": ["a_before/e35_a180.jpg"],
            "exposure": {"renders": exposure},
        },
        "A, after": {"heights": {"trained": scores | {"sigma": sigma}}, "renders": ["a_after/e35_a180.jpg"]},
        "<B>": {"heights": {"surface": {"lidar": lidar}}},
    }
    text = real_scenes.markdown_report(results)
    for table in text.split("\n\n"):
        assert len({line.count("|") for line in table.splitlines() if line.startswith("|")}) <= 1
    assert (
        "| A, after | trained | 0.100 | 90.0% | 0.500 | 1.50 | 4.00 | 95.0% | 2.000% | 0.100% | 7 | 20.5 | 3.5 |"
        in text
    )
    assert "| A, after | trained | 70.0% | 95.0% | 50.0% | 1,234 |" in text
    assert (
        "| <B> | surface | 0.50 (0.50) |" in text and "| A, before | renders | 120.0 | 118.0 | 3.00% | 80.0 |" in text
    )
    page = real_scenes.html_report(results)
    assert "&lt;B&gt;" in page and "<B>" not in page
    assert page.index("a_before/e35_a180.jpg") < page.index("a_after/e35_a180.jpg")
    assert page.count("From 35 degrees, azimuth 180") == 1


def test_real_scenes_cameras_are_centered_on_the_area(real_scenes):
    box = np.array([[-50.0, -30.0, -5.0], [70.0, 90.0, 40.0]])
    for elevation in real_scenes.ELEVATIONS:
        cameras = real_scenes.orbit_cameras(box, elevation)
        assert len(cameras) == real_scenes.AZIMUTHS
        for camera in cameras:
            center = camera.project(np.array([10.0, 30.0, 0.0]))
            np.testing.assert_allclose(center, (np.array(real_scenes.SIZE) - 1) / 2, atol=1e-6)
            higher = camera.project(np.array([10.0, 30.0, 10.0]))
            assert higher[1] < center[1] and higher[0] == pytest.approx(center[0])
        position = np.linalg.inv(cameras[0].camera_from_local)[:3, 3] - [10, 30, 0]
        assert position[1] < 0 and np.degrees(np.arcsin(position[2] / np.linalg.norm(position))) == pytest.approx(
            elevation
        )


def test_benchmark_of_the_gpu_runs_at_toy_size_on_a_cpu(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("benchmark_cuda", DIRECTORY / "cuda.py")  # `cuda` is a package
    cuda = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, cuda)  # dataclasses look their module up
    spec.loader.exec_module(cuda)
    cuda.main(["--device", "cpu", "--gaussians", "300", "--size", "64", "--output", str(tmp_path / "cuda.md")])
    text = (tmp_path / "cuda.md").read_text()
    assert "| parallel | 0.0e+00 | 0.0e+00 | 0.0e+00 | 0.0e+00 |" in text and "| pinhole | 0.0e+00 |" in text
    assert "A step with 300 Gaussians and 64 x 64 pixels" in text and "peak memory unknown" in text
    for projection in ("parallel", "pinhole"):  # the views show Gaussians, and the gradients are not 0
        view = cuda.make_view(projection, 64)
        rendered = cuda.render_with_gradients(cuda.make_tensors(300, 64), view, cuda.torch.device("cpu"))
        assert (rendered["color"].sum(-1) > 0.05).float().mean() > 0.5
        assert rendered["gradients"].abs().max() > 0 and rendered["absgrad"].abs().max() > 0
