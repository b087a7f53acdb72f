"""Runs are opened where they lie, without running code in their config.yml."""

import copy
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from helpers.attacks import attacks
from helpers.commands import run_command
from helpers.untrained_run import save_untrained_run
from nerfstudio.scripts import train
from nerfstudio.utils import eval_utils

from skyfall_ns import method_configs, nerfstudio_patches
from skyfall_ns.errors import TrainingError
from skyfall_ns.pipelines.load_run import find_checkpoint, load_run
from skyfall_ns.run_config import MAX_CONFIG_BYTES, newest_checkpoint_step, parse_run_config, read_run_config

NAMES = tuple(attacks(Path("marker")))
METHODS = [value for value in vars(method_configs).values() if type(value).__name__ == "MethodSpecification"]


@pytest.mark.parametrize("specification", METHODS, ids=lambda s: s.config.method_name)
def test_configurations_of_all_methods_are_read_back(specification, tmp_path):
    text = yaml.dump(specification.config)
    assert yaml.dump(parse_run_config(text, tmp_path)) == text


@pytest.mark.parametrize("name", NAMES)
def test_no_code_runs_when_our_commands_open_a_run(name, tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "nerfstudio_models").mkdir()
    (tmp_path / "nerfstudio_models/step-000000001.ckpt").write_bytes(b"")
    (tmp_path / "config.yml").write_text(attacks(marker)[name])
    with pytest.raises(
        TrainingError, match=r"config.yml is (refused because it names .*|damaged .*)\. (Open|Pass)"
    ) as e:
        load_run(tmp_path / "config.yml")
    assert not marker.exists() and str(e.value).count(". ") == 1
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("name", ["os.system", "Popen", "new", "eval", "nested", "as a key", "open"])
def test_no_code_runs_when_nerfstudio_opens_a_run(name, ours, tmp_path):
    """eval_setup, which all of its commands call, and --load-config of ns-train; also of runs of other methods."""
    nerfstudio_patches.apply_patches()
    marker, file = tmp_path / "marker", tmp_path / "config.yml"
    file.write_text(attacks(marker)[name] + ("\n# skyfall_ns" if ours else ""))
    with pytest.raises(TrainingError, match="is refused because it names"):
        eval_utils.eval_setup(file)
    config = copy.deepcopy(method_configs.skyfall.config)
    config.load_config = file
    with pytest.raises(TrainingError, match="is refused because it names"):
        train.main(config)
    assert not marker.exists()


@pytest.mark.slow
@pytest.mark.process
def test_commands_refuse_it_in_two_sentences(tmp_path):
    (tmp_path / "nerfstudio_models").mkdir()
    (tmp_path / "nerfstudio_models/step-000000001.ckpt").write_bytes(b"")
    (tmp_path / "config.yml").write_text(attacks(tmp_path / "marker")["os.system"])
    result = run_command("ns-viewer", "--load-config", tmp_path / "config.yml", check=False)
    assert result.returncode == 1 and "Traceback" not in result.stderr
    assert "is refused because it names os.system" in result.stderr
    assert not (tmp_path / "marker").exists()


def test_configurations_of_other_methods_are_read_as_before(tmp_path):
    from nerfstudio.configs.method_configs import all_methods

    nerfstudio_patches.apply_patches()
    text = yaml.dump(all_methods["splatfacto"])
    read = {"yaml": yaml, "__name__": "nerfstudio.scripts.train"}
    exec("def read(text):\n    return yaml.load(text, Loader=yaml.Loader)", read)
    assert yaml.dump(read["read"](text)) == text


def test_files_that_are_too_large_are_refused(tmp_path):
    (tmp_path / "config.yml").write_bytes(b"#" * (MAX_CONFIG_BYTES + 1))
    with pytest.raises(TrainingError, match=r"config.yml is too large for a configuration\. Pass"):
        read_run_config(tmp_path / "config.yml")


@pytest.mark.parametrize(
    "file", [".DS_Store", "Thumbs.db", "step-000000200.ckpt.partial", "._step-000000900.ckpt", "step-x.ckpt"]
)
def test_other_files_are_no_checkpoints(tmp_path, file):
    for name in (file, "step-000000019.ckpt", "step-000000007.ckpt"):
        (tmp_path / name).touch()
    assert newest_checkpoint_step(tmp_path) == 19


def test_a_directory_without_checkpoints_has_no_step(tmp_path):
    (tmp_path / "step-000000019.ckpt").mkdir()
    assert newest_checkpoint_step(tmp_path) is None and newest_checkpoint_step(tmp_path / "nothing") is None


def test_a_run_is_found_where_it_lies(city_scene, tmp_path):
    """A copy of a run, whose original continued: the copy's own checkpoint is loaded; then the original is moved."""
    original = save_untrained_run(city_scene, tmp_path / "R").parent
    copied = Path(shutil.copytree(original, tmp_path / "elsewhere/anything"))
    (original / "nerfstudio_models/step-000000000.ckpt").rename(original / "nerfstudio_models/step-000000039.ckpt")
    (copied / "nerfstudio_models/.DS_Store").touch()
    nerfstudio_patches.apply_patches()
    config, _, checkpoint, step = eval_utils.eval_setup(copied / "config.yml", test_mode="inference")
    assert checkpoint == copied / "nerfstudio_models/step-000000000.ckpt" == find_checkpoint(copied / "config.yml")
    assert step == 0 and config.get_base_dir() == copied
    (tmp_path / "R").rename(tmp_path / "R2")
    moved = tmp_path / "R2" / original.relative_to(tmp_path / "R")
    assert eval_utils.eval_setup(moved / "config.yml", test_mode="inference")[2].parent == moved / "nerfstudio_models"


def test_the_patch_is_needed():
    """If this fails, Nerfstudio reads configurations with care: remove the patch."""
    source = Path(eval_utils.__file__).read_text()
    assert "yaml.load(config_path.read_text(), Loader=yaml.Loader)" in source
    assert "config.load_dir = config.get_checkpoint_dir()" in source and "os.listdir(config.load_dir)" in source
    assert "yaml.load(config.load_config.read_text(), Loader=yaml.Loader)" in Path(train.__file__).read_text()
