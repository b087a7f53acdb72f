"""Exported RPCs see what the trained model's cameras see, in the vendor's own pixels."""

import copy
import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch

from skyfall_ns.errors import SceneError
from skyfall_ns.export.rpc import adjusted_rpc, write_rpcs
from skyfall_ns.geo.cameras import camera_from_dict
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.geometry.image_offsets import shifted
from skyfall_ns.models.geometry.view import bend, view_of
from skyfall_ns.pipelines import load_run
from skyfall_ns.scene.model_space import HALF_PIXEL
from skyfall_ns.scene.scene import Scene
from skyfall_ns.scripts.export import Rpc


def places(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """The same points in local metres and in degrees."""
    local = np.random.default_rng(0).uniform(scene.box_m[0], scene.box_m[1], (300, 3))
    return local, LocalFrame.from_dict(scene.frame).to_geodetic(local)


def test_projections_are_the_models_plus_the_shift(city_scene, tmp_path, monkeypatch):
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data, config.model.pose_shift = city_scene, True
    pipeline = config.setup(device="cpu", test_mode="inference")
    model, cameras = pipeline.model, pipeline.datamanager.train_dataset.cameras
    with torch.no_grad():
        model.shift.pixels.normal_(generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(load_run, "load_run", lambda _: model)
    Rpc(tmp_path / "config.yml", tmp_path / "rpc").main()
    scene, on_model = Scene.load(city_scene), model.on_model
    local, lonlath = places(scene)
    means = torch.from_numpy((local - on_model.centre_m) * on_model.scale)
    for index, name in enumerate(on_model.image_names):
        view = view_of(cameras[index : index + 1])
        moved = shifted(bend(means, view), view, model.shift(index).detach().double())
        drawn = (moved @ view.camera_from_model[:2, :3].T + view.intrinsics[:2, 2] - HALF_PIXEL).numpy()
        rpc = RPC.from_dict(json.loads((tmp_path / "rpc" / f"{name}.json").read_text()))
        assert np.abs(rpc.project(lonlath) - scene.image(name).crop_px - drawn).max() < 1e-3
        plain = camera_from_dict(scene.image(name).camera).project(local)
        assert np.abs(drawn - plain).max() > 0.05  # the shift is in it
    assert {p.stem for p in (tmp_path / "rpc").glob("*.json")} == {image.name for image in scene.images}


def test_other_programs_read_them_beside_the_vendors_file(city_scene, tmp_path):
    scene = Scene.load(city_scene)
    name = scene.images[0].name
    write_rpcs(scene, {name: (0.25, -0.5)}, tmp_path)
    shutil.copy(city_scene / "raw" / scene.images[0].source, tmp_path)
    lonlath = places(scene)[1]
    read = RPC.from_file(tmp_path / scene.images[0].source).project(lonlath)
    np.testing.assert_allclose(read - adjusted_rpc(scene.images[0]).project(lonlath), [[0.25, -0.5]] * 300, atol=1e-6)
    delivered = RPC.from_file(city_scene / "raw" / scene.images[0].source).project(lonlath)
    np.testing.assert_allclose(read - delivered, [np.add(scene.images[0].shift_px, (0.25, -0.5))] * 300, atol=1e-6)


def test_held_out_images_keep_the_scenes_adjustment(city_scene, tmp_path):
    scene = Scene.load(city_scene)
    written = write_rpcs(scene, {}, tmp_path / "new" / "folder")
    assert [RPC.from_dict(json.loads(p.read_text())) for p in written] == [adjusted_rpc(i) for i in scene.images]


def test_scene_without_rpcs(city_scene):
    image = dataclasses.replace(Scene.load(city_scene).images[0], rpc=None)
    with pytest.raises(SceneError, match=rf"{image.name} has no RPC in its scene\. Make the scene with"):
        adjusted_rpc(image)
