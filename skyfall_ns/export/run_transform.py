"""Where a run's model space lies on Earth, read from the run's files without loading the host."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.errors import TrainingError
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.scene.scene import Scene

TRANSFORMS_FILE = "dataparser_transforms.json"


@dataclass(frozen=True)
class Placement:
    """Model space = (local + offset_m) * scale; never a rotation."""

    scene: Scene
    offset_m: Float64[ndarray, "3"]
    scale: float  # model units per metre

    @property
    def frame(self) -> LocalFrame:
        """The frame of local metres."""
        return LocalFrame.from_dict(self.scene.frame)

    def model_from_local(self, xyz_m: ndarray) -> Float64[ndarray, "*n 3"]:
        """Points of the local frame in model space."""
        return (np.asarray(xyz_m, np.float64) + self.offset_m) * self.scale

    def poses_from_local(self, poses: Float64[ndarray, "n 4 4"]) -> Float64[ndarray, "n 4 4"]:
        """Camera poses (camera_to_local, metres) in model space."""
        moved = poses.copy()
        moved[:, :3, 3] = self.model_from_local(poses[:, :3, 3])
        return moved


def read_placement(config_path: Path) -> Placement:
    """The placement of the run behind a config.yml.

    Raises TrainingError if the files are not a skyfall run's, SceneError if its scene is gone.
    """
    config_path = Path(config_path)
    if not config_path.is_file():
        raise TrainingError(f"{config_path} does not exist. Pass the config.yml that ns-train wrote.")
    transforms = config_path.parent / TRANSFORMS_FILE
    if not transforms.is_file():
        raise TrainingError(f"{transforms} is missing. Let the training begin, or copy the whole run's folder.")
    try:
        folder = _scene_folder(yaml.load(config_path.read_text(), _PlainLoader))
        data = json.loads(transforms.read_text())
        matrix, scale = np.asarray(data["transform"], np.float64), float(data["scale"])
    except (yaml.YAMLError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{config_path} cannot be understood ({error}). Pass the config.yml of a run made by ns-train skyfall."
        ) from error
    if matrix.shape != (3, 4) or not np.allclose(matrix[:, :3], np.eye(3)):
        raise TrainingError(f"{transforms} turns the scene. Pass the config.yml of a run made by ns-train skyfall.")
    return Placement(Scene.load(folder), matrix[:, 3], scale)


class _PlainLoader(yaml.SafeLoader):
    """Reads the host's configs as plain data: its Python objects become dictionaries, lists and strings, and no code
    runs."""


def _plain(loader: yaml.SafeLoader, _: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)  # type: ignore[arg-type]


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def _scene_folder(config: dict[str, Any]) -> Path:
    """`--data` of the run or of its dataparser, whichever was given."""
    manager = config["pipeline"]["datamanager"]
    parts = manager["data"] or manager["dataparser"]["data"]
    return Path(*parts)
