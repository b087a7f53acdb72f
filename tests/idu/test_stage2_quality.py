"""Effect of stage 2: Gaussians move toward the refined images."""

import copy
import math
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch
from helpers.idu_runs import TINY, make_config, train, use_refiner

from skyfall_ns.idu.camera_placement import place_cameras
from skyfall_ns.idu.curriculum import Curriculum, pose_camera
from skyfall_ns.idu.rendering import local_view
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.skyfall import SkyfallModel

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class OracleRefiner:
    """Returns renders of a true model, which has more detail than the satellite images."""

    truth: SkyfallModel
    generative: ClassVar[bool] = True
    batch: int = 2
    training_pairs: int = 0

    def check(self) -> None:
        """Nothing can be missing."""

    def identity(self, episode=None):
        return {"name": "oracle"}

    @contextmanager
    def load(self, device, episode):
        yield lambda views: [render_camera(self.truth, view.camera) for view in views]


@torch.no_grad()
def render_camera(model: SkyfallModel, camera) -> torch.Tensor:
    """Image of a local pinhole camera in the appearance of the first training image."""
    rendering = model.renderer.render(local_view(model.renderer, camera), 0)
    return (rendering.color / rendering.alpha[..., None].clamp_min(0.1)).clamp(0, 1)


def paint_waves(model: SkyfallModel) -> SkyfallModel:
    """The same shapes with waves of color, 16 m long, that no satellite image shows."""
    truth = copy.deepcopy(model).eval()
    with torch.no_grad():
        x, y, z = (truth.means / truth.normalized.scale).unbind(-1)
        phases = torch.stack([x + z, y - z, x + y], -1) * (2 * math.pi / 16)
        truth.gauss_params["features_dc"] += 1.0 * torch.sin(phases)
    return truth


def psnr_of_new_views(model: SkyfallModel, truth: SkyfallModel, elevation_deg: float) -> float:
    """PSNR over directions and a distance of no episode, dB."""
    curriculum = Curriculum((elevation_deg,), (130.0,), (28.0,), grid=1, azimuths=5, size_px=64)
    box_m = model.normalized.scene.box_m
    poses, _ = place_cameras(
        curriculum, curriculum.plan_episodes(box_m)[0], box_m, lambda x, y: 0.0, lambda eye, target: None
    )
    model.eval()
    errors = []
    for pose in poses:
        camera = pose_camera(pose, 28.0, 64)
        with torch.no_grad():
            solid = truth.renderer.render_depth(local_view(truth.renderer, camera)).alpha > 0.9
        errors.append((render_camera(model, camera) - render_camera(truth, camera)).square()[solid].mean().item())
    model.train()
    return -10 * math.log10(sum(errors) / len(errors))


def test_new_views_approach_the_refined_images(city_scene, tmp_path):
    """Although the satellite images contradict them."""
    stage1 = make_config(city_scene, tmp_path, "before", method=skyfall)
    stage1.max_num_iterations = 20
    model = train(stage1).pipeline.model
    truth = paint_waves(model)
    before = {elevation: psnr_of_new_views(model, truth, elevation) for elevation in (45.0, 20.0)}
    names = model.normalized.image_names
    config = make_config(
        city_scene,
        tmp_path,
        "oracle",
        appearance_image=names[0],
        synthetic_share=0.75,
        replay_decay=0.0,
        episode_lr_scale=1.0,
    )
    config.pipeline.stage1 = stage1.get_base_dir() / "config.yml"
    config.pipeline.curriculum = replace(TINY, elevations_deg=(55.0, 28.0), azimuths=6, size_px=64, steps=(50,))
    config.optimizers["features_dc"]["optimizer"].lr = 0.03
    with use_refiner(OracleRefiner(truth)):
        model = train(config).pipeline.model
    for elevation, start in before.items():
        end = psnr_of_new_views(model, truth, elevation)
        print(f"{elevation:g} degrees: {start:.1f} -> {end:.1f} dB")
        assert end > start + 3, f"{elevation:g} degrees: {start:.1f} -> {end:.1f} dB"
