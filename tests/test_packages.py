"""Other versions of dependencies: pip, unlike uv, installs numpy 1.26, which a dependency of Nerfstudio requires."""

import os
import shutil
import subprocess
import sys

import pytest
from helpers.commands import run_command

pytestmark = [pytest.mark.slow, pytest.mark.process]


@pytest.fixture
def old_numpy(tmp_path, monkeypatch):
    """Put numpy 1.26 on the path before the installed version."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv to install an older numpy")
    directory = tmp_path / "packages"
    command = [uv, "pip", "install", "--no-deps", "--target", directory, "numpy<2"]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"an older numpy cannot be installed: {done.stderr[-200:]}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(directory), os.environ.get("PYTHONPATH")])))
    version = subprocess.check_output([sys.executable, "-c", "import numpy; print(numpy.__version__)"], text=True)
    assert version.startswith("1.26.")


@pytest.mark.usefixtures("old_numpy")
def test_training_and_resuming_with_an_older_numpy(city_scene, tmp_path):
    arguments = ["ns-train", "skyfall", "--data", city_scene, "--output-dir", tmp_path, "--experiment-name", "old",
             "--vis", "tensorboard"]  # fmt: skip
    run_command(*arguments, "--timestamp", "first", "--max-num-iterations", 3)
    models = tmp_path / "old/skyfall/first/nerfstudio_models"
    run_command(*arguments, "--timestamp", "second", "--max-num-iterations", 5, "--load-dir", models)
    config = tmp_path / "old/skyfall/second/config.yml"
    run_command("skyfall-export", "dsm", "--load-config", config, "--output", tmp_path / "dsm.tif")
