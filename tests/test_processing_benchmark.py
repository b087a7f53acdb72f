"""The benchmark of processing by number of images: which images it takes, and its rows."""

import importlib
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def processing(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    monkeypatch.delitem(sys.modules, "processing", raising=False)
    return importlib.import_module("processing")


def test_images_are_spread_over_all_dates(processing):
    images = [Path(f"{k}.tif") for k in range(40)]
    assert processing.chosen(images, 40) == images
    few = [int(p.stem) for p in processing.chosen(images, 4)]
    assert few == [0, 13, 26, 39]


def test_rows_and_titles_have_as_many_columns(processing):
    result = {
        "images": 19, "pairs": 57, "ties": 6012, "residual_px": 0.16, "megapixels": 0.65,
        "seconds": {"read": 1.0, "ties": 20.0, "adjust": 3.0, "crop": 1.0, "surface": 40.04, "points": 1.0},
        "processor": 101.4,
    }  # fmt: skip
    line = processing.row(result)
    assert line == "| 19 | 57 | 6,012 | 0.160 | 1.0 | 20.0 | 3.0 | 1.0 | 40.0 | 1.0 | 66 | 101 |"
    assert all(part.count("|") == line.count("|") for part in processing.heading())
