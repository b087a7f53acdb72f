"""Training, episodes, depth supervision, exports and the viewer on a pretended GPU: no tensor is left on the CPU."""

from contextlib import nullcontext
from dataclasses import fields
from unittest.mock import patch

import numpy as np
import pytest
import torch
from helpers import pretended_gpu as gpu
from helpers.models import densify_often, make_optimizers, make_pipeline, train_step, viewer_camera

from skyfall_ns.idu.camera_placement import place_cameras
from skyfall_ns.idu.consistency import assess_episode
from skyfall_ns.idu.curriculum import Curriculum, farthest_depth_m
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.idu.rendering import find_obstacle, render_views
from skyfall_ns.idu.synthetic_views import SyntheticViews
from skyfall_ns.method_configs import REFERENCE_MODEL
from skyfall_ns.models.renderer import Renderer
from skyfall_ns.pipelines.depth_supervision import DepthSupervision, DepthSupervisionConfig
from skyfall_ns.priors.pseudo_cameras import PseudoSchedule
from skyfall_ns.priors.pseudo_ground import PseudoGround
from skyfall_ns.priors.surface import surface_height_field

pytestmark = pytest.mark.slow

REFERENCE = {f.name: getattr(REFERENCE_MODEL, f.name) for f in fields(REFERENCE_MODEL) if f.name != "_target"}
OPTIONS = {"skyfall": {}, "skyfall-reference": REFERENCE}
FIRST_STEP = 399  # of three; the second one densifies
SCHEDULE = PseudoSchedule(start=10, end=1000, size_px=64, radii_m=(90.0, 80.0), target_std_m=8.0)
CURRICULUM = Curriculum((50.0,), (120.0,), (30.0,), (4,), grid=1, azimuths=2, size_px=48)


@pytest.fixture(scope="module", params=OPTIONS)
def pipeline(request, city_scene):
    with gpu.pretended_gpu() as device:
        pipeline = make_pipeline(city_scene, **OPTIONS[request.param])
        pipeline.model.to(device)
    return pipeline


def train(pipeline, directory):
    """Three steps of stage 1."""
    model, optimizers = pipeline.model.train(), make_optimizers(pipeline.model)
    densify_often(model, grow_grad2d=1e-9, max_gaussians=model.num_points + 500)
    for step in range(FIRST_STEP, FIRST_STEP + 3):
        train_step(model, pipeline, step, optimizers)


def supervise_depth(pipeline, directory):
    """One step of depth supervision."""
    model = pipeline.model.train()
    config = DepthSupervisionConfig(prior="surface", schedule=SCHEDULE)
    depth = DepthSupervision.from_config(config, model.normalized, seed=0)
    depth.step_losses(model.renderer, 500)["depth"].backward()


def run_episode(pipeline, directory):
    """Place cameras, render, weigh, and one step with a refined view."""
    model = pipeline.model.eval()
    renderer, normalized = model.renderer, model.normalized
    ground, box_m = PseudoGround(normalized, surface_height_field(normalized)), normalized.scene.box_m
    (episode,) = CURRICULUM.plan_episodes(box_m)
    poses, _ = place_cameras(CURRICULUM, episode, box_m, ground.ground_level_m,
                             lambda eye, target: find_obstacle(renderer, ground, episode, eye, target))  # fmt: skip
    store = EpisodeStore.create(directory, episode, poses, CURRICULUM.size_px, {}, farthest_depth_m(poses, box_m))
    render_views(renderer, store, 0)
    store.set_refiner({"name": "identity"}, False)
    for name in store.view_names:
        store.write_refined(name, store.rendered_view(name).image)
    assess_episode(store)
    model.train()
    camera, batch = SyntheticViews.from_store(store, normalized, 0, weighted=True, gradient_scale=0.3).draw_view(0)
    model.optimizers = make_optimizers(model)
    outputs = model(camera.to(gpu.GPU))
    sum(model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch)).values()).backward()


@torch.no_grad()
def view(pipeline, directory):
    """A frame of the viewer, and the properties that it evaluates."""
    model = pipeline.model.eval()
    outputs = model.get_outputs(viewer_camera().to(gpu.GPU))
    values = [*outputs.values(), model.colors, model.scales, model.opacities, model.shs_0, model.shs_rest]
    assert all(isinstance(value, gpu.PretendedTensor) for value in values)


WORK = {"training step": train, "depth step": supervise_depth, "episode": run_episode, "viewer": view}


@pytest.mark.parametrize("planted", [False, True], ids=["as it is", "with a planted .cpu()"])
@pytest.mark.parametrize("work", WORK)
def test_no_tensor_is_left_on_the_cpu(pipeline, work, planted, tmp_path):
    gaussians = Renderer.gaussians
    planting = patch.object(Renderer, "gaussians", lambda self, *arguments: moved_to_cpu(gaussians(self, *arguments)))
    refusal = pytest.raises(RuntimeError, match="on the CPU")
    with gpu.pretended_gpu(), planting if planted else nullcontext(), refusal if planted else nullcontext():
        WORK[work](pipeline, tmp_path)


def moved_to_cpu(gaussians):
    return type(gaussians)(gaussians.means.cpu(), gaussians.quats, gaussians.scales, gaussians.opacities)


def test_heights_are_those_of_the_cpu_and_are_not_rendered_on_the_gpu(city_scene):
    """Only the CPU rasterizer has the transmittance depths that make heights sharp."""
    model = make_pipeline(city_scene).model.eval()
    grid = model.normalized.surface.grid
    with torch.no_grad():
        expected = model.renderer.render_heights(grid)
    with gpu.pretended_gpu() as device, torch.no_grad():
        model.to(device)
        with patch.object(gpu.PretendedRasterizer, "__call__", side_effect=AssertionError("rendered on the GPU")):
            heights = model.renderer.render_heights(grid)
    np.testing.assert_array_equal(heights, expected)
    assert np.isfinite(heights).mean() > 0.9


def test_operations_on_both_devices_are_refused_as_on_a_gpu():
    with gpu.pretended_gpu() as device:
        values = torch.ones(3, 4).to(device)
        assert (values * torch.tensor(2.0)).device.type == "cuda" and torch.zeros(3, device=device).is_cuda
        with pytest.raises(RuntimeError, match=r"aten.add.Tensor has arguments on the GPU and on the CPU"):
            values + torch.ones(3, 4)
        assert (values.cpu() + torch.ones(3, 4)).device.type == "cpu"
