"""The checkpoint that is loaded: the newest one, as the located configuration says, or that of a step."""

from types import SimpleNamespace

import pytest
from nerfstudio.utils import eval_utils

from skyfall_ns.errors import TrainingError
from skyfall_ns.pipelines import load_run as module


@pytest.mark.parametrize(("step", "loaded"), [(None, 19), (7, 7)])
def test_the_step_of_the_located_configuration_is_kept_unless_one_is_given(monkeypatch, tmp_path, step, loaded):
    config = SimpleNamespace(load_step=19)

    def set_up(path, test_mode, update_config_callback):
        update_config_callback(config)
        raise KeyError("no checkpoint in this test")

    monkeypatch.setattr(eval_utils, "eval_setup", set_up)
    monkeypatch.setattr(module, "find_checkpoint", lambda path, step: path)
    monkeypatch.setattr(module, "read_run_config", lambda path: config)
    with pytest.raises(TrainingError, match="is damaged"):
        module.load_run(tmp_path / "config.yml", step)
    assert config.load_step == loaded
