"""A panchromatic scene trains one band, and its renders are exactly gray."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from skyfall_ns.dataparsers.camera_metadata import view_from_camera
from skyfall_ns.idu.noise2noise_pairs import noise2noise_pair
from skyfall_ns.io.ply import read_ply, write_ply
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.losses import photometric_loss
from skyfall_ns.scene.scene import Scene


@pytest.fixture(scope="module")
def gray_scene(city_scene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The green band of the synthetic city."""
    directory = tmp_path_factory.mktemp("gray") / "scene"
    shutil.copytree(city_scene, directory, ignore=shutil.ignore_patterns("raw", "truth"))
    scene = Scene.from_directory(directory)
    images = []
    for image in scene.images:
        dn = cv2.imread(str(directory / image.path), cv2.IMREAD_UNCHANGED)
        cv2.imwrite(str(directory / image.path), dn[..., 1])
        images.append(replace(image, tone=replace(image.tone, low=image.tone.low[1:2], high=image.tone.high[1:2])))
    replace(scene, images=tuple(images)).save_to(directory)
    points = read_ply(directory / scene.points)
    write_ply(directory / scene.points, replace(points, rgb=np.repeat(points.rgb[:, 1:2], 3, axis=1)))
    return directory


def oblique_camera() -> Cameras:
    pose = torch.tensor([[1.0, 0, 0, 0.1], [0, 0.5, -0.866, -1.0], [0, 0.866, 0.5, 0.6]])
    return Cameras(pose[None], 100.0, 100.0, 48.0, 32.0, 96, 64)


OPTIONS = {"light": {"appearance": "light"}, "linear": {}, "perceptron": {"appearance": "perceptron", "sh_degree": 1}}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_gray_scene_trains_one_band_and_renders_exact_grays(gray_scene, name):
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data = gray_scene
    for option, value in OPTIONS[name].items():
        setattr(config.model, option, value)
    torch.manual_seed(0)
    pipeline = config.setup(device="cpu")
    model = pipeline.model.train()
    assert model.features_dc.shape[1] == 1
    groups = model.get_param_groups()
    model.optimizers = {
        key: torch.optim.Adam(group, lr=skyfall.config.optimizers[key]["optimizer"].lr, eps=1e-15)
        for key, group in groups.items()
    }
    for step in range(6):
        model.step = 2000 + step  # spherical harmonics are active
        camera, batch = pipeline.datamanager.next_train(step)
        for optimizer in model.optimizers.values():
            optimizer.zero_grad()
        sum(model.get_loss_dict(model.get_outputs(camera), batch).values()).backward()
        for optimizer in model.optimizers.values():
            optimizer.step()
    model.eval()
    with torch.no_grad():
        for outputs in (model.get_outputs(camera), model.get_outputs(oblique_camera())):
            visible = outputs["accumulation"][..., 0] > 1 / 255
            assert visible.float().mean() > 0.1
            assert np.ptp(outputs["rgb"][visible].numpy(), axis=-1).max() == 0
        empty = model.get_outputs(oblique_camera())
        transparent = empty["accumulation"][..., 0] == 0
        torch.testing.assert_close(empty["rgb"][transparent], model.background_color.expand(int(transparent.sum()), 3))
        for exported in (model.colors, model.shs_0, *model.shs_rest.unbind(1)):
            assert exported.shape == (model.num_points, 3) and (exported == exported[:, :1]).all()
        view = view_from_camera(camera)
        pair = noise2noise_pair(model.renderer, view, 0, 0.5, torch.Generator().manual_seed(0))
        assert pair.first.shape == (view.height, view.width, 3) and (pair.second[..., :1] == pair.second).all()
        held_out = pipeline.datamanager.next_eval(0)
        scores, _ = model.get_image_metrics_and_images(model.get_outputs(held_out[0]), held_out[1])
        assert scores["psnr"] > 15


def test_the_loss_of_one_band_equals_that_of_three_equal_ones():
    g = torch.Generator().manual_seed(0)
    pred, target = torch.rand(30, 40, 1, generator=g), torch.rand(30, 40, 1, generator=g)
    three = photometric_loss(pred.expand(-1, -1, 3), target.expand(-1, -1, 3))
    torch.testing.assert_close(photometric_loss(pred, target), three)
