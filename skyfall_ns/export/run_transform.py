"""Georegistration of a run's model space, read from the run's files without importing Nerfstudio."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.errors import TrainingError
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.io.json_files import read_json
from skyfall_ns.scene.scene import Scene

TRANSFORMS_FILE = "dataparser_transforms.json"


@dataclass(frozen=True)
class RunTransform:
    """Transform from local meters to model space: (local + offset_m) * scale, without a rotation."""

    scene: Scene
    offset_m: Float64[ndarray, "3"]
    scale: float  # model units per meter

    @property
    def local_frame(self) -> LocalFrame:
        """Frame of the local meters."""
        return self.scene.frame

    def model_from_local(self, xyz_m: ndarray) -> Float64[ndarray, "*n 3"]:
        """Points of the local frame in model space."""
        return (np.asarray(xyz_m, np.float64) + self.offset_m) * self.scale

    def poses_from_local(self, poses: Float64[ndarray, "n 4 4"]) -> Float64[ndarray, "n 4 4"]:
        """Camera poses (camera_to_local, meters) in model space."""
        transformed = poses.copy()
        transformed[:, :3, 3] = self.model_from_local(poses[:, :3, 3])
        return transformed


def read_run_transform(config_path: Path) -> RunTransform:
    """Read the transform of the run that a config.yml belongs to.

    Raises TrainingError if the files are not those of a skyfall run, SceneError if its scene is missing.
    """
    config_path = Path(config_path)
    config = read_run_config(config_path)
    transforms = config_path.parent / TRANSFORMS_FILE
    if not transforms.is_file():
        raise TrainingError(
            f"{transforms} is missing. Train for at least one step, or copy the whole directory of the run."
        )
    try:
        directory = _scene_directory(config)
        data = read_json(transforms)
        matrix, scale = np.asarray(data["transform"], np.float64), float(data["scale"])
    except (ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{config_path} is not a run of ns-train skyfall ({error}). Pass the config.yml of such a run."
        ) from error
    if matrix.shape != (3, 4) or not np.allclose(matrix[:, :3], np.eye(3)):
        raise TrainingError(f"{transforms} rotates the scene. Pass the config.yml of a run made by ns-train skyfall.")
    return RunTransform(Scene.from_directory(directory), matrix[:, 3], scale)


def read_run_config(config_path: Path) -> dict[str, Any]:
    """Read a config.yml as plain data: dictionaries, lists, strings and numbers. Raises TrainingError if it is not that
    of a run of ns-train."""
    if not Path(config_path).is_file():
        raise TrainingError(f"{config_path} does not exist. Pass the config.yml that ns-train wrote.")
    try:
        config = yaml.load(Path(config_path).read_text(), _PlainLoader)
        config["pipeline"]["datamanager"]
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{config_path} is not a run of ns-train skyfall ({error}). Pass the config.yml of such a run."
        ) from error
    return config


def plain_path(parts: list[str]) -> Path:
    """A path of a config.yml that was read as plain data."""
    return Path(*parts)


class _PlainLoader(yaml.SafeLoader):
    """Loads Nerfstudio's configs as plain data: Python objects become dictionaries, lists and strings, and no code is
    run."""


def _construct_plain_data(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type]


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _construct_plain_data)


def _scene_directory(config: dict[str, Any]) -> Path:
    """`--data` of the run or of its dataparser, whichever is set."""
    datamanager = config["pipeline"]["datamanager"]
    path_parts = datamanager["data"] or datamanager["dataparser"]["data"]
    return plain_path(path_parts)
