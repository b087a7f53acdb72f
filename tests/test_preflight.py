"""Command lines of Nerfstudio that cannot work are refused in two sentences before any work."""

import copy
import json

import pytest
from helpers.commands import run_command
from helpers.untrained_run import save_untrained_run

from skyfall_ns import preflight
from skyfall_ns.errors import TrainingError
from skyfall_ns.export.registry import EXPORTS
from skyfall_ns.machine_options import SingleDeviceConfig
from skyfall_ns.preflight import OUR_EXPORTS, check_camera_path, check_command_line

IDENTITY = [1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]
PATH = {
    "camera_path": [{"camera_to_world": IDENTITY, "fov": 50.0, "aspect": 1.5}],
    "seconds": 2.0, "render_width": 96, "render_height": 64, "fps": 30.0, "camera_type": "perspective",
}  # fmt: skip


@pytest.fixture(scope="module")
def run(city_scene, tmp_path_factory):
    return save_untrained_run(city_scene, tmp_path_factory.mktemp("runs"))


def refused(*words) -> str:
    """The message of a command line."""
    with pytest.raises(TrainingError) as raised:
        check_command_line(["/somewhere/bin/" + str(words[0]), *map(str, words[1:])])
    message = str(raised.value)
    assert message.count(". ") == 1 and message.endswith("."), message
    return message


@pytest.mark.parametrize("kind", OUR_EXPORTS)
def test_other_exports_are_refused_by_the_name_of_one_that_exists(run, kind):
    message = refused("ns-export", kind, f"--load-config={run}", "--output-dir", "O")
    assert f"ns-export {kind} does not work on satellite images. Use skyfall-export " in message
    assert OUR_EXPORTS[kind].split()[1] in EXPORTS


def test_what_works_is_not_refused(run, tmp_path):
    check_command_line(["ns-export", "gaussian-splat", "--load-config", str(run), "--output-dir", "O"])
    check_command_line(["ns-render", "interpolate", "--load-config", str(run), "--pose-source", "train"])
    check_command_line(["ns-train", "skyfall", "--vis", "tensorboard"])
    check_command_line(["ns-train", "skyfall"])
    check_command_line(["ns-train", "--help"])
    check_command_line(["python"])
    other = tmp_path / "config.yml"
    other.write_text("a run of another method")
    check_command_line(["ns-export", "poisson", "--load-config", str(other)])


def test_interpolation_between_fewer_than_two_images_is_refused(run):
    for words in ((), ("--pose-source", "eval"), ("--pose_source=eval",)):
        message = refused("ns-render", "interpolate", "--load-config", run, *words)
        assert "and only view_05" in message and "--pose-source train" in message


DAMAGED_PATHS = {
    "no camera": (PATH | {"camera_path": []}, "has no camera"),
    "no duration": (PATH | {"seconds": 0}, "lasts 0 seconds"),
    "negative duration": (PATH | {"seconds": -1}, "lasts -1 seconds"),
    "no number": (PATH | {"seconds": "long"}, "is not a camera path"),
    "no size": (PATH | {"render_width": 0}, "has images of 0 x 64 pixels"),
    "huge": (PATH | {"render_width": 1e7}, "has images of 1e+07 x 64"),
    "size missing": ({k: v for k, v in PATH.items() if k != "render_height"}, "KeyError: 'render_height'"),
    "short matrix": (PATH | {"camera_path": [{"camera_to_world": IDENTITY[:12]}]}, "matrix of 16"),
    "NaN": (PATH | {"camera_path": [{"camera_to_world": [float("nan")] * 16}]}, "matrix of 16"),
    "no matrix": (PATH | {"camera_path": [{}]}, "is not a camera path"),
    "a list": ([1], "is not a camera path"),
    "flat": (PATH | {"camera_path": [{"camera_to_world": IDENTITY, "fov": 0}]}, "field of view"),
}


@pytest.mark.parametrize("name", DAMAGED_PATHS)
def test_camera_paths_that_cannot_be_rendered_are_refused(run, tmp_path, name):
    data, words = DAMAGED_PATHS[name]
    file = tmp_path / "path.json"
    file.write_text(json.dumps(data))
    message = refused("ns-render", "camera-path", "--load-config", run, "--camera-path-filename", file)
    assert words in message and "skyfall-path" in message


def test_camera_paths_are_bounded_before_they_are_read(run, tmp_path, monkeypatch):
    file = tmp_path / "path.json"
    file.write_text(json.dumps(PATH))
    check_camera_path(file)
    monkeypatch.setattr(preflight, "MAX_FRAMES", 0)
    with pytest.raises(TrainingError, match="has 1 cameras, more than 0"):
        check_camera_path(file)
    file.write_text("[" * 100_000)
    with pytest.raises(TrainingError, match="is not a camera path"):
        check_camera_path(file)
    with pytest.raises(TrainingError, match=r"nothing.json cannot be read .*\. Write"):
        check_camera_path(tmp_path / "nothing.json")
    assert copy.deepcopy(PATH) == PATH


def test_trackers_that_are_not_installed_are_refused(monkeypatch):
    monkeypatch.setattr(preflight, "_is_installed", lambda package: False)
    message = refused("ns-train", "skyfall", "--vis", "viewer+wandb")
    assert "needs the package wandb" in message and "pip install wandb" in message
    check_command_line(["ns-train", "splatfacto", "--vis", "wandb"])


def test_a_missing_run_is_refused(tmp_path):
    assert "does not exist" in refused("ns-viewer", "--load-config", tmp_path / "config.yml")
    assert "is a directory" in refused_output(tmp_path)


def refused_output(directory):
    (directory / "config.yml").write_text("skyfall_ns")
    return refused("ns-eval", "--load-config", directory / "config.yml", "--output-path", directory)


@pytest.mark.parametrize(("option", "value"), [("device_type", "mps"), ("num_devices", 2), ("num_machines", 2)])
def test_machines_that_are_not_there_are_refused(option, value, monkeypatch):
    monkeypatch.setattr("skyfall_ns.machine_options.available_device_types", lambda: ("cpu",))
    with pytest.raises(TrainingError) as raised:
        SingleDeviceConfig(**{"device_type": "cpu", option: value})
    assert str(raised.value).count(". ") == 1


@pytest.mark.slow
@pytest.mark.process
def test_commands_print_two_sentences(city_scene, tmp_path):
    result = run_command("ns-train", "skyfall", "--data", city_scene, "--output-dir", tmp_path, "--machine.num-devices",
                         "2", check=False)  # fmt: skip
    assert result.returncode == 1 and "Traceback" not in result.stderr and result.stderr.count("Error: ") == 1
    assert not list(tmp_path.iterdir())
