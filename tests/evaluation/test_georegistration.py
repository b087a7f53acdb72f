"""Georegistration of a scene from its true cameras."""

import json
from dataclasses import replace

import numpy as np
import pytest

from skyfall_ns.errors import SceneError
from skyfall_ns.evaluation.georegistration import fit_shift_to_true_rpcs
from skyfall_ns.geo.dsm_comparison import compare_dsm
from skyfall_ns.geo.raster import read_raster
from skyfall_ns.geo.surface_evidence import MATCHED
from skyfall_ns.scene.scene import Scene


@pytest.fixture(scope="module")
def scene_and_rpcs(city_scene, tmp_path_factory):
    """A scene, and a directory of its own RPCs, for whole vendor images: its georegistration error is zero."""
    scene, directory = Scene.from_directory(city_scene), tmp_path_factory.mktemp("rpc")
    for image in scene.images:
        whole = {
            "samp_off": image.rpc["samp_off"] + image.crop_px[0],
            "line_off": image.rpc["line_off"] + image.crop_px[1],
        }
        (directory / f"{image.name}.json").write_text(json.dumps(dict(image.rpc) | whole))
    return scene, directory


@pytest.mark.parametrize("offset_m", [(0.0, 0.0, 0.0), (3.0, -2.0, 1.0), (-7.5, 0.25, -4.0)])
def test_the_shift_undoes_a_moved_origin(scene_and_rpcs, offset_m):
    scene, directory = scene_and_rpcs
    x, y, z = (float(a + b) for a, b in zip(scene.frame.origin, offset_m, strict=True))
    moved = replace(scene, frame=replace(scene.frame, origin=(x, y, z)))
    np.testing.assert_allclose(fit_shift_to_true_rpcs(moved, directory), -np.array(offset_m), atol=0.02)


def test_the_shift_of_the_cameras_is_that_of_the_surface(city_scene):
    """Two independent estimates: from cameras, and from matched heights (whose walls are a cell wrong)."""
    shift = fit_shift_to_true_rpcs(Scene.from_directory(city_scene), city_scene / "truth/rpc")
    assert 0.1 < np.hypot(*shift[:2]) < 8
    surface, source, truth = (
        read_raster(city_scene / name) for name in ("surface.tif", "surface_source.tif", "truth/dsm.tif")
    )
    surface = replace(surface, bands=np.where(source.bands == MATCHED, surface.bands, np.nan))
    by_heights = compare_dsm(surface, truth).report["shift_m"]
    np.testing.assert_allclose(by_heights[:2], shift[:2], atol=0.8)
    np.testing.assert_allclose(by_heights[2], shift[2], atol=0.1)


def test_one_camera_is_too_few_and_damaged_files_are_named(scene_and_rpcs, tmp_path):
    scene, directory = scene_and_rpcs
    first, second = scene.images[0].name, scene.images[1].name
    (tmp_path / f"{first}.json").write_text((directory / f"{first}.json").read_text())
    assert fit_shift_to_true_rpcs(scene, tmp_path) is None
    assert fit_shift_to_true_rpcs(scene, tmp_path / "nowhere") is None
    (tmp_path / f"{second}.json").write_text('{"samp_off": 1}')
    with pytest.raises(SceneError, match=f"{second}.json is damaged .*KeyError.*Make the truth again."):
        fit_shift_to_true_rpcs(scene, tmp_path)
