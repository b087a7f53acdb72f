"""Depth supervision of training steps: what it pulls, what it leaves alone, what it costs when it is off."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from helpers.guests import install_stub_moge, tiny_depth_anything
from torch import nn

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.method_configs import skyfall
from skyfall_ns.pipelines.depth_supervision import DepthSupervision, DepthSupervisionConfig
from skyfall_ns.priors.pseudo_cameras import PseudoPose, PseudoSchedule
from skyfall_ns.priors.pseudo_ground import PseudoGround, height_field

NEAR = PseudoSchedule(
    start=10, end=1000, ramp=0, size_px=96, elevations_deg=(70.0, 45.0), radii_m=(90.0, 80.0), target_std_m=8.0
)
ACTIVE = 500


def pipeline_config(scene, **depth):
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data = scene
    config.depth = DepthSupervisionConfig(schedule=NEAR, **depth)
    return config


@pytest.fixture(scope="module")
def pipeline(city_scene):
    torch.manual_seed(0)
    return pipeline_config(city_scene).setup(device="cpu").train()


@pytest.fixture
def model(pipeline):
    """The model as it starts; tests may change it."""
    return copy.deepcopy(pipeline.model).train()


def supervision(model, **options) -> DepthSupervision:
    config = DepthSupervisionConfig(**{"schedule": NEAR, **options})
    depth = DepthSupervision.of(config, model.on_model, seed=0)
    assert depth is not None
    return depth


def test_splats_start_where_the_surface_says(model):
    depth = supervision(model, loss="pearson", weight=1.0)
    for step in (20, 500, 990):
        assert depth.losses(model, step)["depth"].item() < 0.1
    ((pose, said),) = list(depth._said.items())[:1]
    drawn = model.render_depth(depth.view(pose))
    seen = said.valid & (drawn.alpha > 0.5)
    assert seen.sum() > 0.95 * said.valid.sum() > 1000
    error_m = (drawn.depth - said.values)[seen].detach() / model.on_model.scale
    assert error_m.abs().median() < 0.3  # what is left are walls, and the ground through half transparent splats


def test_a_lifted_block_is_pulled_down(model):
    depth = supervision(model, schedule=replace(NEAR, stack=4), weight=1.0, rounds=100, loss="pearson")
    block = (model.means[:, 0] > 0) & (model.means[:, 1] > 0)
    metre = model.on_model.scale
    with torch.no_grad():
        model.means[block, 2] += 15 * metre
    optimizer = torch.optim.Adam([model.gauss_params["means"]], lr=0.5 * metre)
    losses, start = [], model.means[block, 2].mean().item()
    for _ in range(80):
        optimizer.zero_grad()
        loss = depth.losses(model, ACTIVE)["depth"]
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-4:]) < 0.4 * sum(losses[:4])
    assert model.means[block, 2].mean().item() < start - 3 * metre


@pytest.fixture
def trainer(pipeline, monkeypatch):
    """The pipeline as the host's trainer holds it, with a fresh copy of the model, about to see image 0."""
    untrained, depth_before = pipeline.model, pipeline.depth

    def begin(depth: DepthSupervision | None, step: int):
        model = copy.deepcopy(untrained).train()
        model.optimizers = {name: torch.optim.Adam(group) for name, group in model.get_param_groups().items()}
        model.step = step
        pipeline._model, pipeline.depth = model, depth
        monkeypatch.setattr(pipeline.datamanager, "train_unseen_cameras", [0])
        torch.manual_seed(1)  # the random background
        return pipeline

    yield begin
    pipeline._model, pipeline.depth = untrained, depth_before


def train_step(pipeline, step: int):
    """Losses, gradients and densification's statistics of one training step."""
    _, losses, _ = pipeline.get_train_loss_dict(step)
    sum(losses.values()).backward()
    pipeline.model.step_post_backward(step)
    gradients = {name: p.grad for name, p in pipeline.model.named_parameters() if p.grad is not None}
    return losses, gradients, pipeline.model.info, pipeline.model.strategy_state


def test_densification_and_colours_see_the_training_view_only(pipeline, trainer):
    depth = supervision(pipeline.model)
    without, gradients_without, info_without, state_without = train_step(trainer(None, 450), 450)
    losses, gradients, info, state = train_step(trainer(depth, 450), 450)
    assert set(losses) - set(without) == {"depth"} and losses["depth"] > 0
    assert (info["width"], info["height"]) == (info_without["width"], info_without["height"])
    for key in ("grad2d", "count"):
        assert torch.equal(state[key], state_without[key]) and state[key].max() > 0
    assert gradients.keys() == gradients_without.keys()
    for name, gradient in gradients.items():
        moved = not torch.equal(gradient, gradients_without[name])
        colour = "features" in name or "embeddings" in name
        assert moved == (name.startswith("gauss_params.") and not colour), name


def test_the_default_is_the_surface(pipeline, trainer):
    assert pipeline.config.depth.prior == "auto"
    assert "depth" in trainer(pipeline.depth, ACTIVE).get_train_loss_dict(ACTIVE)[1]


@pytest.mark.parametrize("off", [{"prior": "none"}, {"weight": 0.0}])
def test_off_costs_nothing(city_scene, trainer, off):
    assert pipeline_config(city_scene, **off).setup(device="cpu").depth is None
    losses = trainer(None, ACTIVE).get_train_loss_dict(ACTIVE)[1]
    assert "photometric" in losses and "depth" not in losses


def test_only_steps_of_the_window_have_a_pseudo_view(model):
    depth = supervision(model)
    assert [step for step in range(1100) if depth._config.schedule.active(step)] == list(range(20, 1000, 10))
    for step in (0, 10, 25, 1000, 1010):
        assert depth.losses(model, step) == {}


def test_the_weight_is_ramped(model):
    schedule = replace(NEAR, start=0, ramp=400, elevations_deg=(60.0, 60.0), radii_m=(90.0, 90.0))
    config = DepthSupervisionConfig(schedule=schedule, weight=2.0, loss="pearson")
    losses = []
    for step in (100, 400, 600):
        depth = DepthSupervision.of(config, model.on_model, seed=-step)  # the same poses at each step
        losses.append(depth.losses(model, step)["depth"].item())
    assert losses[1] > 0 and losses == pytest.approx([losses[1] / 4, losses[1], losses[1]])


def test_published_schedule_above_the_ground(model):
    """Skyfall-GS: elevation 45 + 35 a, radius 250 + 50 a, a = (end - it) / (end - start)."""
    ground = PseudoGround(model.on_model, height_field(model.on_model))
    for step in (1010, 6000, 20990):
        a = (21000 - step) / 20000
        for pose in ground.draw(PseudoSchedule(), step, torch.Generator().manual_seed(step)):
            eye, target = torch.tensor(pose.eye_m), torch.tensor(pose.target_m)
            assert (eye - target).norm().item() == pytest.approx(250 + 50 * a, rel=1e-5)
            rise = math.degrees(math.asin((eye - target)[2] / (eye - target).norm()))
            assert rise == pytest.approx(45 + 35 * a, abs=1e-3)
            assert target[2].item() == pytest.approx(ground.level_m(*pose.target_m[:2]), abs=1e-5)


def test_ground_is_a_low_percentile_of_the_surface_nearby(model):
    surface = model.on_model.surface
    heights = surface.height_m.copy()
    heights[:] = 20.0
    heights[:, : heights.shape[1] // 5] = 3.0  # a fifth of it is lower
    on_model = replace(model.on_model, surface=replace(surface, height_m=heights))
    ground = PseudoGround(on_model, height_field(on_model))
    assert ground.level_m(0.0, 0.0) == pytest.approx(3.0, abs=1e-4)
    assert ground.level_m(1e5, 1e5) == 0.0  # nothing known there
    assert PseudoGround(replace(model.on_model, surface=None), None).level_m(0.0, 0.0) == 0.0


def test_cameras_inside_the_surface_or_looking_elsewhere_are_drawn_again(model):
    ground = PseudoGround(model.on_model, height_field(model.on_model))
    assert ground.admits(PseudoPose((5.0, 5.0, 200.0), (0.0, 0.0, 0.0), 0))
    assert not ground.admits(PseudoPose((5.0, 5.0, 1.0), (0.0, 0.0, 0.0), 0))
    assert not ground.admits(PseudoPose((5.0, 5.0, 200.0), (500.0, 0.0, 0.0), 0))
    with pytest.raises(TrainingError, match=r"stands clear.*\. Raise --pipeline\.depth\.radii-m"):
        ground.draw(replace(NEAR, radii_m=(0.5, 0.5)), ACTIVE, torch.Generator().manual_seed(0))


def test_views_look_at_their_targets_in_model_space(model):
    on_model = replace(model.on_model, centre_m=(7.0, -3.0, 0.0))
    depth = DepthSupervision.of(DepthSupervisionConfig(schedule=NEAR, prior="plane"), on_model, seed=0)
    view = depth.view(PseudoPose((40.0, 0.0, 50.0), (10.0, 5.0, 2.0), 0))
    target = torch.tensor([(10.0 - 7.0) * 0.01, (5.0 + 3.0) * 0.01, 0.02, 1.0], dtype=torch.float64)
    seen = view.intrinsics @ (view.camera_from_model @ target)[:3]
    distance = 0.01 * math.dist((40.0, 0.0, 50.0), (10.0, 5.0, 2.0))
    torch.testing.assert_close(seen, torch.tensor([48.0, 48.0, 1.0], dtype=torch.float64) * distance)


def test_without_a_surface_auto_is_none_and_surface_is_an_error(model):
    bare = replace(model.on_model, surface=None)
    assert DepthSupervision.of(DepthSupervisionConfig(), bare, seed=0) is None
    with pytest.raises(TrainingError, match=r"no dense surface.*--pipeline\.depth\.prior none"):
        DepthSupervision.of(DepthSupervisionConfig(prior="surface"), bare, seed=0)


def test_missing_package_stops_training_before_it_starts_and_nothing_else(city_scene):
    config = pipeline_config(city_scene, prior="moge")
    with pytest.raises(MissingExtraError, match=r"moge.*not installed\. Run `pip install git"):
        config.setup(device="cpu")
    assert config.setup(device="cpu", test_mode="inference").depth is None


def test_missing_weights_are_not_downloaded(model, monkeypatch):
    pytest.importorskip("transformers", reason="the extra `depth` is not installed")
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    with pytest.raises(MissingExtraError, match=r"not on this machine.*\. Run `hf download nobody/nothing`"):
        supervision(model, prior="transformers", weights="nobody/nothing")


def test_learned_priors_see_clamped_pictures_with_the_true_field_of_view(pipeline, monkeypatch, tmp_path):
    moge = install_stub_moge(monkeypatch)
    (tmp_path / "model.pt").touch()
    depth = supervision(pipeline.model, prior="moge", weights=str(tmp_path))
    model = copy.deepcopy(pipeline.model).train()
    with torch.no_grad():
        model.features_dc.mul_(20)  # far beyond 0..1
    loss = depth.losses(model, ACTIVE)["depth"]
    assert moge.asked == [{"fov_x": pytest.approx(60.0), "shape": (3, 96, 96), "low": 0.0, "high": 1.0,
                           "use_fp16": False}]  # fmt: skip
    loss.backward()
    assert model.gauss_params["means"].grad.abs().max() > 0 and model.gauss_params["features_dc"].grad is None


def test_priors_are_guests(pipeline, trainer, monkeypatch, tmp_path):
    """Neither modules of the pipeline nor in its checkpoint, asked once per pose and stack, let go after the window."""
    moge = install_stub_moge(monkeypatch)
    (tmp_path / "model.pt").touch()
    before = set(pipeline.state_dict())
    depth = supervision(pipeline.model, prior="moge", weights=str(tmp_path), rounds=2)
    trainer(depth, ACTIVE)
    stack = NEAR.stack
    for step in range(20, 20 + 10 * (2 * stack + 1), 10):
        depth.losses(pipeline.model, step)
    assert len(moge.asked) == stack + 1
    assert set(pipeline.state_dict()) == before
    assert not any(module is moge for module in pipeline.modules()) and not isinstance(depth, nn.Module)
    depth.losses(pipeline.model, NEAR.end)
    assert depth._prior is None and not depth._said


def test_a_tiny_real_model_supervises(model, tmp_path):
    depth = supervision(model, prior="transformers", weights=str(tiny_depth_anything(tmp_path)))
    loss = depth.losses(model, ACTIVE)["depth"]
    loss.backward()
    assert 0 < loss.item() < 2 and torch.isfinite(model.gauss_params["means"].grad).all()


@pytest.mark.parametrize("loss", ["pearson", "pearson_patch", "rank", "modgs_ordinal", "ssi", "gradient"])
def test_every_loss_is_finite_on_real_splats(model, loss):
    value = supervision(model, loss=loss).losses(model, ACTIVE)["depth"]
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(model.gauss_params["means"].grad).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": replace(NEAR, end=5)}, r"depth\.end 5 makes no pseudo cameras\. Pass a step after"),
        ({"schedule": replace(NEAR, interval=0)}, r"depth\.interval 0 .*\. Pass a positive"),
        ({"schedule": replace(NEAR, elevations_deg=(95.0, 45.0))}, r"depth\.elevations-deg \(95\.0, 45\.0\)"),
        ({"weight": -1.0}, r"depth\.weight is -1\.0\. Pass 0 or more"),
        ({"weight": math.nan}, r"depth\.weight is nan\. Pass 0 or more"),
        ({"rounds": 0}, r"depth\.rounds is 0\. Pass 1 or more"),
        ({"device": "toaster"}, r"depth\.device toaster cannot be used on this machine\. Pass cpu"),
    ],
)  # fmt: skip
def test_numbers_without_sense_are_named(model, options, message):
    with pytest.raises(TrainingError, match=message):
        supervision(model, **options)
