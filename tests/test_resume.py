"""Killed runs go on: as if nothing had happened, to the last step, and never with another scene's checkpoint."""

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
from test_cli_host import BIN, run

from skyfall_ns.errors import TrainingError
from skyfall_ns.method_configs import skyfall
from skyfall_ns.pipelines.load_run import load_run
from skyfall_ns.priors.pseudo_cameras import PseudoSchedule
from skyfall_ns.scene.scene import Scene

STEPS, SAVED = 32, 16


def config_for(scene: Path, out: Path, name: str, **options):
    """A short run that splits, prunes and shades; `options` are the model's."""
    config = copy.deepcopy(skyfall.config)
    config.output_dir, config.experiment_name, config.timestamp = out, "city", name
    config.vis, config.machine.device_type, config.logging.local_writer.enable = "tensorboard", "cpu", False
    config.max_num_iterations, config.steps_per_save, config.steps_per_eval_image = STEPS, SAVED, 10
    config.save_only_latest_checkpoint = False
    config.pipeline.datamanager.data = scene
    model = config.pipeline.model
    # statistics are gathered over a save; images are shaded anew between saves
    model.warmup_length, model.refine_every, model.stop_split_at, model.shadows_every = 3, 7, 30, 5
    model.densify_grad_thresh = 3e-4  # more splits than are pruned
    for key, value in options.items():
        setattr(model, key, value)
    # pseudo views come in stacks that reach over a save
    config.pipeline.depth.schedule = PseudoSchedule(start=1, end=31, interval=3, ramp=5, size_px=48, stack=4)
    return config


def train(config, seed: int = 0) -> dict:
    """As ns-train does; the last checkpoint."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    trainer.train()
    last = sorted(config.get_checkpoint_dir().glob("*.ckpt"))[-1]
    assert last.name == f"step-{STEPS - 1:09d}.ckpt"
    return torch.load(last, weights_only=True)


@pytest.fixture(scope="module")
def whole(city_scene, tmp_path_factory):
    """A run that nobody disturbed, with the parts that keep something: its configuration and its last checkpoint."""
    config = config_for(city_scene, tmp_path_factory.mktemp("runs"), "whole", filter_3d=True, appearance="perceptron")
    return config, train(config)


def resumed_from(config, checkpoints: Path, name: str):
    """The same run, gone on from the checkpoint in its middle."""
    shutil.copytree(config.get_checkpoint_dir(), checkpoints, ignore=shutil.ignore_patterns(f"*{STEPS - 1}.ckpt"))
    again = copy.deepcopy(config)
    again.timestamp, again.load_dir = name, checkpoints
    again.max_num_iterations = STEPS
    return again


def test_a_resumed_run_is_the_same_to_the_last_bit(whole, city_scene, tmp_path):
    """Splats (after splits with random places), tones, moments, rates and what comes next."""
    config, expected = whole
    assert expected["pipeline"]["_model.gauss_params.means"].shape[0] > 1.02 * start_count(city_scene)
    found = train(resumed_from(config, tmp_path / "models", "resumed"), seed=5)
    assert found.keys() == expected.keys()
    assert_equal(found, expected, "checkpoint")


def start_count(scene: Path) -> int:
    from skyfall_ns.io.ply import read_ply

    return len(read_ply(scene / "points.ply").xyz_m)


def assert_equal(found, expected, name: str) -> None:
    assert type(found) is type(expected), name
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), name
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected:
            assert_equal(found[key], expected[key], f"{name}.{key}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), name
        for i, pair in enumerate(zip(found, expected, strict=True)):
            assert_equal(*pair, f"{name}[{i}]")
    else:
        assert found == expected, name


def test_checkpoints_of_other_images_are_refused(whole, tmp_path):
    config, _ = whole
    scene = shutil.copytree(config.pipeline.datamanager.data, tmp_path / "scene")
    again = resumed_from(config, tmp_path / "models", "fewer")
    again.pipeline.datamanager.data = scene
    names = [image.name for image in Scene.load(scene).images if image.split == "train"]
    again.pipeline.datamanager.dataparser.images = ("view_0[234]*",)
    with pytest.raises(TrainingError) as caught:
        again.setup(local_rank=0, world_size=1).setup()
    message = str(caught.value)
    assert f"other images than those of {scene}: it knows {names[0]}. Choose the same with --images" in message
    assert message.count(". ") == 1
    text = (scene / "scene.json").read_text()
    (scene / "scene.json").write_text(text.replace(f'"name": "{names[0]}"', '"name": "another"'))
    again.pipeline.datamanager.dataparser.images = ("*",)
    with pytest.raises(TrainingError, match=rf"it knows {names[0]} and it does not know another\. Choose"):
        again.setup(local_rank=0, world_size=1).setup()


def test_checkpoints_of_another_place_are_refused(whole, tmp_path):
    """The same names over a frame that begins a metre beside: splats would land in the wrong place."""
    config, _ = whole
    scene = shutil.copytree(config.pipeline.datamanager.data, tmp_path / "scene")
    origin = Scene.load(scene).frame["origin"]
    text = (scene / "scene.json").read_text()
    (scene / "scene.json").write_text(text.replace(str(origin[0]), str(origin[0] + 1), 1))
    again = resumed_from(config, tmp_path / "models", "elsewhere")
    again.pipeline.datamanager.data = scene
    with pytest.raises(TrainingError, match=r"another place or frame than .* \(origin .*\)\. Pass the scene") as caught:
        again.setup(local_rank=0, world_size=1).setup()
    assert str(caught.value).count(". ") == 1


def test_exports_of_another_scene_are_refused_too(whole, tmp_path):
    config, _ = whole
    moved = copy.deepcopy(config)
    moved.output_dir = tmp_path
    moved.pipeline.datamanager.dataparser.images = ("view_0[234]*",)
    moved.save_config()
    shutil.copytree(config.get_checkpoint_dir(), moved.get_checkpoint_dir())
    with pytest.raises(TrainingError, match="trained on other images"):
        load_run(moved.get_base_dir() / "config.yml")


def test_checkpoints_of_before_still_load(whole, tmp_path):
    config, last = whole
    again = resumed_from(config, tmp_path / "models", "older")
    del last["pipeline"]["_extra_state"]
    torch.save(last | {"step": 20}, tmp_path / "models/step-000000020.ckpt")
    trainer = again.setup(local_rank=0, world_size=1)
    trainer.setup()
    assert trainer._start_step == 21


def test_a_folder_without_checkpoints_is_named(whole, tmp_path):
    again = copy.deepcopy(whole[0])
    again.load_dir = tmp_path
    with pytest.raises(TrainingError, match=r"holds no checkpoint\. Pass RUN/nerfstudio_models"):
        again.setup(local_rank=0, world_size=1).setup()


def test_a_killed_run_reaches_its_last_step(city_scene, tmp_path):
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
    run("ns-train", *flags, last + 15, "--timestamp", "second", "--load-dir", models)
    assert (tmp_path / f"killed/skyfall/second/nerfstudio_models/step-{last + 14:09d}.ckpt").is_file()
