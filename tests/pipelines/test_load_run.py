"""Messages for runs that cannot be loaded; tests/test_nerfstudio_commands.py loads valid runs."""

import copy

import pytest

from skyfall_ns.errors import TrainingError
from skyfall_ns.method_configs import skyfall
from skyfall_ns.pipelines.load_run import load_run


def write_run(directory, config: str, checkpoint: bytes = b""):
    """Write config.yml and a checkpoint; returns the path of config.yml."""
    (directory / "nerfstudio_models").mkdir()
    (directory / "nerfstudio_models/step-000000001.ckpt").write_bytes(checkpoint)
    (directory / "config.yml").write_text(config)
    return directory / "config.yml"


def test_missing_config_is_reported(tmp_path):
    with pytest.raises(TrainingError, match=r"config\.yml does not exist\. Pass the config\.yml"):
        load_run(tmp_path / "config.yml")


def test_run_without_checkpoint_is_reported(tmp_path):
    (tmp_path / "config.yml").write_text("a: 1")
    with pytest.raises(TrainingError, match=r"without a checkpoint\. Train it again"):
        load_run(tmp_path / "config.yml")


@pytest.mark.parametrize("text", ["{", "just words", ""])
def test_file_that_is_not_a_training_configuration_is_reported(tmp_path, text):
    with pytest.raises(TrainingError, match=r"config\.yml is (damaged \(.*\)|not a training configuration)\. Pass the"):
        load_run(write_run(tmp_path, text))


@pytest.mark.parametrize("checkpoint", [b"", b"no checkpoint"])
def test_damaged_checkpoint_is_reported(tmp_path, city_scene, checkpoint):
    config = copy.deepcopy(skyfall.config)
    config.output_dir, config.timestamp, config.experiment_name = tmp_path, "t", "run"
    config.pipeline.datamanager.data = city_scene
    config.save_config()
    directory = config.get_base_dir()
    run = write_run(directory, (directory / "config.yml").read_text(), checkpoint)
    with pytest.raises(TrainingError, match=r"The checkpoint of .* is damaged \(.*\)\. Train the run again"):
        load_run(run)
