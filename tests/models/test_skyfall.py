"""The model on a small scene: what training moves, what bounds hold, checkpoints of any size, heights over any grid."""

import copy
import math

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from skyfall_ns.errors import TrainingError
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.skyfall import SH_C0, SkyfallModel
from skyfall_ns.models.view import nadir_view

FIRST = 400  # a step at which gsplat's strategy refines


def set_up(city_scene, **options):
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data = city_scene
    for name, value in options.items():
        setattr(config.model, name, value)
    torch.manual_seed(0)
    return config.setup(device="cpu")


@pytest.fixture(scope="module")
def pipeline(city_scene):
    return set_up(city_scene)


@pytest.fixture
def model(pipeline):
    """The model as it starts; tests may change it."""
    torch.manual_seed(0)
    return copy.deepcopy(pipeline.model).train()


def optimizers_for(model: SkyfallModel) -> dict[str, torch.optim.Optimizer]:
    groups = model.get_param_groups()
    return {name: torch.optim.Adam(group, lr=skyfall.config.optimizers[name]["optimizer"].lr, eps=1e-15)
            for name, group in groups.items()}  # fmt: skip


def scores(model: SkyfallModel, pipeline) -> float:
    """Mean PSNR of the training images, dB."""
    model.eval()
    cameras, batches = pipeline.datamanager.train_dataset.cameras, pipeline.datamanager.cached_train
    with torch.no_grad():
        all_scores = [
            model.get_image_metrics_and_images(model.get_outputs(cameras[i : i + 1]), batch)[0]["psnr"]
            for i, batch in enumerate(batches)
        ]
    model.train()
    return float(np.mean(all_scores))


def step(model: SkyfallModel, pipeline, number: int, optimizers) -> None:
    """One step as the host's trainer makes it."""
    model.optimizers, model.step = optimizers, number
    camera, batch = pipeline.datamanager.next_train(number)
    for optimizer in optimizers.values():
        optimizer.zero_grad(set_to_none=True)
    loss = sum(model.get_loss_dict(model.get_outputs(camera), batch).values())
    loss.backward()
    for optimizer in optimizers.values():
        optimizer.step()
    model.step_post_backward(number)


@pytest.mark.parametrize("options", [{}, {"appearance": "embedding", "entropy_weight": 0.1, "sparsity_weight": 0.1,
                                            "shear_weight": 1.0}])  # fmt: skip
def test_every_group_has_an_optimizer_and_moves(city_scene, options):
    pipeline = set_up(city_scene, **options)
    model = pipeline.model.train()
    groups = model.get_param_groups()
    assert set(groups) <= set(skyfall.config.optimizers)
    before = {name: [p.detach().clone() for p in group] for name, group in groups.items()}
    optimizers = optimizers_for(model)
    start = scores(model, pipeline)
    for number in range(24):
        step(model, pipeline, number, optimizers)
    assert scores(model, pipeline) > start + 1.0
    for name, group in groups.items():
        assert all(torch.isfinite(p).all() for p in group), name
        assert any(not torch.equal(old, new) for old, new in zip(before[name], group, strict=True)), name


def test_opacities_survive_the_first_step(model, pipeline):
    """gsplat 1.4.0 resets them at step 0."""
    step(model, pipeline, 0, optimizers_for(model))
    assert model.opacities.sigmoid().mean().item() == pytest.approx(model.config.start_opacity, abs=0.03)


def test_pseudo_gradients_are_absolute_and_normalised(model, pipeline):
    """What gsplat's strategy asks for after a step: absgrad of image positions, at least as large as their sum's."""
    model.optimizers, model.step = optimizers_for(model), 0
    camera, batch = pipeline.datamanager.next_train(0)
    sum(model.get_loss_dict(model.get_outputs(camera), batch).values()).backward()
    signed, absolute = model.info["means2d"].grad, model.info["means2d"].absgrad
    assert absolute.max() > 0 and (absolute + 1e-9 >= signed.abs()).all()


def test_densification_splits_below_the_cap_and_stops_at_it(model, pipeline):
    model.config.densify_grad_thresh, model.config.max_gaussians = 0.0, 10**9
    model.strategy.refine_start_iter, model.strategy.refine_every = 1, 2
    count, optimizers = model.num_points, optimizers_for(model)
    for number in range(FIRST, FIRST + 3):
        step(model, pipeline, number, optimizers)
    grown = model.num_points
    assert grown > 1.1 * count
    for name, group in model.get_gaussian_param_groups().items():
        assert optimizers[name].param_groups[0]["params"][0] is group[0] and len(group[0]) == grown
    model.config.max_gaussians = count
    for number in range(FIRST + 3, FIRST + 7):
        step(model, pipeline, number, optimizers)
    assert model.num_points <= grown


def test_sizes_stay_below_the_cap_in_metres(model, pipeline):
    with torch.no_grad():
        model.scales[:] = 0.0  # 100 m
    step(model, pipeline, 0, optimizers_for(model))
    assert model.scales.exp().max() <= model.config.max_scale_m * model.on_model.scale * (1 + 1e-5)


def test_collapse_is_said_in_words(model, pipeline):
    with torch.no_grad():
        model.opacities[100:] = -20.0
    model.strategy.refine_start_iter, model.strategy.refine_every = 0, 1
    with pytest.raises(TrainingError, match=r"The scene has collapsed: \d+ of \d+ splats are left\. Use more images"):
        step(model, pipeline, FIRST, optimizers_for(model))


def test_checkpoints_of_any_size_load_into_the_optimizers_parameters(model, pipeline):
    held = {name: group[0] for name, group in model.get_gaussian_param_groups().items()}
    state = {name: value[:70].clone() if name.startswith("gauss_params.") else value + 0.25
             for name, value in model.state_dict().items()}  # fmt: skip
    model.load_state_dict(state)
    assert model.num_points == 70
    for name, group in model.get_gaussian_param_groups().items():
        assert group[0] is held[name]
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_checkpoints_hold_splats_and_light_only(model):
    kinds = {name.split(".")[0] for name in model.state_dict()} - {"device_indicator_param"}  # the host's
    assert kinds == {"gauss_params", "looks"}


def test_surface_pulls_heights_back(model):
    with torch.no_grad():
        model.means[:, 2] += 1.0 * model.on_model.scale
    lifted = model.surface_losses()["surface"].item()
    for _ in range(40):
        model.zero_grad()
        model.surface_losses()["surface"].backward()
        with torch.no_grad():
            model.means[:, 2] -= 0.03 * model.on_model.scale * model.means.grad[:, 2].sign()
    assert model.surface_losses()["surface"].item() < 0.5 * lifted
    assert lifted == pytest.approx(0.2, rel=0.3)  # a metre costs 0.2


def test_without_a_surface_or_weight_nothing_pulls(model):
    model.config.surface_weight = 0.0
    assert model.surface_losses() == {}


def test_canonical_colours_are_what_exports_write(model):
    with torch.no_grad():
        model.looks.log_gain[0] = 0.3
    torch.testing.assert_close(model.shs_0 * SH_C0 + 0.5, model.colors)
    mean = math.exp(0.3 / len(model.looks.log_gain)) ** (1 / 2.2)
    expected = (mean * model.base_colors()).clamp(0, 1)
    clear = (expected > 0.05).all(-1)  # below, the gamma code is linear
    torch.testing.assert_close(model.colors[clear], expected[clear])
    assert model.shs_rest.shape == (model.num_points, 0, 3)


def test_heights_do_not_depend_on_tiles_and_are_metres(model):
    surface = model.on_model.surface
    rows, columns = surface.height_m.shape
    grid = (surface.x_min_m, surface.y_max_m, surface.resolution_m, columns, rows)
    whole, alpha = model.render_heights(*grid)
    parts, _ = model.render_heights(*grid, tile=50)
    np.testing.assert_allclose(parts[alpha > 0.5], whole[alpha > 0.5], atol=2e-3)
    error = np.abs(whole - surface.height_m)[(alpha > 0.5) & np.isfinite(surface.height_m)]
    assert np.median(error) < 0.3  # splats start on the surface


def test_free_pinholes_agree_with_the_nadir_view(model):
    """A pinhole far above, as narrow as the scene, sees what the parallel nadir view sees."""
    model.eval()
    with torch.no_grad():
        model.opacities.fill_(5.0)
        model.scales.add_(0.5)
    distance, cell, n = 200.0, 0.01, 48  # 20 km up; 1 m a pixel
    pose = torch.eye(4)[:3].clone()
    pose[2, 3] = distance
    camera = Cameras(pose[None], distance / cell, distance / cell, n / 2, n / 2, n, n)
    with torch.no_grad():
        free = model.get_outputs(camera)
        parallel = model.render(nadir_view(-n / 2 * cell, n / 2 * cell, cell, n, n))
    inside = parallel.alpha > 0.8
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(free["accumulation"][..., 0], parallel.alpha, atol=0.05, rtol=0)
    colors = free["rgb"] - (1 - free["accumulation"]) * free["background"]
    assert (colors - parallel.color)[inside].abs().mean() < 0.01
