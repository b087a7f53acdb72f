"""Densification in the model: bounds of number, size and opacity, and scenes that collapse."""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers.models import densify_often, make_optimizers, train_step

from skyfall_ns.errors import TrainingError
from skyfall_ns.method_configs import REFERENCE_MODEL
from skyfall_ns.models.densification.strategy import make_strategy, steps_since_reset
from skyfall_ns.models.initialization import SPARSE_VIEW_OPACITY

REFINE_STEP = 400  # a step at which gsplat's strategy densifies


def test_opacities_are_not_reset_at_step_0(model, pipeline):
    """gsplat 1.4.0 resets them there."""
    train_step(model, pipeline, 0, make_optimizers(model))
    assert model.opacities.sigmoid().mean().item() == pytest.approx(SPARSE_VIEW_OPACITY, abs=0.03)


def test_gradients_of_image_positions_are_absolute(model, pipeline):
    """As gsplat's strategy requires after a step: absgrad of image positions, at least as large as that of the sum."""
    model.optimizers, model.step = make_optimizers(model), 0
    camera, batch = pipeline.datamanager.next_train(0)
    sum(model.get_loss_dict(model.get_outputs(camera), batch).values()).backward()
    signed, absolute = model.info["means2d"].grad, model.info["means2d"].absgrad
    assert absolute.max() > 0 and (absolute + 1e-9 >= signed.abs()).all()


def test_densification_stops_at_max_gaussians(model, pipeline):
    cap, optimizers = model.num_points + 500, make_optimizers(model)
    densify_often(model, grow_grad2d=0.0, max_gaussians=cap, prune_opa=0.0)
    for step in range(REFINE_STEP, REFINE_STEP + 6):
        train_step(model, pipeline, step, optimizers)
        assert model.num_points <= cap
    assert model.num_points == cap
    for name, group in model.get_gaussian_param_groups().items():
        assert optimizers[name].param_groups[0]["params"][0] is group[0] and len(group[0]) == cap


def test_large_gaussians_are_pruned_before_any_opacity_reset(model, pipeline):
    """gsplat 1.4.0 would wait for the first reset, which never comes here."""
    optimizers = make_optimizers(model)
    model.config.max_scale_m = 100.0
    with torch.no_grad():
        model.scales[:3] = np.log(20.0 * model.normalized.scale)
        model.means[:3] = model.means.mean(0)
        model.features_dc[:3] = model.features_dc[:1] + torch.arange(3)[:, None]  # to recognize them
    colors = model.features_dc[:3, 0].tolist()
    densify_often(model, grow_grad2d=np.inf)
    for step in range(REFINE_STEP, REFINE_STEP + 3):
        train_step(model, pipeline, step, optimizers)
    assert model.scales.exp().max() < 3.0 * model.normalized.scale
    assert not np.isclose(model.features_dc[:, 0].detach().numpy()[:, None], colors, atol=1e-4).all(1).any()


def test_densification_none_keeps_the_number_of_gaussians(pipeline):
    config = copy.deepcopy(pipeline.config)
    config.model.densification, config.model.warmup_length, config.model.refine_every = "none", 1, 1
    config.model.densify_grad_thresh = 0.0
    model = config.setup(device="cpu").model.train()
    count, optimizers = model.num_points, make_optimizers(model)
    for step in range(REFINE_STEP, REFINE_STEP + 3):
        train_step(model, pipeline, step, optimizers)
    assert model.num_points == count and not model.info["means2d"].__dict__.get("absgrad")


def test_mcmc_relocates_transparent_gaussians_and_keeps_their_number(pipeline):
    config = copy.deepcopy(pipeline.config)
    config.model.densification, config.model.warmup_length, config.model.refine_every = "mcmc", 1, 2
    model = config.setup(device="cpu").model.train()
    count, optimizers = model.num_points, make_optimizers(model)
    with torch.no_grad():
        model.opacities[: count // 3] = -6.0
        model.means[: count // 3] += 10.0  # a kilometer away
    for step in range(REFINE_STEP, REFINE_STEP + 3):
        train_step(model, pipeline, step, optimizers)
    assert model.num_points == count
    assert model.means.max() < 5.0 and model.opacities.sigmoid().min() >= 0.005
    before = model.means.detach().clone()
    train_step(model, pipeline, REFINE_STEP + 3, optimizers)
    assert not torch.equal(model.means, before)  # the optimizers have the parameters that are rendered


def test_sizes_are_limited_to_max_scale_m(model, pipeline):
    with torch.no_grad():
        model.scales[:] = 0.0  # 100 m
    train_step(model, pipeline, 0, make_optimizers(model))
    assert model.scales.exp().max() <= model.config.max_scale_m * model.normalized.scale * (1 + 1e-5)


def test_pruned_scene_is_reported_as_collapsed(model, pipeline):
    with torch.no_grad():
        model.opacities[100:] = -20.0
    densify_often(model, refine_every=1)
    with pytest.raises(
        TrainingError, match=r"The scene has collapsed: \d+ of \d+ Gaussians are left\. Use more images"
    ):
        train_step(model, pipeline, REFINE_STEP, make_optimizers(model))


def test_transparent_scene_is_reported_as_collapsed(model):
    model.config.densification = "none"
    with torch.no_grad():
        model.gauss_params["opacities"][100:] = -6.0
    model.densifier.stop_if_collapsed(1)  # opacities are checked every refine_every steps
    with pytest.raises(TrainingError, match=r"collapsed: 100 of \d+ Gaussians are left\. Use more images, a lower"):
        model.densifier.stop_if_collapsed(model.config.refine_every)


def test_steps_since_reset_count_only_after_resets_of_densification(model):
    config = model.config
    config.refine_every, config.reset_alpha_every, config.stop_split_at = 100, 2, 500
    model.densifier.restart(0, config)
    for step, since in ((0, math.inf), (199, math.inf), (200, 0), (399, 199), (450, 50), (650, 250)):
        model.step = step
        assert steps_since_reset(model.densifier.strategy, model.step - model.densifier.start_step) == since, step
    model.densifier.restart(1000, config)  # steps count from the restart
    for step, since in ((1199, math.inf), (1200, 0), (1650, 250)):
        model.step = step
        assert steps_since_reset(model.densifier.strategy, model.step - model.densifier.start_step) == since, step
    config.densification = "mcmc"
    model.densifier.restart(0, config)
    assert steps_since_reset(model.densifier.strategy, model.step - model.densifier.start_step) == math.inf


def test_published_densification_ignores_screen_sizes_and_does_not_pause_after_a_reset(model):
    """Both are so in Skyfall-GS: it tests screen sizes when they have just been reset to 0."""
    published = make_strategy(REFERENCE_MODEL, model.normalized)
    assert published.pause_refine_after_reset == 0 and published.prune_scale3d == pytest.approx(0.128)
    ours = make_strategy(model.config, model.normalized)
    assert ours.pause_refine_after_reset == len(model.normalized.image_names) + model.config.refine_every
    for strategy, expected in ((published, 0), (dataclasses.replace(published, refine_scale2d_stop_iter=4000), 3)):
        model.gauss_params["opacities"].data[:] = 0.0
        state = strategy.initialize_state(scene_scale=1.0)
        count = model.num_points
        state |= {"grad2d": torch.zeros(count), "count": torch.ones(count), "radii": torch.zeros(count)}
        state |= {"absolute": torch.zeros(count)}
        state["radii"][:3] = 0.9  # of the image
        pruned = strategy._prune_gs(model.gauss_params, make_optimizers(model), state, step=1100)
        assert pruned == expected


def test_entropy_of_all_gaussians_reaches_those_that_no_image_shows(model):
    hidden = torch.zeros(model.num_points, dtype=torch.bool)
    for among, reaches in (("visible", False), ("all", True)):
        model.regularization.options = dataclasses.replace(model.config, entropy_weight=10.0, entropy_gaussians=among)
        loss = model.regularization.opacity_losses(hidden, math.inf)["entropy"]
        (gradient,) = torch.autograd.grad(loss, model.gauss_params["opacities"])
        assert bool(gradient.abs().max() > 0) is reaches
    opacities = model.gauss_params["opacities"].detach().sigmoid()
    entropy = -(opacities * opacities.log() + (1 - opacities) * (1 - opacities).log()).mean()
    assert loss.item() == pytest.approx(10 * entropy.item(), rel=1e-5)
