"""The benchmarks' documents: sections of one scene leave the others alone, rows say what was not measured."""

import importlib
import sys
from pathlib import Path

import pytest

from skyfall_ns.method_configs import skyfall

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def stage1(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "stage1", raising=False)
    return importlib.import_module("stage1")


RESULT = {
    "seconds": 61.4,
    "splats": 12345,
    "held_out": {"psnr": 25.126, "ssim": 0.9314},
    "dsm": {
        "completeness": 0.987,
        "registered": {"median_m": 0.1, "within_1m": 0.9, "mae_m": 0.5, "edges": {"mae_m": 1.25}},
    },
    "views": {"60": {"psnr": 20.0}, "20": {"psnr": 15.5}},
}


def test_rows(stage1):
    expected = "| a | 0.100 | 90.0% | 0.500 | 1.25 | 98.7% | 25.13 | 0.931 | 20.00 | - | 15.50 | 12,345 | 61 |"
    assert stage1.row("a", RESULT) == expected
    bare = stage1.row("a", RESULT | {"dsm": None, "views": None})
    assert bare == "| a | - | - | - | - | - | 25.13 | 0.931 | - | - | - | 12,345 | 61 |"
    table = stage1.section("C", {"default": RESULT, "no shadows": RESULT}, "said").splitlines()
    assert len({line.count("|") for line in table if line.startswith("|")}) == 1
    assert "- no shadows: `--pipeline.model.shadows False`" in table


def test_sections_of_other_scenes_stay(stage1):
    a, b, c = (stage1.section(name, {"default": RESULT}, "first") for name in "abc")
    text = stage1.with_section(stage1.with_section(stage1.with_section("", a), b), c)
    assert text.startswith("# Stage 1") and [line for line in text.splitlines() if line.startswith("## ")] == [
        "## a", "## b", "## c",
    ]  # fmt: skip
    again = stage1.with_section(text, stage1.section("b", {"default": RESULT}, "second"))
    assert again == text[: text.index("## b")] + text[text.index("## b") :].replace("first", "second", 1)
    assert stage1.with_section(text, c) == text


def test_variants_have_folders_of_their_own(stage1):
    assert len({stage1.slug(name) for name in stage1.VARIANTS}) == len(stage1.VARIANTS)


def test_flags_of_variants_exist(stage1):
    for flags in stage1.VARIANTS.values():
        for flag in (f for f in flags if f.startswith("--")):
            part = skyfall.config
            for name in flag[2:].replace("-", "_").split("."):
                assert hasattr(part, name), flag
                part = getattr(part, name)
