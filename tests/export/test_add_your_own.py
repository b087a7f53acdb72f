"""The example of docs/extending/add_an_export.md, run as it is printed."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.commands import BIN
from helpers.documents import load_example, python_blocks, table_entry
from helpers.untrained_run import save_untrained_run

from skyfall_ns.export.registry import EXPORTS
from skyfall_ns.io.ply import read_ply
from skyfall_ns.scene.scene import Scene
from skyfall_ns.scripts import export


@pytest.fixture(scope="module")
def config(city_scene, tmp_path_factory):
    """config.yml of a run without training steps."""
    yield save_untrained_run(city_scene, tmp_path_factory.mktemp("runs"))
    torch.set_grad_enabled(True)  # loading a run disables it


@pytest.fixture
def call_export(tmp_path_factory, monkeypatch, capsys):
    """Run `skyfall-export` with the example in its table; its exit code, standard output and errors."""
    source, line = python_blocks("extending/add_an_export.md")
    module = load_example(source, "skyfall_ns.export.centers_export", tmp_path_factory.mktemp("example"), monkeypatch)
    name, export_class = table_entry(line, module)
    monkeypatch.setitem(EXPORTS, name, export_class)

    def run_main(*arguments):
        monkeypatch.setattr(sys, "argv", ["skyfall-export", *map(str, arguments)])
        code = 0
        try:
            export.main()
        except SystemExit as exit_error:
            code = exit_error.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_main


def test_the_example_exports_the_centers_of_a_run(config, city_scene, call_export, tmp_path):
    path = tmp_path / "new/centers.csv"
    code, out, err = call_export("centers", "--load-config", config, "--output", path, "--min-opacity", 0)
    assert (code, err) == (0, "") and f"{path}: " in out
    lonlath = np.loadtxt(path, delimiter=",", skiprows=1)
    points = read_ply(city_scene / "points.ply").xyz_m  # the Gaussians of a run without steps
    expected = Scene.from_directory(city_scene).frame.to_geodetic(points)
    assert len(lonlath) == len(points)
    np.testing.assert_allclose(np.sort(lonlath[:, :2], 0), np.sort(expected[:, :2], 0), atol=2e-8)
    np.testing.assert_allclose(np.sort(lonlath[:, 2]), np.sort(expected[:, 2]), atol=2e-3)


def test_help_of_the_example_has_its_docstrings(call_export):
    code, out, _ = call_export("centers", "--help")
    assert code == 0 and "--min-opacity" in out and "Opacity in 0..1 below which Gaussians are left out" in out
    code, out, _ = call_export("--help")
    assert all(name in out for name in ("dsm", "rpc", "centers"))


def test_errors_of_the_example_are_two_sentences(call_export, tmp_path):
    for flags, words in (
        (("--output", tmp_path), f"--output {tmp_path} is a directory."),
        (("--output", tmp_path / "a.csv", "--min-opacity", 2), "--min-opacity 2 is not an opacity."),
    ):
        code, _, err = call_export("centers", "--load-config", tmp_path / "config.yml", *flags)
        assert code == 1 and words in err and err.count(". ") == 1


@pytest.mark.parametrize("name", EXPORTS)
def test_every_export_has_flags_and_help(name):
    result = subprocess.run([BIN / "skyfall-export", name, "--help"], capture_output=True, text=True)
    assert result.returncode == 0 and "--load-config" in result.stdout
