"""Options of stage 2: all can be set on the command line; wrong ones, and foreign episodes, are refused."""

import copy
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tyro
from helpers.idu_runs import TINY, make_config, set_up_trainer
from nerfstudio.engine.trainer import TrainerConfig

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.curriculum import Curriculum
from skyfall_ns.method_configs import skyfall_idu
from skyfall_ns.refiners.denoiser_options import DenoiserOptions
from skyfall_ns.refiners.registry import RefinerOptions


def test_episodes_of_another_scene_or_of_other_cameras_are_refused(one_step_config, tmp_path):
    fewer, lower = copy.deepcopy(one_step_config), copy.deepcopy(one_step_config)
    fewer.output_dir, lower.output_dir = tmp_path / "fewer", tmp_path / "lower"
    fewer.pipeline.datamanager.dataparser.images = ("view_0[234]*",)
    lower.pipeline.curriculum = replace(TINY, elevations_deg=(60.0, 30.0), fov_deg=(26.0,))
    for config, message in (
        (fewer, r"episode_01 belongs to another run or scene\. Choose another output directory"),
        (lower, r"episode_01 was made with other cameras than the present curriculum's\. Pass the options"),
    ):
        trainer = set_up_trainer(config)
        shutil.copytree(one_step_config.get_base_dir() / "idu", config.get_base_dir() / "idu")
        with pytest.raises(TrainingError, match=message) as caught:
            trainer.train()
        assert str(caught.value).count(". ") == 1


WRONG_OPTIONS = [
    (
        {"curriculum": replace(TINY, steps=(5, 5, 5))},
        r"curriculum\.steps has 3 values, and .*elevations-deg has 2\. Pass",
    ),
    (
        {"curriculum": replace(TINY, elevations_deg=(60.0, -3.0))},
        r"curriculum\.elevations-deg is 60, -3\. Pass a number above 0, at most 90",
    ),
    ({"synthetic_share": 1.2}, r"--pipeline\.synthetic-share is 1\.2\. Pass a number of at least 0, at most 1"),
    ({"replay_decay": -0.1}, r"--pipeline\.replay-decay is -0\.1\. Pass"),
    ({"densify_fraction": float("nan")}, r"--pipeline\.densify-fraction is nan\. Pass"),
    ({"stage1_steps": 0}, r"--pipeline\.stage1-steps is 0\. Pass a number of at least 1"),
    (
        {"appearance_image": "nowhere"},
        r"--pipeline\.appearance-image nowhere is not a training image\. Pass one of view_0",
    ),
    ({"stage1": Path("nowhere/config.yml")}, r"nowhere/config\.yml does not exist\. Pass the config\.yml"),
    (
        {"refiner": RefinerOptions("denoiser", denoiser=DenoiserOptions(steps=0))},
        r"--pipeline\.refiner\.denoiser\.steps is 0\. Pass a number of at least 1",
    ),
]


@pytest.mark.parametrize(("options", "message"), WRONG_OPTIONS)
def test_wrong_options_are_refused_before_training(city_scene, tmp_path, options, message):
    config = make_config(city_scene, tmp_path, "wrong")
    for key, value in options.items():
        setattr(config.pipeline, key, value)
    with pytest.raises(TrainingError, match=message) as caught:
        set_up_trainer(config)
    assert str(caught.value).count(". ") == 1


def test_command_line_accepts_every_option():
    """As ns-train parses it; the message for unknown flags is in tests/test_nerfstudio_commands.py."""
    flags = ["--pipeline.curriculum.elevations-deg", "60", "35", "--pipeline.curriculum.radii-m", "150",
             "--pipeline.refiner.name", "bilateral", "--pipeline.refiner.bilateral.reach-px", "2",
             "--pipeline.refiner.denoiser.steps", "9", "--pipeline.stage1", "a/config.yml",
             "--pipeline.no-consistency-weighting", "--pipeline.appearance-image", "b",
             "--pipeline.densify-fraction", "0.5"]  # fmt: skip
    pipeline = tyro.cli(TrainerConfig, default=copy.deepcopy(skyfall_idu.config), args=flags).pipeline
    assert pipeline.stage1 == Path("a/config.yml") and pipeline.appearance_image == "b"
    assert pipeline.consistency_weighting is False
    assert pipeline.curriculum == Curriculum((60.0, 35.0), (150.0,))
    assert pipeline.refiner.build().identity() == {"name": "bilateral", "color": 0.12, "reach_px": 2.0}
    assert pipeline.refiner.denoiser.steps == 9 and pipeline.densify_fraction == 0.5
