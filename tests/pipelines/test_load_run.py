"""Runs that cannot be loaded are told apart in words; runs that can are loaded by tests/test_cli_host.py."""

import copy

import pytest

from skyfall_ns.errors import TrainingError
from skyfall_ns.method_configs import skyfall
from skyfall_ns.pipelines.load_run import load_run


def make_run(folder, config: str, checkpoint: bytes = b""):
    (folder / "nerfstudio_models").mkdir()
    (folder / "nerfstudio_models/step-000000001.ckpt").write_bytes(checkpoint)
    (folder / "config.yml").write_text(config)
    return folder / "config.yml"


def test_no_such_run(tmp_path):
    with pytest.raises(TrainingError, match=r"config\.yml does not exist\. Pass the config\.yml"):
        load_run(tmp_path / "config.yml")


def test_run_without_checkpoint(tmp_path):
    (tmp_path / "config.yml").write_text("a: 1")
    with pytest.raises(TrainingError, match=r"without a checkpoint\. Train it again"):
        load_run(tmp_path / "config.yml")


@pytest.mark.parametrize("text", ["{", "!!python/object:nowhere.Nothing {}", "just words", ""])
def test_config_of_something_else(tmp_path, text):
    with pytest.raises(TrainingError, match=r"config\.yml is (damaged \(.*\)|no training configuration)\. Pass the"):
        load_run(make_run(tmp_path, text))


@pytest.mark.parametrize("checkpoint", [b"", b"no checkpoint"])
def test_damaged_checkpoint(tmp_path, city_scene, checkpoint):
    config = copy.deepcopy(skyfall.config)
    config.output_dir, config.timestamp, config.experiment_name = tmp_path, "t", "run"
    config.pipeline.datamanager.data = city_scene
    config.save_config()
    folder = config.get_base_dir()
    run = make_run(folder, (folder / "config.yml").read_text(), checkpoint)
    with pytest.raises(TrainingError, match=r"The checkpoint of .* is damaged \(.*\)\. Train the run again"):
        load_run(run)
