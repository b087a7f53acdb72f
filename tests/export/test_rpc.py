"""Exported RPCs agree with the cameras of the trained model, in pixels of the vendor's files."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from skyfall_ns.dataparsers.camera_metadata import view_from_camera
from skyfall_ns.errors import SceneError
from skyfall_ns.export.rpc import adjusted_rpc, write_rpcs
from skyfall_ns.export.rpc_export import RpcExport
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_readers import read_rpc
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.geometry.image_offsets import apply_image_offset
from skyfall_ns.pipelines import load_run
from skyfall_ns.scene.model_space import HALF_PIXEL
from skyfall_ns.scene.scene import Scene
from skyfall_ns.view import apply_quadratic_term


def sample_points(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The same points in local meters and in degrees."""
    local = np.random.default_rng(0).uniform(scene.box_m[0], scene.box_m[1], (300, 3))
    return local, scene.frame.to_geodetic(local)


def test_exported_rpcs_agree_with_the_cameras_and_learned_offsets(city_scene, tmp_path, monkeypatch):
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data, config.model.image_offsets = city_scene, True
    pipeline = config.setup(device="cpu", test_mode="inference")
    model, cameras = pipeline.model, pipeline.datamanager.train_dataset.cameras
    with torch.no_grad():
        model.image_offsets.raw_offsets_px.normal_(generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(load_run, "load_run", lambda _: model)
    RpcExport(tmp_path / "config.yml", tmp_path / "rpc").run()
    scene, normalized = Scene.from_directory(city_scene), model.normalized
    local, lonlath = sample_points(scene)
    means = torch.from_numpy((local - normalized.center_m) * normalized.scale)
    for index, name in enumerate(normalized.image_names):
        view = view_from_camera(cameras[index : index + 1])
        shifted = apply_image_offset(
            apply_quadratic_term(means, view), view, model.image_offsets(index).detach().double()
        )
        projected = (shifted @ view.camera_from_model[:2, :3].T + view.intrinsics[:2, 2] - HALF_PIXEL).numpy()
        rpc = RPC.from_dict(json.loads((tmp_path / "rpc" / f"{name}.json").read_text()))
        assert np.abs(rpc.project(lonlath) - scene.image_by_name(name).crop_px - projected).max() < 1e-3
        unadjusted = scene.image_by_name(name).camera.project(local)
        assert np.abs(projected - unadjusted).max() > 0.05  # the learned offset is included
    assert {p.stem for p in (tmp_path / "rpc").glob("*.json")} == {image.name for image in scene.images}


def test_other_programs_read_exported_rpcs_beside_the_vendor_file(city_scene, tmp_path):
    scene = Scene.from_directory(city_scene)
    name = scene.images[0].name
    write_rpcs(scene, {name: (0.25, -0.5)}, tmp_path)
    shutil.copy(city_scene / "raw" / scene.images[0].source, tmp_path)
    lonlath = sample_points(scene)[1]
    exported = read_rpc(tmp_path / scene.images[0].source).project(lonlath)
    np.testing.assert_allclose(
        exported - adjusted_rpc(scene.images[0]).project(lonlath), [[0.25, -0.5]] * 300, atol=1e-6
    )
    delivered = read_rpc(city_scene / "raw" / scene.images[0].source).project(lonlath)
    np.testing.assert_allclose(exported - delivered, [np.add(scene.images[0].shift_px, (0.25, -0.5))] * 300, atol=1e-6)


def test_images_without_learned_offsets_keep_the_adjustment_of_the_scene(city_scene, tmp_path):
    scene = Scene.from_directory(city_scene)
    written = write_rpcs(scene, {}, tmp_path / "new" / "rpc")
    assert [RPC.from_dict(json.loads(p.read_text())) for p in written] == [adjusted_rpc(i) for i in scene.images]


def test_scenes_without_rpcs_are_refused(city_scene):
    image = dataclasses.replace(Scene.from_directory(city_scene).images[0], rpc=None)
    with pytest.raises(SceneError, match=rf"{image.name} has no RPC in its scene\. Make the scene with"):
        adjusted_rpc(image)
