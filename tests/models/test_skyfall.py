"""The model on a small scene: what training moves, what bounds hold, checkpoints of any size, heights over any grid."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.viewer.utils import parse_object
from nerfstudio.viewer.viewer_elements import ViewerControl, ViewerElement

from skyfall_ns.dataparsers.camera_metadata import MOVES_KEY
from skyfall_ns.errors import SceneError, TrainingError
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.appearance.lighting import FILL_LIGHT, encode
from skyfall_ns.models.appearance.spherical_harmonics import SH_C0
from skyfall_ns.models.densification.strategy import since_reset
from skyfall_ns.models.geometry.height_map import FEW_PULL, MANY_VIEWS, NEAR_M, draw_heights
from skyfall_ns.models.geometry.view import nadir_view, view_of
from skyfall_ns.models.initialization import FEW_OPACITY
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.scene.scene import Scene
from skyfall_ns.viewer.appearance_panel import CANONICAL

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


OPTIONAL = {"appearance": "perceptron", "entropy_weight": 0.1, "sparsity_weight": 0.1, "shear_weight": 1.0,
            "pose_shift": True, "sh_degree": 1, "sh_degree_interval": 3}  # fmt: skip


@pytest.mark.parametrize("options", [{}, {"appearance": "light"}, OPTIONAL])
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
    assert model.opacities.sigmoid().mean().item() == pytest.approx(FEW_OPACITY, abs=0.03)


def test_pseudo_gradients_are_absolute_and_normalised(model, pipeline):
    """What gsplat's strategy asks for after a step: absgrad of image positions, at least as large as their sum's."""
    model.optimizers, model.step = optimizers_for(model), 0
    camera, batch = pipeline.datamanager.next_train(0)
    sum(model.get_loss_dict(model.get_outputs(camera), batch).values()).backward()
    signed, absolute = model.info["means2d"].grad, model.info["means2d"].absgrad
    assert absolute.max() > 0 and (absolute + 1e-9 >= signed.abs()).all()


def refine_often(model: SkyfallModel, **thresholds: float) -> None:
    """Let the strategy act at every second step."""
    settings = {"refine_start_iter": 1, "refine_every": 2, **thresholds}
    for name, value in settings.items():
        assert hasattr(model.strategy, name)
        setattr(model.strategy, name, value)


def test_densification_grows_to_the_cap_and_stops_there(model, pipeline):
    cap, optimizers = model.num_points + 500, optimizers_for(model)
    refine_often(model, grow_grad2d=0.0, max_gaussians=cap, prune_opa=0.0)
    for number in range(FIRST, FIRST + 6):
        step(model, pipeline, number, optimizers)
        assert model.num_points <= cap
    assert model.num_points == cap
    for name, group in model.get_gaussian_param_groups().items():
        assert optimizers[name].param_groups[0]["params"][0] is group[0] and len(group[0]) == cap


def test_screen_giants_are_pruned(model, pipeline):
    """Before any opacity reset; gsplat 1.4.0 would wait for the first one, which never comes here."""
    optimizers = optimizers_for(model)
    model.config.max_scale_m = 100.0
    with torch.no_grad():
        model.scales[:3] = np.log(20.0 * model.on_model.scale)
        model.means[:3] = model.means.mean(0)
        model.features_dc[:3] = model.features_dc[:1] + torch.arange(3)[:, None]  # to know them again
    own = model.features_dc[:3, 0].tolist()
    refine_often(model, grow_grad2d=np.inf)
    for number in range(FIRST, FIRST + 3):
        step(model, pipeline, number, optimizers)
    assert model.scales.exp().max() < 3.0 * model.on_model.scale
    assert not np.isclose(model.features_dc[:, 0].detach().numpy()[:, None], own, atol=1e-4).all(1).any()


def test_growth_none_only_moves_splats(pipeline):
    config = copy.deepcopy(pipeline.config)
    config.model.growth, config.model.warmup_length, config.model.refine_every = "none", 1, 1
    config.model.densify_grad_thresh = 0.0
    model = config.setup(device="cpu").model.train()
    count, optimizers = model.num_points, optimizers_for(model)
    for number in range(FIRST, FIRST + 3):
        step(model, pipeline, number, optimizers)
    assert model.num_points == count and not model.info["means2d"].__dict__.get("absgrad")


def test_relocation_keeps_the_number_and_leaves_no_dead(pipeline):
    config = copy.deepcopy(pipeline.config)
    config.model.growth, config.model.warmup_length, config.model.refine_every = "relocate", 1, 2
    model = config.setup(device="cpu").model.train()
    count, optimizers = model.num_points, optimizers_for(model)
    with torch.no_grad():
        model.opacities[: count // 3] = -6.0
        model.means[: count // 3] += 10.0  # a kilometre away
    for number in range(FIRST, FIRST + 3):
        step(model, pipeline, number, optimizers)
    assert model.num_points == count
    assert model.means.max() < 5.0 and model.opacities.sigmoid().min() >= 0.005
    before = model.means.detach().clone()
    step(model, pipeline, FIRST + 3, optimizers)
    assert not torch.equal(model.means, before)  # the optimizers hold the parameters that are drawn


def test_sizes_stay_below_the_cap_in_metres(model, pipeline):
    with torch.no_grad():
        model.scales[:] = 0.0  # 100 m
    step(model, pipeline, 0, optimizers_for(model))
    assert model.scales.exp().max() <= model.config.max_scale_m * model.on_model.scale * (1 + 1e-5)


def test_collapse_is_said_in_words(model, pipeline):
    with torch.no_grad():
        model.opacities[100:] = -20.0
    refine_often(model, refine_every=1)
    with pytest.raises(TrainingError, match=r"The scene has collapsed: \d+ of \d+ splats are left\. Use more images"):
        step(model, pipeline, FIRST, optimizers_for(model))


def test_entropy_rests_only_after_resets_that_growth_makes(model):
    config = model.config
    config.refine_every, config.reset_alpha_every, config.stop_split_at = 100, 2, 500
    model.grow_from(0, config)
    for step_number, since in ((0, math.inf), (199, math.inf), (200, 0), (399, 199), (450, 50), (650, 250)):
        model.step = step_number
        assert since_reset(model.strategy, model.step - model.growth_began) == since, step_number
    model.grow_from(1000, config)  # a window that begins later counts its own steps
    for step_number, since in ((1199, math.inf), (1200, 0), (1650, 250)):
        model.step = step_number
        assert since_reset(model.strategy, model.step - model.growth_began) == since, step_number
    config.growth = "relocate"
    model.grow_from(0, config)
    assert since_reset(model.strategy, model.step - model.growth_began) == math.inf


def test_a_scene_too_faint_to_be_seen_has_collapsed_too(model):
    model.config.growth = "none"
    with torch.no_grad():
        model.gauss_params["opacities"][100:] = -6.0
    model._stop_if_collapsed(1)  # counted now and then
    with pytest.raises(TrainingError, match=r"collapsed: 100 of \d+ splats are left\. Use more images, a lower"):
        model._stop_if_collapsed(model.config.refine_every)


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


def filtered(pipeline):
    """A pipeline whose model has the 3D filter."""
    config = copy.deepcopy(pipeline.config)
    config.model.filter_3d = True
    return config.setup(device="cpu")


def finest_gsd(model: SkyfallModel) -> float:
    """Metres per pixel across the line of sight, of the sharpest image."""
    images = [model.on_model.scene.image(name) for name in model.on_model.image_names]
    return 1 / max(np.linalg.svd(np.array(i.camera["matrix"])[:, :3], compute_uv=False).max() for i in images)


def test_no_splat_is_thinner_than_the_images_resolve(model, pipeline):
    smooth = filtered(pipeline).model.train()
    least = np.sqrt(0.2) * finest_gsd(model) * model.on_model.scale
    assert model.gaussians().scales.min() < 0.5 * least <= 1.001 * smooth.gaussians().scales.min()
    torch.testing.assert_close(smooth.scales, model.scales)  # parameters are as they were
    optimizers = optimizers_for(smooth)
    refine_often(smooth, grow_grad2d=0.0)
    count = smooth.num_points
    for number in range(FIRST, FIRST + 3):
        step(smooth, pipeline, number, optimizers)
    assert smooth.num_points > count and 1.001 * smooth.gaussians().scales.min() >= least


def test_exported_splats_are_the_filtered_ones(pipeline, tmp_path, monkeypatch):
    from nerfstudio.scripts import exporter

    trained = filtered(pipeline)
    trained.model.load_state_dict(few(trained.model, 2000))
    trained.eval()
    monkeypatch.setattr(exporter, "eval_setup", lambda *_, **__: (None, trained, None, None))
    exporter.ExportGaussianSplat(load_config=tmp_path / "config.yml", output_dir=tmp_path).main()
    header, body = (tmp_path / "splat.ply").read_bytes().split(b"end_header\n", 1)
    names = [line.split()[-1].decode() for line in header.splitlines() if line.startswith(b"property float")]
    written = dict(zip(names, np.frombuffer(body, "<f4").reshape(-1, len(names)).T, strict=True))
    drawn = trained.model.gaussians()
    kept = drawn.opacities.detach().numpy() > 1 / 255  # the host leaves fainter ones out
    assert len(written["x"]) == kept.sum() > 1000
    np.testing.assert_allclose(1 / (1 + np.exp(-written["opacity"])), drawn.opacities.detach()[kept], rtol=1e-4)
    scales = np.exp(np.stack([written[f"scale_{i}"] for i in range(3)], 1))
    np.testing.assert_allclose(scales, drawn.scales.detach()[kept], rtol=1e-5)
    raw = trained.model.gauss_params["scales"].detach().exp().numpy()[kept]
    assert (scales > raw).all() and np.median(scales[:, 2] / raw[:, 2]) > 2


def few(model: SkyfallModel, number: int) -> dict[str, torch.Tensor]:
    """A checkpoint of the last splats only."""
    state = model.state_dict()
    return {name: value[-number:].clone() if name.startswith("gauss_params.") else value
            for name, value in state.items()}  # fmt: skip


def test_filter_follows_loaded_splats(pipeline):
    loaded = filtered(pipeline).model.eval()
    before = loaded.gaussians()  # knows the radii of splats that are about to be replaced
    loaded.load_state_dict(few(loaded, 70))
    after = loaded.gaussians()
    torch.testing.assert_close(after.scales, before.scales[-70:])
    torch.testing.assert_close(after.opacities, before.opacities[-70:])


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
    assert len(model.on_model.image_names) < MANY_VIEWS
    assert lifted == pytest.approx(0.2 * FEW_PULL, rel=0.3)  # what a metre costs


def test_without_a_surface_or_weight_nothing_pulls(model):
    model.config.surface_weight = 0.0
    assert model.surface_losses() == {}


def test_canonical_colours_are_what_exports_write(model):
    with torch.no_grad():
        model.looks.log_gain[0] = 0.3
    model.looks.suns = (None,) * len(model.looks.suns)
    torch.testing.assert_close(model.shs_0 * SH_C0 + 0.5, model.colors)
    mean = math.exp(0.3 / len(model.looks.log_gain)) ** (1 / 2.2)
    expected = (mean * model.base_colors()).clamp(0, 1)
    clear = (expected > 0.05).all(-1)  # below, the gamma code is linear
    torch.testing.assert_close(model.colors[clear], expected[clear])
    assert model.shs_rest.shape == (model.num_points, 0, 3)


def test_exports_and_free_views_show_the_images_that_are_chosen(city_scene):
    name = Scene.load(city_scene).images[1].name
    model = set_up(city_scene, canonical=(name,)).model.eval()
    with torch.no_grad():
        model.looks.log_gain[1] = 0.3
        one, view = model.looks.of(1), view_of(viewer_camera())
        look = replace(one, log_sky=one.log_sky + math.log(FILL_LIGHT))
        sunlight = model.sun_map(look, None).lit(model.means)
        assert sunlight.min() < 0.1 < 0.9 < sunlight.max()  # exports have the shadows of free views
        light = model.seen_light(model.base_colors(), look, sunlight)
        torch.testing.assert_close(model.colors, encode(light).clamp(0, 1))
        torch.testing.assert_close(
            model.render(view, look=model.looks.free()).color, model.render(view, look=look).color
        )


def test_a_canonical_look_of_no_image_is_refused(city_scene):
    with pytest.raises(SceneError, match=r"--pipeline.model.canonical summer\* matches no image of .*\. It has: "):
        set_up(city_scene, canonical=("summer*",))


def test_the_viewer_can_look_for_its_elements(model):
    """The host's evaluates every property of a model."""
    elements = dict(parse_object(model, ViewerElement, "model"))
    assert {path: element.name for path, element in elements.items() if path.startswith("model/look/")} == {
        "model/look/first": "Look", "model/look/second": "Blend with", "model/look/share": "Share of the second",
    }  # fmt: skip
    assert [path for path, _ in parse_object(model, ViewerControl, "model")] == ["model/home"]


def viewer_camera() -> Cameras:
    """Free, 3 km above; the viewer says that it is the first training image's."""
    pose = torch.eye(4)[:3].clone()
    pose[2, 3] = 30.0
    return Cameras(pose[None], 1200.0, 1200.0, 24.0, 24.0, 48, 48, metadata={"cam_idx": 0})


def test_the_viewers_panel_decides_on_the_look(model):
    model.eval()
    names, view = model.on_model.image_names, view_of(viewer_camera())
    wanted = {CANONICAL: model.looks.free(), names[0]: model.looks.of(0), names[2]: model.looks.of(2)}
    pictures = []
    with torch.no_grad():
        for name, look in wanted.items():
            model.look.first.value = name
            seen, drawn = model.get_outputs(viewer_camera())["rgb"], model.render(view, look=look)
            void = (1 - drawn.alpha[..., None]) * model.background_color
            torch.testing.assert_close(seen, (drawn.color + void).clamp(0, 1))
            pictures.append(seen)
    assert all((a - b).abs().mean() > 1e-3 for a, b in zip(pictures[1:], pictures, strict=False))


def test_void_hides_nothing_in_the_viewer(model):
    """Frusta of cameras beside and behind the scene are composed into the picture by depth."""
    with torch.no_grad():
        seen = model.eval().get_outputs(viewer_camera())
    void = seen["accumulation"] < 0.5
    assert 0.1 < void.float().mean() < 0.9
    assert seen["depth"][void].min() > 2 * seen["depth"][~void].max()


def test_heights_do_not_depend_on_tiles_and_are_metres(model):
    surface = model.on_model.surface
    rows, columns = surface.height_m.shape
    grid = (surface.x_min_m, surface.y_max_m, surface.resolution_m, columns, rows)
    whole = model.render_heights(*grid)
    parts = draw_heights(model.gaussians(), model.on_model, *grid, tile=50)
    np.testing.assert_array_equal(np.isfinite(parts), np.isfinite(whole))
    apart = np.abs(parts - whole)[np.isfinite(whole)]
    assert (apart < 2e-3).mean() > 0.9995  # near the others a pixel lies on the threshold between two ways to read it:
    assert (apart < NEAR_M / 10).mean() > 0.9999
    assert apart.max() < NEAR_M  # so much apart at most, and so are medians of such pixels
    error = np.abs(whole - surface.height_m)[np.isfinite(whole) & np.isfinite(surface.height_m)]
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
        parallel = model.render(nadir_view(-n / 2 * cell, n / 2 * cell, cell, n, n), look=model.looks.free())
    inside = parallel.alpha > 0.8
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(free["accumulation"][..., 0], parallel.alpha, atol=0.05, rtol=0)
    colors = free["rgb"] - (1 - free["accumulation"]) * free["background"]
    assert (colors - parallel.color)[inside].abs().mean() < 0.01


def test_shadows_teach_what_throws_them(model):
    """Only in a step that draws them, and only by the share that a view may move."""
    model.config.shadows_every = 5

    def pulled(step, moves=1.0):
        model.step = step
        sun_map = model.sun_map(model.looks.of(0), 0, moves)
        lit = sun_map.lit(model.means)
        return torch.autograd.grad(lit.sum(), model.gauss_params["opacities"])[0] if lit.requires_grad else None

    model.shadows.forget()
    whole = pulled(0)
    assert whole.abs().max() > 0
    assert pulled(4) is None
    torch.testing.assert_close(pulled(5, moves=0.25), 0.25 * whole)


def test_made_up_views_colour_splats_and_do_not_move_them(model, pipeline):
    """A picture that was made up says nothing of places: neither gradients nor growth come of it."""
    camera, batch = pipeline.datamanager.next_train(0)
    camera.metadata[MOVES_KEY] = torch.tensor([[0.0]])
    model.optimizers, model.step = optimizers_for(model), 1
    statistics = {name: copy.deepcopy(value) for name, value in model.strategy_state.items()}
    loss = model.get_loss_dict(model.get_outputs(camera), batch)["photometric"]
    loss.backward()
    model.step_post_backward(1)
    assert model.gauss_params["features_dc"].grad.abs().max() > 0
    for name in ("means", "scales", "quats", "opacities"):
        grad = model.gauss_params[name].grad
        assert grad is None or not grad.any(), name
    assert model.strategy_state == statistics


def test_made_up_views_may_move_splats_a_little(model, pipeline):
    camera, batch = pipeline.datamanager.next_train(0)
    grads = {}
    for share in (1.0, 0.25):
        camera.metadata[MOVES_KEY] = torch.tensor([[share]])
        model.optimizers, model.step = optimizers_for(model), 1
        model.zero_grad(set_to_none=True)
        model.shadows.forget()  # drawn once a step, with gradients only then
        torch.manual_seed(0)  # of the background
        model.get_loss_dict(model.get_outputs(camera), batch)["photometric"].backward()
        grads[share] = {name: model.gauss_params[name].grad.clone() for name in ("means", "scales", "features_dc")}
    torch.testing.assert_close(grads[0.25]["features_dc"], grads[1.0]["features_dc"])
    for name in ("means", "scales"):
        torch.testing.assert_close(grads[0.25][name], 0.25 * grads[1.0][name], msg=name)
