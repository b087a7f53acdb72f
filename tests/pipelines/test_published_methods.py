"""The methods with published settings from the first to the last step, at toy size on a CPU: images of 64 pixels, FLUX,
FLUX.2 and MoGe with random weights."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from helpers.checkpoints import assert_identical
from helpers.depth_models import build_tiny_moge
from helpers.idu_runs import SimulatedKill, open_episodes, read_checkpoint, read_run_episodes, train
from helpers.tiny_pipelines import build_tiny_pipeline

from skyfall_ns import method_configs
from skyfall_ns.io.ply import PlyPoints, read_ply, write_ply
from skyfall_ns.models.densification import default_strategy
from skyfall_ns.priors.pseudo_ground import PseudoGround
from skyfall_ns.scene.scene import Scene

pytestmark = pytest.mark.slow

STAGE1_STEPS, EPISODE_STEPS = 12, 8
END_STEP = STAGE1_STEPS + 2 * EPISODE_STEPS
VIEWS = 8  # of an episode: 2 x 2 look-at points, 1 direction, 2 samples


@pytest.fixture(scope="module")
def sparse_scene(city_scene, tmp_path_factory) -> Path:
    """The city with every twentieth of its points."""
    directory = tmp_path_factory.mktemp("sparse") / "scene"
    shutil.copytree(city_scene, directory)
    path = directory / Scene.from_directory(directory).points
    points = read_ply(path)
    write_ply(path, PlyPoints(*(values[::20] for values in vars(points).values())))
    return directory


@pytest.fixture(scope="module")
def moge(tmp_path_factory) -> Path:
    return build_tiny_moge(tmp_path_factory.mktemp("moge"), "v1")


@pytest.fixture(scope="module")
def diffusion_models(tmp_path_factory) -> dict[str, Path]:
    """Directory of a tiny pipeline per method."""
    directory = tmp_path_factory.mktemp("diffusion")
    families = {"skyfall-idu-flux": "flux", "skyfall-idu-klein": "klein_base"}
    return {method: build_tiny_pipeline(family, directory / family) for method, family in families.items()}


def shorten(config, scene: Path, out: Path, timestamp: str, moge: Path):
    """A method with published settings, of few steps, small views and local weights."""
    config = copy.deepcopy(config)
    config.output_dir, config.experiment_name, config.timestamp = out, "city", timestamp
    config.vis, config.machine.device_type, config.logging.local_writer.enable = "tensorboard", "cpu", False
    config.steps_per_eval_image, config.steps_per_save = 1000, 3
    pipeline = config.pipeline
    pipeline.datamanager.data = scene
    model = pipeline.model
    model.warmup_length, model.stop_split_at, model.refine_every, model.sh_degree_interval = 2, 11, 2, 2
    model.reset_alpha_every, model.densify_grad_thresh, model.max_gaussians = 4, 1e-7, 3_000
    pipeline.depth.weights = str(moge)
    pipeline.depth.schedule = replace(
        pipeline.depth.schedule, start=1, end=11, ramp=4, interval=2, stack=4, size_px=64, target_std_m=10.0
    )
    config.max_num_iterations = min(config.max_num_iterations, STAGE1_STEPS)
    return config


def shorten_stage2(config, model: Path):
    """Two episodes of few steps and views; the look-at points stay on a square of 512 m."""
    pipeline = config.pipeline
    pipeline.stage1_steps = STAGE1_STEPS
    curriculum = replace(pipeline.curriculum, elevations_deg=(85.0, 45.0), radii_m=(300.0, 250.0), grid=2, azimuths=1)
    pipeline.curriculum = replace(curriculum, steps=(EPISODE_STEPS,), size_px=64)
    pipeline.densify_grad_thresh = 1e-7
    diffusion = replace(pipeline.refiner.diffusion, model=str(model), dtype="float32", batch=8)
    pipeline.refiner = replace(pipeline.refiner, diffusion=diffusion)
    config.max_num_iterations = 1_000_000
    return config


def run_interrupted(config, last_step: int):
    """Train until the process is killed before a step, then resume; returns the configuration of the resumed run."""
    get_train_loss_dict = config.pipeline._target.get_train_loss_dict

    def kill_before_step(pipeline, step):
        if step == last_step:
            raise SimulatedKill
        return get_train_loss_dict(pipeline, step)

    killed = copy.deepcopy(config)
    killed.timestamp = "killed"
    with (
        pytest.raises(SimulatedKill),
        patch.object(config.pipeline._target, "get_train_loss_dict", kill_before_step),
    ):
        train(killed)
    resumed = copy.deepcopy(config)
    resumed.timestamp, resumed.load_dir = "resumed", killed.get_checkpoint_dir()
    train(resumed, seed=9)
    return resumed


@pytest.mark.parametrize("method", ["skyfall_reference", "skyfall_naive"])
def test_stage_1_grows_resets_and_resumes_exactly(method, sparse_scene, moge, tmp_path):
    config = shorten(getattr(method_configs, method).config, sparse_scene, tmp_path, "whole", moge)
    with (
        patch.object(default_strategy, "reset_opa", side_effect=default_strategy.reset_opa) as reset,
        patch.object(PseudoGround, "draw_poses", autospec=True, side_effect=PseudoGround.draw_poses) as draw_poses,
    ):
        trainer = train(config)
    model = trainer.pipeline.model
    assert model.num_points > 1.2 * model.densifier.initial_count
    assert reset.call_count == 1 and trainer.step == STAGE1_STEPS - 1
    assert (draw_poses.call_count > 0) == (method == "skyfall_reference")
    resumed = run_interrupted(config, STAGE1_STEPS - 2)
    assert_identical(read_checkpoint(resumed), read_checkpoint(config))


@pytest.mark.parametrize("method", ["skyfall-idu-flux", "skyfall-idu-klein"])
def test_stage_2_with_a_diffusion_model_grows_resets_and_resumes_exactly(
    method, sparse_scene, moge, diffusion_models, tmp_path
):
    published = getattr(method_configs, method.replace("-", "_")).config
    config = shorten_stage2(shorten(published, sparse_scene, tmp_path, "whole", moge), diffusion_models[method])
    with (
        patch.object(default_strategy, "reset_opa", side_effect=default_strategy.reset_opa) as reset,
        patch.object(PseudoGround, "draw_poses", autospec=True, side_effect=PseudoGround.draw_poses) as draw_poses,
    ):
        trainer = train(config)
    assert trainer.step == END_STEP - 1 and reset.call_count == 3  # one in stage 1, one in each episode
    schedules = [call.args[1] for call in draw_poses.call_args_list]
    assert {s.radii_m for s in schedules} == {(300.0, 250.0), (150.0, 75.0)}
    assert {s.elevations_deg for s in schedules} == {(80.0, 45.0), (85.0, 45.0)}
    assert trainer.pipeline.model.regularization.options.entropy_weight == 0
    assert trainer.pipeline.model.num_points > 1.2 * trainer.pipeline.model.densifier.initial_count
    for store in open_episodes(config):
        assert store.manifest.refiner["name"] == "flowedit" and store.manifest.generative is True
        assert not (store.missing_renders() or store.missing_refined() or store.missing_weights())
        assert store.placement_summary().startswith(f"{VIEWS} of {VIEWS} views; {VIEWS} look at the edge of the scene")
        changed = [abs(store.read_refined(n) - store.rendered_view(n).image).mean() for n in store.view_names]
        assert min(changed) > 0.01
    resumed = run_interrupted(config, END_STEP - 2)
    assert read_run_episodes(resumed) == read_run_episodes(config)
    assert_identical(read_checkpoint(resumed), read_checkpoint(config))
