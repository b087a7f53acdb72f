"""Checks of Nerfstudio's command lines before it does any work, where it would end in a traceback or a wrong result.

They concern runs and methods of this plugin only. Each command has a function in CHECKS.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from skyfall_ns.errors import TrainingError
from skyfall_ns.io.json_files import read_json
from skyfall_ns.run_config import OUR_PACKAGE, read_run_config

METHOD_PREFIX = "skyfall"
MAX_FRAMES, MAX_PIXELS = 100_000, 100_000_000
OUR_EXPORTS = {
    "pointcloud": "skyfall-export points --load-config RUN/config.yml --output F.laz",
    "tsdf": "skyfall-export mesh --load-config RUN/config.yml --output F.glb",
    "poisson": "skyfall-export mesh --load-config RUN/config.yml --output F.glb",
    "marching-cubes": "skyfall-export mesh --load-config RUN/config.yml --output F.glb",
    "cameras": "skyfall-export rpc --load-config RUN/config.yml --output-dir DIR",
}
"""Kinds of `ns-export` that do not work on satellite scenes, and our command for each."""
_TRACKERS = {"wandb": "wandb", "comet": "comet_ml"}  # option of --vis to package


def check_command_line(arguments: list[str]) -> None:
    """Check the words of a command line, the first of which is the program; TrainingError for what cannot work."""
    check = CHECKS.get(Path(arguments[0]).stem) if arguments else None
    if check is not None and not {"-h", "--help"} & set(arguments):
        check(arguments)


def flag_value(arguments: Sequence[str], flag: str) -> str | None:
    """The word after a flag, or after its "="; words with _ are the same flag as with -. None without the flag."""
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        name, separator, value = word.partition("=")
        if name.startswith("--") and name.replace("_", "-") == flag:
            return value if separator else following
    return None


def _our_run(arguments: Sequence[str]) -> Path | None:
    """The config.yml that --load-config names, if it is a run of this plugin."""
    value = flag_value(arguments, "--load-config")
    path = Path(value) if value else None
    if path is None:
        return None
    if not path.is_file():
        raise TrainingError(f"{path} does not exist. Pass the config.yml that ns-train wrote.")
    with open(path, "rb") as file:
        return path if OUR_PACKAGE.encode() in file.read(1_000_000) else None


def check_training(arguments: Sequence[str]) -> None:
    """Check --vis of a training with a method of this plugin."""
    if len(arguments) < 2 or not arguments[1].startswith(METHOD_PREFIX):
        return
    vis = flag_value(arguments, "--vis") or "viewer+tensorboard"
    for option, package in _TRACKERS.items():
        if option in vis.split("+") and not _is_installed(package):
            raise TrainingError(
                f"--vis {vis} needs the package {package}, which is not installed. "
                f"Install it with pip install {package}, or pass --vis viewer+tensorboard."
            )


def _is_installed(package: str) -> bool:
    from importlib.util import find_spec

    return find_spec(package) is not None


def check_export(arguments: Sequence[str]) -> None:
    """Refuse the kinds of export that satellite runs do not have."""
    kind = next((word for word in arguments[1:] if not word.startswith("-")), "")
    if kind in OUR_EXPORTS and _our_run(arguments) is not None:
        raise TrainingError(f"ns-export {kind} does not work on satellite images. Use {OUR_EXPORTS[kind]} instead.")


def check_render(arguments: Sequence[str]) -> None:
    """Check the camera path, or the number of images to interpolate between."""
    kind = next((word for word in arguments[1:] if not word.startswith("-")), "")
    if kind not in ("camera-path", "interpolate") or (run := _our_run(arguments)) is None:
        return
    if kind == "camera-path":
        path = flag_value(arguments, "--camera-path-filename")
        if path is not None:
            check_camera_path(Path(path))
    elif (flag_value(arguments, "--pose-source") or "eval") == "eval":
        _check_interpolation(run)


def _check_interpolation(run: Path) -> None:
    """Raise TrainingError unless two images were held out: Nerfstudio interpolates between those by default."""
    from skyfall_ns.scene.scene import Scene

    datamanager = read_run_config(run).pipeline.datamanager
    scene = Scene.from_directory(Path(datamanager.data or datamanager.dataparser.data))
    held_out = [image.name for image in scene.images if image.split == "test"]
    if len(held_out) < 2:
        names = f"only {held_out[0]} was" if held_out else "none was"
        raise TrainingError(
            f"ns-render interpolate moves between the images held out of training, and {names}. "
            "Pass --pose-source train, or a camera path of skyfall-path to ns-render camera-path."
        )


def check_camera_path(path: Path) -> None:
    """Raise TrainingError unless a camera path has cameras, a duration, and images of a size that can be rendered."""
    remedy = "Write one with skyfall-path orbit, or save one in the viewer."
    try:
        data = read_json(path)
        cameras, seconds = data["camera_path"], float(data["seconds"])
        width, height = (float(data[name]) for name in ("render_width", "render_height"))
        matrices = [[float(v) for v in camera["camera_to_world"]] for camera in cameras]
        fields_of_view = [float(camera.get("fov", 50.0)) for camera in cameras]
    except OSError as error:
        raise TrainingError(f"{path} cannot be read ({error.strerror}). {remedy}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrainingError(f"{path} is not a camera path ({type(error).__name__}: {error}). {remedy}") from error
    problem = _camera_path_problem(matrices, fields_of_view, seconds, width, height)
    if problem is not None:
        raise TrainingError(f"{path} {problem}. {remedy}")


def _camera_path_problem(
    matrices: list[list[float]], fields_of_view: list[float], seconds: float, width: float, height: float
) -> str | None:
    """What is wrong with a camera path, in words; None if nothing is."""
    if not matrices:
        return "has no camera"
    if len(matrices) > MAX_FRAMES:
        return f"has {len(matrices)} cameras, more than {MAX_FRAMES}"
    if not (math.isfinite(seconds) and seconds > 0):
        return f"lasts {seconds:g} seconds"
    if not (width >= 1 and height >= 1 and width * height <= MAX_PIXELS):
        return f"has images of {width:g} x {height:g} pixels"
    if any(len(matrix) != 16 or not all(map(math.isfinite, matrix)) for matrix in matrices):
        return "has a camera whose camera_to_world is not a matrix of 16 finite numbers"
    if any(not 0 < fov < 180 for fov in fields_of_view):
        return "has a camera whose field of view is not between 0 and 180 degrees"
    return None


def check_evaluation(arguments: Sequence[str]) -> None:
    """Check that the run exists, and that the scores are written to a file."""
    if _our_run(arguments) is None:
        return
    output = flag_value(arguments, "--output-path")
    if output is not None and Path(output).is_dir():
        raise TrainingError(f"--output-path {output} is a directory. Give the name of a JSON file in it.")


CHECKS: dict[str, Callable[[Any], Any]] = {
    "ns-train": check_training,
    "ns-viewer": _our_run,
    "ns-export": check_export,
    "ns-render": check_render,
    "ns-eval": check_evaluation,
}
"""Name of the program to its check."""
