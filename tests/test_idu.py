"""Stage 2 as a whole: runs end where they should, go on after a kill in any phase as if nothing had happened, never
refine an image twice, and bring refined pictures into the splats."""

import copy
import math
import shutil
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar
from unittest.mock import patch

import pytest
import torch
from helpers.idu_runs import (
    END,
    STAGE1,
    STEPS,
    TINY,
    VIEWS,
    Counting,
    checkpoint,
    config_for,
    pictures,
    refined_by,
    set_up,
    train,
)
from nerfstudio.engine.trainer import TrainerConfig
from test_resume import assert_equal

from skyfall_ns.errors import SkyfallError, TrainingError
from skyfall_ns.idu import episode_store
from skyfall_ns.idu.curriculum import Curriculum, camera_of, poses
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.idu.rendering import local_view
from skyfall_ns.idu.synthetic_views import SyntheticViews
from skyfall_ns.method_configs import skyfall, skyfall_idu
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.pipelines import idu_pipeline
from skyfall_ns.pipelines.idu_pipeline import IduPipeline
from skyfall_ns.refiners import denoiser
from skyfall_ns.refiners import denoiser_pairs as refiner_pairs
from skyfall_ns.refiners.bilateral import SmoothRefinerConfig
from skyfall_ns.refiners.denoiser_options import SceneOptions
from skyfall_ns.refiners.options import DiffusionOptions
from skyfall_ns.refiners.registry import RefinerOptions
from skyfall_ns.scene.scene import Scene

NAMES = [f"{number:03d}" for number in range(VIEWS)]
ONCE = Counter({(f"episode_{episode:02d}", name): 1 for episode in (1, 2) for name in NAMES})


class Killed(BaseException):
    """As if the process ended here."""


def episodes_of(config) -> list[EpisodeFolder]:
    folders = sorted((config.get_base_dir() / "idu").glob("*"))
    return [EpisodeFolder.open(path) for path in folders if (path / "poses.json").exists()]


# What a run leaves


def test_a_run_ends_at_its_planned_step_with_all_episodes(city_scene, tmp_path):
    config = config_for(city_scene, tmp_path, "plain", synthetic_share=0.75, keep_earlier=0.0)
    with patch.object(SyntheticViews, "at", autospec=True, side_effect=SyntheticViews.at) as synthetic:
        trainer = train(config)
    assert checkpoint(config)["step"] == END - 1 == trainer.step
    assert Counter(call.args[0].seed for call in synthetic.call_args_list) == {1: 6, 2: 6}  # three of four steps
    highest = max(sun for _, _, sun in trainer.pipeline.model.on_model.suns)
    assert trainer.pipeline.model.on_model.suns[trainer.pipeline._look][2] == highest
    folders = episodes_of(config)
    assert [f.path.name for f in folders] == ["episode_01", "episode_02"]
    for folder, elevation in zip(folders, TINY.elevations_deg, strict=True):
        assert folder.names == NAMES and folder.episode.elevation_deg == elevation
        assert not (folder.missing_renders() or folder.missing_refined() or folder.missing_weights())
        assert folder.manifest.refiner == {"name": "none"} and folder.manifest.generative is False
        assert {"raw", "refined"} <= folder.manifest.consistency.keys()
        assert {"render", "refine", "weights"} <= folder.manifest.phases.keys()
        for name in NAMES:
            assert folder.file("refined", name).read_bytes() == folder.file("render", name).read_bytes()
            assert folder.view(name).valid.float().mean() > 0.3
    again = copy.deepcopy(config)
    again.load_dir, again.timestamp = config.get_checkpoint_dir(), "longer"
    with pytest.raises(TrainingError, match=rf"has already done {END} of {END} steps"):
        set_up(again)


def test_fewer_steps_may_be_asked_for(city_scene, tmp_path):
    config = config_for(city_scene, tmp_path, "short")
    config.max_num_iterations = STAGE1 + 3
    train(config)
    assert checkpoint(config)["step"] == STAGE1 + 2 and len(episodes_of(config)) == 1


def test_episodes_before_are_remembered_as_much_as_asked(city_scene, tmp_path):
    config = config_for(city_scene, tmp_path, "kept", keep_earlier=1.0, synthetic_share=1.0, stage1_steps=1)
    with patch.object(SyntheticViews, "at", autospec=True, side_effect=SyntheticViews.at) as synthetic:
        train(config)
    drawn = [call.args[0].seed for call in synthetic.call_args_list]
    assert drawn[:STEPS] == [1] * STEPS and drawn[STEPS:].count(1) == pytest.approx(STEPS / 2, abs=1)


def test_depth_supervision_ends_with_stage_1(city_scene, tmp_path):
    from skyfall_ns.pipelines.depth_supervision import DepthSupervision
    from skyfall_ns.priors.pseudo_cameras import PseudoSchedule

    config = config_for(city_scene, tmp_path, "depth")
    config.pipeline.depth.prior = "surface"
    config.pipeline.depth.schedule = PseudoSchedule(start=0, end=500, interval=1, ramp=0, size_px=32, stack=2)
    with patch.object(DepthSupervision, "losses", autospec=True, side_effect=DepthSupervision.losses) as losses:
        trainer = train(config)
    assert [call.args[2] for call in losses.call_args_list] == list(range(STAGE1))
    assert trainer.pipeline.depth is None  # its memory is free


def test_smooth_pictures_are_those_of_the_filter(city_scene, tmp_path):
    config = config_for(city_scene, tmp_path, "smooth", refiner="smooth", stage1_steps=1)
    config.max_num_iterations = 2
    train(config)
    (folder,) = episodes_of(config)
    with SmoothRefinerConfig().load(torch.device("cpu"), folder.path) as refine:
        for name, image in zip(NAMES, refine(folder.views(NAMES)), strict=True):
            assert (folder.refined(name) - image).abs().max() <= 0.5 / 255 + 1e-6
            assert not torch.equal(folder.refined(name), folder.view(name).image)


def test_training_keeps_nothing_of_rendering(city_scene, tmp_path):
    """Shadows that were drawn for renders would be older than those of a run that goes on from there."""
    kept, losses = [], IduPipeline.get_train_loss_dict

    def noting(pipeline, step):
        kept.append(len(pipeline.model.shadows._maps))
        return losses(pipeline, step)

    with patch.object(IduPipeline, "get_train_loss_dict", noting):
        train(config_for(city_scene, tmp_path, "kept"))
    assert [step for step in range(1, END) if not kept[step]] == [STAGE1, STAGE1 + STEPS]


# Killed in any phase


def changing(scene_folder: Path, out: Path, name: str, **options):
    """A run with all that a resume could lose: splits, shades, looks; checkpoints in the middle of episodes."""
    config = config_for(scene_folder, out, name, grow_share=0.9, grow_thresh=1e-4, keep_earlier=0.5, **options)
    config.steps_per_save, config.optimizers["means"]["optimizer"].lr = 3, 3e-3  # shadows move
    config.pipeline.model.refine_every = 2  # statistics are gathered over a save
    return config


@pytest.fixture(scope="module")
def whole(city_scene, tmp_path_factory):
    """A run that nobody disturbed: its configuration, its last checkpoint and its pictures."""
    config, refiner = changing(city_scene, tmp_path_factory.mktemp("runs"), "whole"), Counting()
    with refined_by(refiner):
        trainer = train(config)
    assert refiner.asked == ONCE
    grown, start = trainer.pipeline.model.num_points, trainer.pipeline.model.started_with
    assert grown > start  # there was growth to lose
    return config, checkpoint(config), pictures(config)


def killing(where: str, after: int):
    """A context in which training ends at the `after`-th time it comes to a place."""
    left = [after]

    def before(function, counts=lambda *given: True):
        def called(*given, **named):
            if counts(*given):
                if left[0] == 0:
                    raise Killed
                left[0] -= 1
            return function(*given, **named)

        return called

    if where == "pairs":
        return patch.object(refiner_pairs, "write_whole", before(refiner_pairs.write_whole))
    if where in ("render", "depth", "refined", "weight"):
        write = before(episode_store.write_whole, lambda path, data: path.parent.name == where)
        return patch.object(episode_store, "write_whole", write)
    if where == "manifest":
        write = before(episode_store.write_whole, lambda path, data: path.name == "manifest.json")
        return patch.object(episode_store, "write_whole", write)
    if where == "swap":
        return patch.object(idu_pipeline.SyntheticViews, "of", before(SyntheticViews.of))
    if where == "checkpoint":
        return patch.object(torch, "save", before(torch.save))
    assert where == "step"
    return patch.object(IduPipeline, "get_train_loss_dict", before(IduPipeline.get_train_loss_dict))


def gone_on(config, name: str):
    """The same command in a new folder, from the checkpoint that is there."""
    again = copy.deepcopy(config)
    again.timestamp, again.load_dir = name, config.get_checkpoint_dir()
    again.max_num_iterations = skyfall_idu.config.max_num_iterations  # the host counts in it
    return again


KILLS = [
    ("step", STAGE1 - 1), ("checkpoint", 1), ("render", 1), ("depth", VIEWS + 2), ("refined", VIEWS),
    ("manifest", 4 * VIEWS + 4), ("manifest", 4 * VIEWS + 9), ("weight", 1), ("swap", 1), ("step", STAGE1),
    ("step", STAGE1 + 5), ("step", STAGE1 + STEPS), ("step", END - 2),
]  # fmt: skip


@pytest.mark.parametrize(("where", "after"), KILLS)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(whole, city_scene, tmp_path, where, after):
    """To the last bit, and without asking twice for an image that is on the disk."""
    _, expected, drawn = whole
    config, refiner = changing(city_scene, tmp_path, "killed"), Counting()
    with refined_by(refiner), pytest.raises(Killed), killing(where, after):
        train(config)
    if where not in ("step", "checkpoint"):  # splats that were rendered are those that are saved
        assert checkpoint(config)["step"] + 1 in (STAGE1, STAGE1 + STEPS)
    on_disk = {(f.path.name, n) for f in episodes_of(config) for n in f.names if n not in f.missing_refined()}
    again = gone_on(config, "again")
    before = Counter(refiner.asked)
    with refined_by(refiner):
        train(again, seed=5)
    assert pictures(again) == drawn
    assert_equal(checkpoint(again), expected, "checkpoint")
    assert all(refiner.asked[image] == before[image] for image in on_disk)
    assert set(refiner.asked) == set(ONCE) and sum(refiner.asked.values()) <= len(ONCE) + 1  # the one in memory


def half_done(city_scene: Path, out: Path, refiner: Counting):
    """A run killed in the middle of its second episode's training."""
    config = changing(city_scene, out, "killed")
    with refined_by(refiner), pytest.raises(Killed), killing("step", END - 2):
        train(config)
    return config


def test_refined_images_that_are_gone_or_cut_are_made_again(whole, city_scene, tmp_path):
    _, expected, drawn = whole
    config, refiner = half_done(city_scene, tmp_path, Counting()), Counting()
    (tmp_path / "city/skyfall-idu/killed/idu/episode_02/refined/001.png").unlink()
    cut = tmp_path / "city/skyfall-idu/killed/idu/episode_02/refined/003.png"
    cut.write_bytes(cut.read_bytes()[:100])
    (tmp_path / "city/skyfall-idu/killed/idu/episode_01/weight/000.png").write_bytes(b"")
    with refined_by(refiner):
        train(gone_on(config, "again"), seed=5)
    assert refiner.asked == {("episode_02", "001"): 1, ("episode_02", "003"): 1}
    assert pictures(gone_on(config, "again")) == drawn
    assert_equal(checkpoint(gone_on(config, "again")), expected, "checkpoint")


@pytest.mark.parametrize("name", ["none", "scene"])
def test_another_refiner_on_the_way_is_heeded(city_scene, tmp_path, name):
    """Its pictures are trained on, and not those of the one before."""
    again = gone_on(half_done(city_scene, tmp_path, Counting()), "again")
    again.pipeline.refiner = RefinerOptions(name, scene=FEW)
    again.pipeline.keep_earlier = 0.0
    with patch.object(SyntheticViews, "at", autospec=True, side_effect=SyntheticViews.at) as synthetic:
        train(again)
    _, folder = episodes_of(again)
    assert folder.manifest.refiner["name"] == name and not folder.missing_weights()
    images = synthetic.call_args_list[0].args[0].images
    for image, view in zip(images, folder.views(NAMES), strict=True):
        assert (image.float() / 255 - view.image).abs().mean() < 0.05  # no negative


FEW = SceneOptions(pairs=2, steps=5, width=4, crop_px=16, batch=2)


def test_the_scenes_own_refiner_learns_once_per_episode(city_scene, tmp_path):
    """Killed after its second image it needs no other training, and ends as a run that nobody disturbed."""

    def options(name):
        config = config_for(city_scene, tmp_path, name)
        config.pipeline.refiner = RefinerOptions("scene", scene=FEW)
        return config

    with patch.object(denoiser, "train_network", side_effect=denoiser.train_network) as learned:
        train(options("undisturbed"))
        assert learned.call_count == 2
        with pytest.raises(Killed), killing("refined", VIEWS + 2):
            train(options("killed"))
        with pytest.raises(Killed), killing("pairs", 4):
            train(options("earlier"))
        assert learned.call_count == 4
        for name in ("killed", "earlier"):
            again = gone_on(options(name), f"{name}_again")
            train(again, seed=5)
            assert pictures(again) == pictures(options("undisturbed"))
            assert_equal(checkpoint(again), checkpoint(options("undisturbed")), "checkpoint")
        assert learned.call_count == 6
    for folder in episodes_of(again):
        assert folder.manifest.refiner["name"] == "scene" and folder.manifest.generative is False
        assert len(list((folder.path / "pairs").glob("view_*_first.png"))) == 2


# From a stage 1 run


@pytest.fixture(scope="module")
def stage1(city_scene, tmp_path_factory):
    """A run of stage 1 with colours that change with the direction and other learning rates; its configuration."""
    config = config_for(city_scene, tmp_path_factory.mktemp("stage1"), "first", method=skyfall)
    with_harmonics(config).optimizers["opacities"]["optimizer"].lr = 0.3
    config.optimizers["features_rest"]["optimizer"].lr = 0.02
    config.optimizers["means"]["scheduler"].lr_final = 1e-9
    train(config)
    return config


def with_harmonics(config):
    config.pipeline.model.sh_degree, config.pipeline.model.sh_degree_interval = 1, 2
    return config


def started(stage1, out: Path, way: str):
    """A run of stage 2 that starts from it."""
    config = with_harmonics(config_for(stage1.pipeline.datamanager.data, out, way))
    config.pipeline.model.sh_degree_interval = 2
    if way == "config":
        config.pipeline.stage1 = stage1.get_base_dir() / "config.yml"
    else:
        config.load_dir = stage1.get_checkpoint_dir()
    return config


@pytest.mark.parametrize("way", ["config", "load_dir"])
def test_stage_2_starts_from_a_stage_1_run_with_its_own_rates(stage1, tmp_path, way):
    config, rates, first = started(stage1, tmp_path, way), [], STAGE1
    trainer = set_up(config)
    step = trainer.train_iteration

    def noting(number):
        groups = {name: o.param_groups[0]["lr"] for name, o in trainer.optimizers.optimizers.items()}
        rates.append((number, trainer.pipeline.model.gauss_params["means"].detach().clone(), groups))
        return step(number)

    trainer.train_iteration = noting
    trainer.train()
    assert [number for number, _, _ in rates] == list(range(first, first + 2 * STEPS))
    assert checkpoint(config)["step"] == first + 2 * STEPS - 1
    assert torch.equal(rates[0][1], checkpoint(stage1)["pipeline"]["_model.gauss_params.means"])
    table = config.optimizers
    for place, (_, _, groups) in enumerate(rates):
        for name, rate in groups.items():
            decay = (1 / 3) ** (place % STEPS / STEPS) if name == "means" else 1
            wanted = config.pipeline.episode_rates * table[name]["optimizer"].lr * decay
            assert rate == pytest.approx(wanted, rel=1e-9), (place, name)


def test_both_ways_see_the_same_splats(stage1, tmp_path):
    """Directional colours too, which stage 1 has learned."""
    seen = []
    for way in ("config", "load_dir"):
        config = started(stage1, tmp_path, way)
        with pytest.raises(Killed), killing("refined", 0):
            train(config)
        seen.append({k: v for k, v in pictures(config).items() if "render" in k})
    assert len(seen[0]) == VIEWS and seen[0] == seen[1]


@pytest.mark.parametrize("way", ["config", "load_dir"])
def test_a_run_killed_in_its_first_episode_goes_on(stage1, tmp_path, way):
    """Refining may take hours, and no step has been made yet."""
    undisturbed, config, refiner = started(stage1, tmp_path / "whole", way), started(stage1, tmp_path, way), Counting()
    with refined_by(refiner):
        with pytest.raises(Killed), killing("swap", 0):
            train(config)
        again = gone_on(config, "again")
        train(again, seed=5)
        assert refiner.asked == ONCE
        train(undisturbed)
    assert pictures(again) == pictures(undisturbed)
    assert_equal(checkpoint(again), checkpoint(undisturbed), "checkpoint")


# What is refused


@pytest.fixture(scope="module")
def first_step(city_scene, tmp_path_factory):
    """A run of one step of stage 2; its configuration."""
    config = config_for(city_scene, tmp_path_factory.mktemp("first"), "first", stage1_steps=1)
    config.max_num_iterations = 2
    train(config)
    return config


def test_episodes_of_another_scene_or_of_other_cameras_are_refused(first_step, tmp_path):
    fewer, lower = copy.deepcopy(first_step), copy.deepcopy(first_step)
    fewer.output_dir, lower.output_dir = tmp_path / "fewer", tmp_path / "lower"
    fewer.pipeline.datamanager.dataparser.images = ("view_0[234]*",)
    lower.pipeline.curriculum = replace(TINY, elevations_deg=(60.0, 30.0), fov_deg=(26.0,))
    for config, says in (
        (fewer, r"episode_01 belongs to another run or scene\. Choose another output folder"),
        (lower, r"episode_01 was made with other cameras than the present curriculum's\. Pass the options"),
    ):
        trainer = set_up(config)
        shutil.copytree(first_step.get_base_dir() / "idu", config.get_base_dir() / "idu")
        with pytest.raises(TrainingError, match=says) as caught:
            trainer.train()
        assert str(caught.value).count(". ") == 1


def test_a_run_that_begins_uses_nothing_of_an_earlier_one(first_step, stage1, tmp_path):
    """The same folder, perhaps with other options: its pictures show other splats."""
    shutil.copytree(first_step.get_base_dir() / "idu", tmp_path / "city/skyfall-idu/again/idu")
    again = copy.deepcopy(first_step)
    again.output_dir = tmp_path
    for config in (again, started(stage1, tmp_path, "config"), started(stage1, tmp_path, "load_dir")):
        config.timestamp = "again"
        with pytest.raises(TrainingError, match=r"again/idu holds episodes of an earlier run\. Choose another"):
            set_up(config)


def test_a_checkpoint_file_may_be_named_instead_of_its_folder(whole, city_scene, tmp_path):
    _, expected, drawn = whole
    config, refiner = half_done(city_scene, tmp_path, Counting()), Counting()
    again = gone_on(config, "again")
    (again.load_checkpoint,), again.load_dir = again.load_dir.glob("*.ckpt"), None
    with refined_by(refiner):
        train(again, seed=5)
    assert not refiner.asked and pictures(again) == drawn
    assert_equal(checkpoint(again), expected, "checkpoint")


WRONG = [
    ({"curriculum": replace(TINY, steps=(5, 5, 5))}, r"curriculum\.steps has 3 values and .*elevations-deg 2\. Give"),
    ({"curriculum": replace(TINY, elevations_deg=(60.0, -3.0))}, r"curriculum\.elevations-deg 60 -3 makes no views"),
    ({"synthetic_share": 1.2}, r"--pipeline\.synthetic-share is 1\.2\. Pass a number from 0 to 1"),
    ({"keep_earlier": -0.1}, r"--pipeline\.keep-earlier is -0\.1\. Pass"),
    ({"grow_share": float("nan")}, r"--pipeline\.grow-share is nan\. Pass"),
    ({"stage1_steps": 0}, r"--pipeline\.stage1-steps is 0\. Pass 1 or more"),
    ({"look": "nowhere"}, r"--pipeline\.look nowhere is none of the training images\. They are: view_0"),
    ({"stage1": Path("nowhere/config.yml")}, r"nowhere/config\.yml does not exist\. Pass the config\.yml"),
    (
        {"refiner": RefinerOptions("scene", scene=SceneOptions(steps=0))},
        r"refiner\.scene\.steps 0 trains no network",
    ),
]


@pytest.mark.parametrize(("options", "says"), WRONG)
def test_what_makes_no_sense_is_said_before_anything_is_trained(city_scene, tmp_path, options, says):
    config = config_for(city_scene, tmp_path, "wrong")
    for key, value in options.items():
        setattr(config.pipeline, key, value)
    with pytest.raises(TrainingError, match=says) as caught:
        set_up(config)
    assert str(caught.value).count(". ") == 1


@pytest.mark.parametrize("left_out", [0, 1])
def test_the_look_is_that_of_the_highest_sun_among_those_that_are_shown(city_scene, tmp_path, left_out):
    images = [image for image in Scene.load(city_scene).images if image.split == "train"]
    lowest_first = sorted(images, key=lambda image: image.sun_direction[2])
    shown = [image.name for image in lowest_first[: len(images) - left_out]]
    config = config_for(city_scene, tmp_path, "looks")
    if left_out:
        config.pipeline.model.canonical = tuple(shown)
    pipeline = set_up(config).pipeline
    assert pipeline.model.on_model.image_names[pipeline._look] == shown[-1]


def test_missing_weights_are_said_before_anything_is_trained(city_scene, tmp_path):
    pytest.importorskip("diffusers", reason="the extra `diffusion` is not installed")
    config = config_for(city_scene, tmp_path, "wrong")
    config.pipeline.refiner = RefinerOptions("flowedit", diffusion=DiffusionOptions(model=str(tmp_path / "nothing")))
    with pytest.raises(SkyfallError, match=r"nothing is not on this machine: .*\. Pass a folder with a diffusers"):
        set_up(config)


def test_what_is_refined_elsewhere_needs_no_weights_here(city_scene, tmp_path):
    """And what came back of any refiner is taken as it is."""
    config = config_for(city_scene, tmp_path, "first", refine_elsewhere=True, stage1_steps=1)
    config.pipeline.refiner = RefinerOptions("flowedit", diffusion=DiffusionOptions(model="nowhere/nothing"))
    config.max_num_iterations = 1 + STEPS
    with pytest.raises(SystemExit, match=f"{VIEWS} of its {VIEWS} views wait to be refined"):
        train(config)
    (folder,) = episodes_of(config)
    assert RefinerOptions.from_dict(folder.manifest.refiner_options) == config.pipeline.refiner
    folder.begin_refining({"name": "flowedit"}, True)
    for name in NAMES[1:]:
        folder.write_refined(name, 1 - folder.view(name).image)
    with pytest.raises(SystemExit, match=f"1 of its {VIEWS} views wait"):
        train(gone_on(config, "second"))
    folder.write_refined(NAMES[0], 1 - folder.view(NAMES[0]).image)
    again = gone_on(config, "third")
    again.max_num_iterations = 1 + STEPS
    train(again)
    (after,) = episodes_of(again)
    assert after.manifest.refiner == {"name": "flowedit"} and after.manifest.generative is True
    assert all(after.file("refined", n).read_bytes() == folder.file("refined", n).read_bytes() for n in NAMES)


def test_the_command_line_takes_every_option():
    """As ns-train reads it; the message for what is wrong is the one of tests/test_cli_host.py."""
    import tyro

    flags = ["--pipeline.curriculum.elevations-deg", "60", "35",
             "--pipeline.curriculum.radii-m", "150", "--pipeline.refiner.name", "smooth",
             "--pipeline.refiner.smooth.reach-px", "2", "--pipeline.refiner.scene.steps", "9", "--pipeline.stage1",
             "a/config.yml", "--pipeline.no-agreement", "--pipeline.look", "b", "--pipeline.grow-share",
             "0.5"]  # fmt: skip
    pipeline = tyro.cli(TrainerConfig, default=copy.deepcopy(skyfall_idu.config), args=flags).pipeline
    assert (pipeline.stage1, pipeline.look, pipeline.agreement) == (Path("a/config.yml"), "b", False)
    assert pipeline.curriculum == Curriculum((60.0, 35.0), (150.0,))
    assert pipeline.refiner.choose().identity() == {"name": "smooth", "colour": 0.12, "reach_px": 2.0}
    assert pipeline.refiner.scene.steps == 9 and pipeline.grow_share == 0.5


# What it is for


@dataclass(frozen=True)
class Oracle:
    """Knows the truth: renders of a model that is richer than what is trained."""

    truth: SkyfallModel
    generative: ClassVar[bool] = True
    batch: int = 2

    def check(self) -> None:
        """Nothing can be missing."""

    def identity(self, episode=None):
        return {"name": "oracle"}

    @contextmanager
    def load(self, device, episode):
        yield lambda views: [look_at(self.truth, view.camera) for view in views]


@torch.no_grad()
def look_at(model: SkyfallModel, camera) -> torch.Tensor:
    """A local pinhole's picture in the look of the first image."""
    drawn = model.render(local_view(model, camera), 0)
    return (drawn.color / drawn.alpha[..., None].clamp_min(0.1)).clamp(0, 1)


def painted(model: SkyfallModel) -> SkyfallModel:
    """The same shapes in waves of colour, 16 m long, that no satellite image shows."""
    truth = copy.deepcopy(model).eval()
    with torch.no_grad():
        x, y, z = (truth.means / truth.on_model.scale).unbind(-1)
        phases = torch.stack([x + z, y - z, x + y], -1) * (2 * math.pi / 16)
        truth.gauss_params["features_dc"] += 1.0 * torch.sin(phases)
    return truth


def nearness_db(model: SkyfallModel, truth: SkyfallModel, elevation_deg: float) -> float:
    """PSNR over directions of which no episode has one, from another distance."""
    curriculum = Curriculum((elevation_deg,), (130.0,), (28.0,), grid=1, azimuths=5, size_px=64)
    box_m = model.on_model.scene.box_m
    views = poses(curriculum, curriculum.episodes(box_m)[0], box_m, lambda x, y: 0.0, lambda eye, target: True)
    model.eval()
    errors = []
    for pose in views:
        camera = camera_of(pose, 28.0, 64)
        with torch.no_grad():
            seen = truth.render_depth(local_view(truth, camera)).alpha > 0.9
        errors.append((look_at(model, camera) - look_at(truth, camera)).square()[seen].mean().item())
    model.train()
    return -10 * math.log10(sum(errors) / len(errors))


def test_refined_pictures_come_into_the_splats(city_scene, tmp_path):
    """Views from elsewhere come nearer to what an oracle shows, although satellites say otherwise."""
    before = config_for(city_scene, tmp_path, "before", method=skyfall)
    before.max_num_iterations = 20
    model = train(before).pipeline.model
    truth = painted(model)
    first = {elevation: nearness_db(model, truth, elevation) for elevation in (45.0, 20.0)}
    names = model.on_model.image_names
    config = config_for(
        city_scene, tmp_path, "oracle", look=names[0], synthetic_share=0.75, keep_earlier=0.0, episode_rates=1.0
    )
    config.pipeline.stage1 = before.get_base_dir() / "config.yml"
    config.pipeline.curriculum = replace(TINY, elevations_deg=(55.0, 28.0), azimuths=6, size_px=64, steps=(50,))
    config.optimizers["features_dc"]["optimizer"].lr = 0.03
    with refined_by(Oracle(truth)):
        model = train(config).pipeline.model
    for elevation, start in first.items():
        end = nearness_db(model, truth, elevation)
        print(f"{elevation:g} degrees: {start:.1f} -> {end:.1f} dB")
        assert end > start + 3, f"{elevation:g} degrees: {start:.1f} -> {end:.1f} dB"
