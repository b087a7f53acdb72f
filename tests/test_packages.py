"""The package beside other versions: pip, unlike uv, installs numpy 1.26, which a package that the host names wants."""

import os
import shutil
import subprocess
import sys

import pytest
from test_cli_host import run


@pytest.fixture
def old_numpy(tmp_path, monkeypatch):
    """numpy 1.26 before the installed one."""
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("needs uv to install an older numpy")
    folder = tmp_path / "packages"
    command = [uv, "pip", "install", "--no-deps", "--target", folder, "numpy<2"]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"an older numpy cannot be installed: {done.stderr[-200:]}")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
    version = subprocess.check_output([sys.executable, "-c", "import numpy; print(numpy.__version__)"], text=True)
    assert version.startswith("1.26.")


@pytest.mark.usefixtures("old_numpy")
def test_an_older_numpy_trains_and_goes_on(city_scene, tmp_path):
    words = ["ns-train", "skyfall", "--data", city_scene, "--output-dir", tmp_path, "--experiment-name", "old",
             "--vis", "tensorboard"]  # fmt: skip
    run(*words, "--timestamp", "first", "--max-num-iterations", 3)
    models = tmp_path / "old/skyfall/first/nerfstudio_models"
    run(*words, "--timestamp", "second", "--max-num-iterations", 5, "--load-dir", models)
    config = tmp_path / "old/skyfall/second/config.yml"
    run("skyfall-export", "dsm", "--load-config", config, "--output", tmp_path / "dsm.tif")
