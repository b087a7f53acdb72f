"""Resuming of stage 1: exact to the last bit and the last step, and never from a checkpoint of another scene."""

import copy
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.checkpoints import assert_identical
from helpers.commands import BIN, run_command

from skyfall_ns.errors import TrainingError
from skyfall_ns.io.ply import read_ply
from skyfall_ns.method_configs import skyfall
from skyfall_ns.pipelines.load_run import load_run
from skyfall_ns.priors.pseudo_cameras import PseudoSchedule
from skyfall_ns.scene.scene import Scene

pytestmark = [pytest.mark.slow, pytest.mark.process]

STEPS, SAVE_INTERVAL = 32, 16


def make_config(scene: Path, out: Path, name: str, **options):
    """Configuration of a short run with densification and shadows; `options` are fields of the model's."""
    config = copy.deepcopy(skyfall.config)
    config.output_dir, config.experiment_name, config.timestamp = out, "city", name
    config.vis, config.machine.device_type, config.logging.local_writer.enable = "tensorboard", "cpu", False
    config.max_num_iterations, config.steps_per_save, config.steps_per_eval_image = STEPS, SAVE_INTERVAL, 10
    config.save_only_latest_checkpoint = False
    config.pipeline.datamanager.data = scene
    model = config.pipeline.model
    # statistics are collected over a checkpoint, and shadow maps are reused between checkpoints
    model.warmup_length, model.refine_every, model.stop_split_at, model.shadows_every = 3, 7, 30, 5
    model.densify_grad_thresh = 3e-4  # more Gaussians are split than pruned
    for key, value in options.items():
        setattr(model, key, value)
    # stacks of pseudo views extend over a checkpoint
    config.pipeline.depth.schedule = PseudoSchedule(start=1, end=31, interval=3, ramp=5, size_px=48, stack=4)
    return config


def train(config, seed: int = 0) -> dict:
    """Train as ns-train does; returns the last checkpoint."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    last = sorted(config.get_checkpoint_dir().glob("*.ckpt"))[-1]
    assert last.name == f"step-{STEPS - 1:09d}.ckpt"
    return torch.load(last, weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(city_scene, tmp_path_factory):
    """Configuration and last checkpoint of an uninterrupted run, with all parts of the model that have state."""
    out = tmp_path_factory.mktemp("runs")
    config = make_config(city_scene, out, "uninterrupted", filter_3d=True, appearance="perceptron")
    return config, train(config)


def resume_config(config, checkpoints: Path, name: str):
    """The same run, resumed from the checkpoint in its middle."""
    shutil.copytree(config.get_checkpoint_dir(), checkpoints, ignore=shutil.ignore_patterns(f"*{STEPS - 1}.ckpt"))
    resumed = copy.deepcopy(config)
    resumed.timestamp, resumed.load_dir = name, checkpoints
    resumed.max_num_iterations = STEPS
    return resumed


def test_resumed_run_is_identical(uninterrupted, city_scene, tmp_path):
    """Gaussians (after splits at random positions), appearance, optimizer moments and learning rates."""
    config, expected = uninterrupted
    initial_count = len(read_ply(city_scene / "points.ply").xyz_m)
    assert expected["pipeline"]["_model.gauss_params.means"].shape[0] > 1.02 * initial_count
    found = train(resume_config(config, tmp_path / "models", "resumed"), seed=5)
    assert found.keys() == expected.keys()
    assert_identical(found, expected)


def test_checkpoints_of_other_images_are_refused(uninterrupted, tmp_path):
    config, _ = uninterrupted
    scene = shutil.copytree(config.pipeline.datamanager.data, tmp_path / "scene")
    resumed = resume_config(config, tmp_path / "models", "fewer")
    resumed.pipeline.datamanager.data = scene
    names = [image.name for image in Scene.from_directory(scene).images if image.split == "train"]
    resumed.pipeline.datamanager.dataparser.images = ("view_0[234]*",)
    with pytest.raises(TrainingError) as caught:
        resumed.setup(local_rank=0, world_size=1).setup()
    message = str(caught.value)
    assert f"other images than those of {scene}: it has {names[0]}. Choose the same with --pipeline.data" in message
    assert message.count(". ") == 1
    text = (scene / "scene.json").read_text()
    (scene / "scene.json").write_text(text.replace(f'"name": "{names[0]}"', '"name": "another"'))
    resumed.pipeline.datamanager.dataparser.images = ("*",)
    with pytest.raises(TrainingError, match=rf"it has {names[0]} and it lacks another\. Choose"):
        resumed.setup(local_rank=0, world_size=1).setup()


def test_checkpoints_of_another_frame_are_refused(uninterrupted, tmp_path):
    """With the same names and a frame that is shifted by a meter, Gaussians would be in the wrong place."""
    config, _ = uninterrupted
    scene = shutil.copytree(config.pipeline.datamanager.data, tmp_path / "scene")
    origin = Scene.from_directory(scene).frame.origin
    text = (scene / "scene.json").read_text()
    (scene / "scene.json").write_text(text.replace(str(origin[0]), str(origin[0] + 1), 1))
    resumed = resume_config(config, tmp_path / "models", "elsewhere")
    resumed.pipeline.datamanager.data = scene
    with pytest.raises(TrainingError, match=r"another place or frame than .* \(origin .*\)\. Pass the scene") as caught:
        resumed.setup(local_rank=0, world_size=1).setup()
    assert str(caught.value).count(". ") == 1


def test_exports_of_another_scene_are_refused(uninterrupted, tmp_path):
    config, _ = uninterrupted
    other = copy.deepcopy(config)
    other.output_dir = tmp_path
    other.pipeline.datamanager.dataparser.images = ("view_0[234]*",)
    other.save_config()
    shutil.copytree(config.get_checkpoint_dir(), other.get_checkpoint_dir())
    with pytest.raises(TrainingError, match="trained on other images"):
        load_run(other.get_base_dir() / "config.yml")


@pytest.mark.parametrize("version", [None, 0, 2])
def test_checkpoints_of_another_version_are_refused(uninterrupted, tmp_path, version):
    config, checkpoint = uninterrupted
    resumed = resume_config(config, tmp_path / "models", "version")
    state = dict(checkpoint["pipeline"])
    extra_state = state.pop("_extra_state")
    if version is not None:
        state["_extra_state"] = extra_state | {"version": version}
    torch.save(checkpoint | {"pipeline": state, "step": 20}, tmp_path / "models/step-000000020.ckpt")
    message = rf"The checkpoint has version {version}, this program reads version 1\. Train again, or use"
    with pytest.raises(TrainingError, match=message) as caught:
        resumed.setup(local_rank=0, world_size=1).setup()
    assert str(caught.value).count(". ") == 1


def test_directory_without_checkpoints_is_refused(uninterrupted, tmp_path):
    resumed = copy.deepcopy(uninterrupted[0])
    resumed.load_dir = tmp_path
    with pytest.raises(TrainingError, match=r"has no checkpoint\. Pass RUN/nerfstudio_models"):
        resumed.setup(local_rank=0, world_size=1).setup()


def test_killed_run_reaches_its_last_step(city_scene, tmp_path):
    flags = ["skyfall", "--data", city_scene, "--output-dir", tmp_path, "--experiment-name", "killed", "--vis",
             "tensorboard", "--steps-per-save", "7", "--max-num-iterations"]  # fmt: skip
    process = subprocess.Popen(
        [BIN / "ns-train", *map(str, flags), "100000", "--timestamp", "first"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    models = tmp_path / "killed/skyfall/first/nerfstudio_models"
    try:
        deadline = time.monotonic() + 300
        while not any(models.glob("*.ckpt")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(random.SystemRandom().uniform(0.0, 3.0))  # anywhere: in a step, or while a checkpoint is written
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=60)
    last = max(int(path.stem[5:]) for path in models.glob("*.ckpt"))
    run_command("ns-train", *flags, last + 15, "--timestamp", "second", "--load-dir", models)
    assert (tmp_path / f"killed/skyfall/second/nerfstudio_models/step-{last + 14:09d}.ckpt").is_file()
