"""The model in training: parameter groups, checkpoints, and the gradients of synthetic views."""

import copy

import numpy as np
import pytest
import torch
from helpers.models import make_optimizers, make_pipeline, train_step

from skyfall_ns.dataparsers.camera_metadata import GRADIENT_SCALE_KEY
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.skyfall import SkyfallModel


def mean_psnr(model: SkyfallModel, pipeline) -> float:
    """Mean PSNR of the training images, dB."""
    model.eval()
    cameras, batches = pipeline.datamanager.train_dataset.cameras, pipeline.datamanager.cached_train
    with torch.no_grad():
        scores = [
            model.get_image_metrics_and_images(model.get_outputs(cameras[i : i + 1]), batch)[0]["psnr"]
            for i, batch in enumerate(batches)
        ]
    model.train()
    return float(np.mean(scores))


OPTIONAL = {"appearance": "perceptron", "entropy_weight": 0.1, "sparsity_weight": 0.1, "view_consistency_weight": 1.0,
            "image_offsets": True, "sh_degree": 1, "sh_degree_interval": 3}  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"appearance": "light"}, OPTIONAL])
def test_every_parameter_group_has_an_optimizer_and_changes(city_scene, options):
    pipeline = make_pipeline(city_scene, **options)
    model = pipeline.model.train()
    groups = model.get_param_groups()
    assert set(groups) <= set(skyfall.config.optimizers)
    before = {name: [p.detach().clone() for p in group] for name, group in groups.items()}
    optimizers = make_optimizers(model)
    psnr_before = mean_psnr(model, pipeline)
    for step in range(24):
        train_step(model, pipeline, step, optimizers)
    assert mean_psnr(model, pipeline) > psnr_before + 1.0
    for name, group in groups.items():
        assert all(torch.isfinite(p).all() for p in group), name
        assert any(not torch.equal(old, new) for old, new in zip(before[name], group, strict=True)), name


def test_checkpoints_of_any_size_load_into_the_parameters_of_the_optimizers(model):
    parameters = {name: group[0] for name, group in model.get_gaussian_param_groups().items()}
    state = {name: value[:70].clone() if name.startswith("gauss_params.") else value + 0.25
             for name, value in model.state_dict().items()}  # fmt: skip
    model.load_state_dict(state)
    assert model.num_points == 70
    for name, group in model.get_gaussian_param_groups().items():
        assert group[0] is parameters[name]
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_checkpoints_contain_gaussians_and_appearance_only(model):
    prefixes = {name.split(".")[0] for name in model.state_dict()} - {"device_indicator_param"}  # of Nerfstudio
    assert prefixes == {"gauss_params", "appearance_model"}


def test_gradient_scale_0_changes_colors_only(model, pipeline):
    """A refined image does not constrain geometry: neither gradients nor densification come from it."""
    camera, batch = pipeline.datamanager.next_train(0)
    camera.metadata[GRADIENT_SCALE_KEY] = torch.tensor([[0.0]])
    model.optimizers, model.step = make_optimizers(model), 1
    statistics = {name: copy.deepcopy(value) for name, value in model.densifier.state.items()}
    loss = model.get_loss_dict(model.get_outputs(camera), batch)["photometric"]
    loss.backward()
    model.step_post_backward(1)
    assert model.gauss_params["features_dc"].grad.abs().max() > 0
    for name in ("means", "scales", "quats", "opacities"):
        grad = model.gauss_params[name].grad
        assert grad is None or not grad.any(), name
    assert model.densifier.state == statistics


def test_gradient_scale_scales_geometry_gradients(model, pipeline):
    camera, batch = pipeline.datamanager.next_train(0)
    grads = {}
    for scale in (1.0, 0.25):
        camera.metadata[GRADIENT_SCALE_KEY] = torch.tensor([[scale]])
        model.optimizers, model.step = make_optimizers(model), 1
        model.zero_grad(set_to_none=True)
        model.renderer.shadow_maps.clear_cache()  # rendered once per step, with gradients only then
        torch.manual_seed(0)  # of the background
        model.get_loss_dict(model.get_outputs(camera), batch)["photometric"].backward()
        grads[scale] = {name: model.gauss_params[name].grad.clone() for name in ("means", "scales", "features_dc")}
    torch.testing.assert_close(grads[0.25]["features_dc"], grads[1.0]["features_dc"])
    for name in ("means", "scales"):
        torch.testing.assert_close(grads[0.25][name], 0.25 * grads[1.0][name], msg=name)
