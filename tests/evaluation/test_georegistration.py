"""Where a scene is on Earth, told by true cameras."""

import json
from dataclasses import replace

import numpy as np
import pytest

from skyfall_ns.errors import SceneError
from skyfall_ns.evaluation.georegistration import shift_of_cameras
from skyfall_ns.geo.dsm_comparison import compare_dsm
from skyfall_ns.geo.raster import read_raster
from skyfall_ns.geo.surface_evidence import MATCHED
from skyfall_ns.scene.scene import Scene


@pytest.fixture(scope="module")
def scene_and_rpcs(city_scene, tmp_path_factory):
    """A scene, and its own RPCs as those of whole vendor images: it is where they say."""
    scene, folder = Scene.load(city_scene), tmp_path_factory.mktemp("rpc")
    for image in scene.images:
        whole = {
            "samp_off": image.rpc["samp_off"] + image.crop_px[0],
            "line_off": image.rpc["line_off"] + image.crop_px[1],
        }
        (folder / f"{image.name}.json").write_text(json.dumps(dict(image.rpc) | whole))
    return scene, folder


@pytest.mark.parametrize("off", [(0.0, 0.0, 0.0), (3.0, -2.0, 1.0), (-7.5, 0.25, -4.0)])
def test_a_scene_is_moved_back_to_where_true_cameras_see_it(scene_and_rpcs, off):
    scene, folder = scene_and_rpcs
    origin = [float(a + b) for a, b in zip(scene.frame["origin"], off, strict=True)]
    moved = replace(scene, frame={**scene.frame, "origin": origin})
    np.testing.assert_allclose(shift_of_cameras(moved, folder), -np.array(off), atol=0.02)


def test_what_vendors_pointed_wrong_is_metres_and_brings_the_surface_to_its_truth(city_scene):
    """Two ways to tell it that share nothing: cameras, and matched heights (with walls a cell wrong)."""
    shift = shift_of_cameras(Scene.load(city_scene), city_scene / "truth/rpc")
    assert 0.1 < np.hypot(*shift[:2]) < 8
    surface, source, truth = (
        read_raster(city_scene / name) for name in ("surface.tif", "surface_source.tif", "truth/dsm.tif")
    )
    surface = replace(surface, bands=np.where(source.bands == MATCHED, surface.bands, np.nan))
    by_heights = compare_dsm(surface, truth).report["shift_m"]
    np.testing.assert_allclose(by_heights[:2], shift[:2], atol=0.8)
    np.testing.assert_allclose(by_heights[2], shift[2], atol=0.1)


def test_one_camera_does_not_tell_and_damaged_ones_are_named(scene_and_rpcs, tmp_path):
    scene, folder = scene_and_rpcs
    first, second = scene.images[0].name, scene.images[1].name
    (tmp_path / f"{first}.json").write_text((folder / f"{first}.json").read_text())
    assert shift_of_cameras(scene, tmp_path) is None
    assert shift_of_cameras(scene, tmp_path / "nowhere") is None
    (tmp_path / f"{second}.json").write_text('{"samp_off": 1}')
    with pytest.raises(SceneError, match=f"{second}.json is damaged .*KeyError.*Make the truth again."):
        shift_of_cameras(scene, tmp_path)
