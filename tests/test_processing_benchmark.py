"""The benchmark of processing by number of images: choice of images, and table rows."""

import importlib
import sys
from pathlib import Path

import pytest

DIRECTORY = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def processing(monkeypatch):
    monkeypatch.syspath_prepend(DIRECTORY)
    monkeypatch.delitem(sys.modules, "processing", raising=False)
    return importlib.import_module("processing")


def test_chosen_images_are_spread_over_all_dates(processing):
    images = [Path(f"{k}.tif") for k in range(40)]
    assert processing.choose_images(images, 40) == images
    chosen = [int(p.stem) for p in processing.choose_images(images, 4)]
    assert chosen == [0, 13, 26, 39]


def test_rows_and_header_have_the_same_columns(processing):
    result = {
        "images": 19, "pairs": 57, "tie_points": 6012, "residual_px": 0.16, "megapixels": 0.65,
        "seconds": {"read": 1.0, "tie_points": 20.0, "adjust": 3.0, "crop": 1.0, "surface": 40.04, "points": 1.0},
        "processor": 101.4,
    }  # fmt: skip
    line = processing.table_row(result)
    assert line == "| 19 | 57 | 6,012 | 0.160 | 1.0 | 20.0 | 3.0 | 1.0 | 40.0 | 1.0 | 66 | 101 |"
    assert all(part.count("|") == line.count("|") for part in processing.table_header())
