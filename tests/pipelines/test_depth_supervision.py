"""Depth supervision: its effect on Gaussians, gradients and densification, priors on demand, and options."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from helpers.depth_models import build_tiny_depth_anything, build_tiny_moge, record_moge_calls
from torch import nn

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.method_configs import skyfall
from skyfall_ns.pipelines.depth_supervision import DepthSupervision, DepthSupervisionConfig
from skyfall_ns.priors.pseudo_cameras import PseudoPose, PseudoSchedule
from skyfall_ns.priors.pseudo_ground import PseudoGround
from skyfall_ns.priors.surface import surface_height_field

NEAR = PseudoSchedule(
    start=10, end=1000, ramp=0, size_px=96, elevations_deg=(70.0, 45.0), radii_m=(90.0, 80.0), target_std_m=8.0
)
ACTIVE_STEP = 500


def make_pipeline_config(scene, **depth):
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data = scene
    config.depth = DepthSupervisionConfig(schedule=NEAR, **depth)
    return config


@pytest.fixture(scope="module")
def pipeline(city_scene):
    torch.manual_seed(0)
    return make_pipeline_config(city_scene).setup(device="cpu").train()


@pytest.fixture
def model(pipeline):
    """The model before training; tests may change it."""
    return copy.deepcopy(pipeline.model).train()


def make_supervision(model, **options) -> DepthSupervision:
    config = DepthSupervisionConfig(**{"schedule": NEAR, **options})
    depth = DepthSupervision.from_config(config, model.normalized, seed=0)
    assert depth is not None
    return depth


def test_initial_gaussians_agree_with_the_surface_prior(model):
    depth = make_supervision(model, loss="pearson", weight=1.0)
    for step in (20, 500, 990):
        assert depth.step_losses(model.renderer, step)["depth"].item() < 0.1
    ((pose, prediction),) = list(depth._predictions.items())[:1]
    rendering = model.renderer.render_depth(depth.pose_view(pose))
    solid = prediction.valid & (rendering.alpha > 0.5)
    assert solid.sum() > 0.95 * prediction.valid.sum() > 1000
    error_m = (rendering.depth - prediction.values)[solid].detach() / model.normalized.scale
    assert error_m.abs().median() < 0.3  # larger errors: walls, and ground behind half transparent Gaussians


def test_lifted_block_is_pulled_down(model):
    depth = make_supervision(model, schedule=replace(NEAR, stack=4), weight=1.0, rounds=100, loss="pearson")
    block = (model.means[:, 0] > 0) & (model.means[:, 1] > 0)
    meter = model.normalized.scale
    with torch.no_grad():
        model.means[block, 2] += 15 * meter
    optimizer = torch.optim.Adam([model.gauss_params["means"]], lr=0.5 * meter)
    losses, start = [], model.means[block, 2].mean().item()
    for _ in range(80):
        optimizer.zero_grad()
        loss = depth.step_losses(model.renderer, ACTIVE_STEP)["depth"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.4 * sum(losses[:4])
    assert model.means[block, 2].mean().item() < start - 3 * meter


@pytest.fixture
def prepare_pipeline(pipeline, monkeypatch):
    """Prepare the pipeline for a step with image 0, with a new copy of the model."""
    untrained, original_depth = pipeline.model, pipeline.depth_supervision

    def configure_pipeline(depth: DepthSupervision | None, step: int):
        model = copy.deepcopy(untrained).train()
        model.optimizers = {name: torch.optim.Adam(group) for name, group in model.get_param_groups().items()}
        model.step = step
        pipeline._model, pipeline.depth_supervision = model, depth
        monkeypatch.setattr(pipeline.datamanager, "train_unseen_cameras", [0])
        torch.manual_seed(1)  # the random background
        return pipeline

    yield configure_pipeline
    pipeline._model, pipeline.depth_supervision = untrained, original_depth


def train_step(pipeline, step: int):
    """Losses, gradients and densification statistics of one training step."""
    _, losses, _ = pipeline.get_train_loss_dict(step)
    sum(losses.values()).backward()
    pipeline.model.step_post_backward(step)
    gradients = {name: p.grad for name, p in pipeline.model.named_parameters() if p.grad is not None}
    return losses, gradients, pipeline.model.info, pipeline.model.densifier.state


def test_densification_and_colors_depend_on_the_training_view_only(pipeline, prepare_pipeline):
    depth = make_supervision(pipeline.model)
    without, gradients_without, info_without, state_without = train_step(prepare_pipeline(None, 450), 450)
    losses, gradients, info, state = train_step(prepare_pipeline(depth, 450), 450)
    assert set(losses) - set(without) == {"depth"} and losses["depth"] > 0
    assert (info["width"], info["height"]) == (info_without["width"], info_without["height"])
    for key in ("grad2d", "count"):
        assert torch.equal(state[key], state_without[key]) and state[key].max() > 0
    assert gradients.keys() == gradients_without.keys()
    for name, gradient in gradients.items():
        differs = not torch.equal(gradient, gradients_without[name])
        is_color = "features" in name or "embeddings" in name
        assert differs == (name.startswith("gauss_params.") and not is_color), name


def test_default_prior_is_the_surface(pipeline, prepare_pipeline):
    assert pipeline.config.depth.prior == "auto"
    prepared = prepare_pipeline(pipeline.depth_supervision, ACTIVE_STEP)
    assert "depth" in prepared.get_train_loss_dict(ACTIVE_STEP)[1]


@pytest.mark.parametrize("options", [{"prior": "none"}, {"weight": 0.0}])
def test_depth_supervision_can_be_turned_off(city_scene, prepare_pipeline, options):
    assert make_pipeline_config(city_scene, **options).setup(device="cpu").depth_supervision is None
    losses = prepare_pipeline(None, ACTIVE_STEP).get_train_loss_dict(ACTIVE_STEP)[1]
    assert "photometric" in losses and "depth" not in losses


def test_only_steps_of_the_window_have_a_pseudo_view(model):
    depth = make_supervision(model)
    assert [step for step in range(1100) if depth._config.schedule.has_view_at(step)] == list(range(20, 1000, 10))
    for step in (0, 10, 25, 1000, 1010):
        assert depth.step_losses(model.renderer, step) == {}


def test_weight_is_ramped(model):
    schedule = replace(NEAR, start=0, ramp=400, elevations_deg=(60.0, 60.0), radii_m=(90.0, 90.0))
    config = DepthSupervisionConfig(schedule=schedule, weight=2.0, loss="pearson")
    losses = []
    for step in (100, 400, 600):
        depth = DepthSupervision.from_config(config, model.normalized, seed=-step)  # the same poses at each step
        losses.append(depth.step_losses(model.renderer, step)["depth"].item())
    assert losses[1] > 0 and losses == pytest.approx([losses[1] / 4, losses[1], losses[1]])


def test_poses_follow_the_published_schedule_above_the_ground(model):
    """Skyfall-GS: elevation 45 + 35 a, radius 250 + 50 a, a = (end - step) / (end - start)."""
    ground = PseudoGround(model.normalized, surface_height_field(model.normalized))
    for step in (1010, 6000, 20990):
        a = (21000 - step) / 20000
        for pose in ground.draw_poses(PseudoSchedule(), step, torch.Generator().manual_seed(step)):
            eye, target = torch.tensor(pose.eye_m), torch.tensor(pose.target_m)
            assert (eye - target).norm().item() == pytest.approx(250 + 50 * a, rel=1e-5)
            elevation_deg = math.degrees(math.asin((eye - target)[2] / (eye - target).norm()))
            assert elevation_deg == pytest.approx(45 + 35 * a, abs=1e-3)
            assert target[2].item() == pytest.approx(ground.ground_level_m(*pose.target_m[:2]), abs=1e-5)


def test_ground_level_is_a_low_percentile_of_the_surface_nearby(model):
    surface = model.normalized.surface
    heights = surface.height_m.copy()
    heights[:] = 20.0
    heights[:, : heights.shape[1] // 5] = 3.0  # a fifth of it is lower
    normalized = replace(model.normalized, surface=replace(surface, height_m=heights))
    ground = PseudoGround(normalized, surface_height_field(normalized))
    assert ground.ground_level_m(0.0, 0.0) == pytest.approx(3.0, abs=1e-4)
    assert ground.ground_level_m(1e5, 1e5) == 0.0  # no surface there
    assert PseudoGround(replace(model.normalized, surface=None), None).ground_level_m(0.0, 0.0) == 0.0


def test_poses_inside_the_surface_or_with_targets_outside_the_scene_are_redrawn(model):
    ground = PseudoGround(model.normalized, surface_height_field(model.normalized))
    assert ground.is_valid_pose(PseudoPose((5.0, 5.0, 200.0), (0.0, 0.0, 0.0), 0))
    assert not ground.is_valid_pose(PseudoPose((5.0, 5.0, 1.0), (0.0, 0.0, 0.0), 0))
    assert not ground.is_valid_pose(PseudoPose((5.0, 5.0, 200.0), (500.0, 0.0, 0.0), 0))
    with pytest.raises(TrainingError, match=r"Hardly any pseudo camera.*\. Raise --pipeline\.depth\.radii-m"):
        ground.draw_poses(replace(NEAR, radii_m=(0.5, 0.5)), ACTIVE_STEP, torch.Generator().manual_seed(0))


def test_targets_are_at_the_image_center_in_model_space(model):
    normalized = replace(model.normalized, center_m=(7.0, -3.0, 0.0))
    depth = DepthSupervision.from_config(DepthSupervisionConfig(schedule=NEAR, prior="plane"), normalized, seed=0)
    view = depth.pose_view(PseudoPose((40.0, 0.0, 50.0), (10.0, 5.0, 2.0), 0))
    target = torch.tensor([(10.0 - 7.0) * 0.01, (5.0 + 3.0) * 0.01, 0.02, 1.0], dtype=torch.float64)
    projected = view.intrinsics @ (view.camera_from_model @ target)[:3]
    distance = 0.01 * math.dist((40.0, 0.0, 50.0), (10.0, 5.0, 2.0))
    torch.testing.assert_close(projected, torch.tensor([48.0, 48.0, 1.0], dtype=torch.float64) * distance)


def test_scene_without_a_surface_has_no_default_prior_and_refuses_the_surface_prior(model):
    normalized = replace(model.normalized, surface=None)
    assert DepthSupervision.from_config(DepthSupervisionConfig(), normalized, seed=0) is None
    with pytest.raises(TrainingError, match=r"no dense surface.*--pipeline\.depth\.prior none"):
        DepthSupervision.from_config(DepthSupervisionConfig(prior="surface"), normalized, seed=0)


def test_missing_weights_are_reported_before_training_only(city_scene):
    config = make_pipeline_config(city_scene, prior="moge", weights="nobody/nothing")
    with pytest.raises(MissingExtraError, match=r"nobody/nothing.*not on this machine.*Run `hf download"):
        config.setup(device="cpu")
    assert config.setup(device="cpu", test_mode="inference").depth_supervision is None


def test_missing_weights_are_not_downloaded(model, monkeypatch):
    pytest.importorskip("transformers", reason="the extra `depth` is not installed")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("used the network"))
    with pytest.raises(MissingExtraError, match=r"not on this machine.*\. Run `hf download nobody/nothing`"):
        make_supervision(model, prior="transformers", weights="nobody/nothing")


def test_learned_priors_get_clamped_images_and_the_exact_field_of_view(pipeline, monkeypatch, tmp_path):
    calls = record_moge_calls(monkeypatch)
    build_tiny_moge(tmp_path)
    depth = make_supervision(pipeline.model, prior="moge", weights=str(tmp_path))
    model = copy.deepcopy(pipeline.model).train()
    with torch.no_grad():
        model.features_dc.mul_(20)  # far outside 0..1
    loss = depth.step_losses(model.renderer, ACTIVE_STEP)["depth"]
    assert calls == [{"fov_x": pytest.approx(60.0), "shape": (3, 96, 96), "low": 0.0, "high": 1.0,
                      "dtype": torch.float32, "apply_mask": True, "use_fp16": False}]  # fmt: skip
    loss.backward()
    assert model.gauss_params["means"].grad.abs().max() > 0 and model.gauss_params["features_dc"].grad is None


def test_priors_are_loaded_on_demand(pipeline, prepare_pipeline, monkeypatch, tmp_path):
    """They are neither modules of the pipeline nor in checkpoints, run once per pose of a stack, and are released after
    the window."""
    calls = record_moge_calls(monkeypatch)
    build_tiny_moge(tmp_path)
    before = set(pipeline.state_dict())
    depth = make_supervision(pipeline.model, prior="moge", weights=str(tmp_path), rounds=2)
    prepare_pipeline(depth, ACTIVE_STEP)
    stack = NEAR.stack
    for step in range(20, 20 + 10 * (2 * stack + 1), 10):
        depth.step_losses(pipeline.model.renderer, step)
    assert len(calls) == stack + 1
    assert set(pipeline.state_dict()) == before
    assert not any(module is depth._prior.model for module in pipeline.modules()) and not isinstance(depth, nn.Module)
    depth.step_losses(pipeline.model.renderer, NEAR.end)
    assert depth._prior is None and not depth._predictions


def test_tiny_transformers_model_gives_finite_gradients(model, tmp_path):
    depth = make_supervision(model, prior="transformers", weights=str(build_tiny_depth_anything(tmp_path)))
    loss = depth.step_losses(model.renderer, ACTIVE_STEP)["depth"]
    loss.backward()
    assert 0 < loss.item() < 2 and torch.isfinite(model.gauss_params["means"].grad).all()


@pytest.mark.parametrize("loss", ["pearson", "pearson_patch", "rank", "modgs_ordinal", "ssi", "gradient"])
def test_every_loss_is_finite(model, loss):
    value = make_supervision(model, loss=loss).step_losses(model.renderer, ACTIVE_STEP)["depth"]
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(model.gauss_params["means"].grad).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": replace(NEAR, end=5)}, r"depth\.end is 5\. Pass a step after"),
        ({"schedule": replace(NEAR, interval=0)}, r"depth\.interval is 0\. Pass a number of at least 1"),
        ({"schedule": replace(NEAR, elevations_deg=(95.0, 45.0))}, r"depth\.elevations-deg is 95, 45\. Pass a number"),
        ({"weight": -1.0}, r"depth\.weight is -1\.0\. Pass a number of at least 0"),
        ({"weight": math.nan}, r"depth\.weight is nan\. Pass a number of at least 0"),
        ({"rounds": 0}, r"depth\.rounds is 0\. Pass a number of at least 1"),
        ({"device": "toaster"}, r"depth\.device toaster cannot be used on this machine\. Pass cpu"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(model, options, message):
    with pytest.raises(TrainingError, match=message):
        make_supervision(model, **options)
