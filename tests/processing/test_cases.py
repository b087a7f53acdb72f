"""Reliefs seen by five parallel cameras: towers, water and steep slopes have their heights, or none.

The reliefs are those of the cases beside the checkout; these tests are skipped where it is absent."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from skyfall_ns.geo.raster import read_raster
from skyfall_ns.processing.area_of_interest import AreaOfInterest
from skyfall_ns.processing.options import ProcessingOptions
from skyfall_ns.processing.process import process_scene
from skyfall_ns.scripts.info import locate_point

CASES = Path(__file__).parents[3] / "shared" / "cases"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CASES / "relief.py").is_file(), reason="the cases are not beside the checkout"),
]


def make_scene(directory: Path, kind: str, size_m: float, *scale: str, **options):
    """Process a relief; the result."""
    subprocess.run([sys.executable, CASES / "relief.py", kind, directory / "in", *scale], check=True)
    images = sorted((directory / "in").glob("*.tif"))
    (directory / "scene").mkdir()
    given = {"area": AreaOfInterest(center=(33.0, 45.0), size_m=size_m)} | options
    return process_scene(images, directory / "scene", ProcessingOptions(**given), lambda text: None)


def test_water_has_no_height_or_that_of_its_shore(tmp_path):
    result = make_scene(tmp_path, "water", 160.0)
    surface = result.surface
    x = np.broadcast_to(surface.grid.x_m(), surface.height_m.shape)
    water = surface.height_m[x > 42] + result.scene.frame.origin[2]
    water = water[np.isfinite(water)]
    assert (np.abs(water - 300.0) > 5.0).mean() < 0.01
    points_z = read_points(tmp_path / "scene") + result.scene.frame.origin[2]
    assert points_z.min() > 290.0


def read_points(scene: Path) -> np.ndarray:
    from skyfall_ns.io.ply import read_ply

    return read_ply(scene / "points.ply").xyz_m[:, 2]


def test_a_tower_of_250_m_is_matched_beyond_the_range_of_the_rpcs_too(tmp_path):
    result = make_scene(tmp_path, "tower", 120.0, "100", height_range_m=(290.0, 560.0))
    heights = read_raster(tmp_path / "scene/surface.tif").band_values()
    assert abs(np.nanmax(heights) - np.nanmedian(heights) - 250.0) < 10.0
    assert any("exceeds the range of 200 to 400 m" in note for note in result.notes)


def test_crops_of_a_steep_slope_contain_its_top(tmp_path):
    result = make_scene(tmp_path, "slope", 200.0, points="sparse")
    found = locate_point(result.scene, (33.00120824, 45.0, 395.0))["images"]
    assert len(found) == 5
    for image in result.scene.images:
        column, row = np.round(found[image.name]["camera"]).astype(int)
        mask = cv2.imread(str(tmp_path / "scene" / image.mask), cv2.IMREAD_UNCHANGED)
        assert found[image.name]["inside"] and mask[row, column], image.name
