"""Opening of a run's config.yml without running code in it: only the classes of training configurations are made.

Runs are directories that people send each other, and Nerfstudio reads their config.yml with a loader that calls any
function that the file names.
"""

import enum
import importlib
import re
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path, PurePath
from typing import Any

import yaml

from skyfall_ns.errors import TrainingError

MAX_CONFIG_BYTES = 1_000_000
PACKAGES = ("nerfstudio", "skyfall_ns", "gsplat")
OPTIMIZERS = ("torch.optim",)  # classes that may be named, but not made
FUNCTIONS = ("nerfstudio.data.utils.nerfstudio_collate.nerfstudio_collate",)
OUR_PACKAGE = "skyfall_ns"
MODEL_DIRECTORY = "nerfstudio_models"
_CHECKPOINT = re.compile(r"step-(\d+)\.ckpt")
_TAG = "tag:yaml.org,2002:python/"


class ForbiddenTagError(yaml.YAMLError):
    """A configuration names something that is not part of configurations."""


def read_run_config(path: Path) -> Any:
    """The training configuration of a run, with its directory and newest checkpoint where they lie now.

    Raises TrainingError if the file is missing, too large, damaged, or names anything but classes of configurations."""
    from nerfstudio.engine.trainer import TrainerConfig

    path = Path(path)
    if not path.is_file():
        raise TrainingError(f"{path} does not exist. Pass the config.yml that ns-train wrote.")
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise TrainingError(
            f"{path} is too large for a configuration. Pass the config.yml that ns-train skyfall wrote."
        )
    config = parse_run_config(path.read_bytes(), path)
    if not isinstance(config, TrainerConfig):
        raise TrainingError(f"{path} is not a training configuration. Pass the config.yml that ns-train skyfall wrote.")
    locate_run(config, path)
    return config


def parse_run_config(text: str | bytes, path: Path, packages: tuple[str, ...] = PACKAGES) -> Any:
    """Content of a config.yml made of classes of `packages`; TrainingError, which names what it refuses, for others."""
    loader = _RunConfigLoader(text)
    loader.packages = packages
    try:
        return loader.get_single_data()
    except ForbiddenTagError as error:
        raise _refusal(path, error) from error
    except (yaml.YAMLError, AttributeError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise TrainingError(
            f"{path} is damaged ({reason}). Pass the config.yml that ns-train skyfall wrote."
        ) from error


def check_calls(text: str, path: Path) -> None:
    """Raise TrainingError if a configuration of another method calls anything but paths and classes of plugins."""
    allowed = ("pathlib", "collections", "torch", "numpy", *installed_packages())
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        tag = getattr(event, "tag", None) or ""
        called = re.fullmatch(re.escape(_TAG) + r"object/(?:apply|new):(.+)", tag)
        if called and not _is_class_of(called[1], allowed):
            raise _refusal(path, called[1])


def _is_class_of(name: str, packages: tuple[str, ...]) -> bool:
    """Whether a dotted name is that of a class in one of the packages."""
    module_name, _, class_name = name.rpartition(".")
    if not _is_within(module_name, packages):
        return False
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ImportError:
        return False
    return isinstance(found, type) and _is_within(found.__module__, packages)


def _refusal(path: Path, name: object) -> TrainingError:
    return TrainingError(
        f"{path} is refused because it names {name}, which no training configuration does: opening it could run code "
        "of whoever wrote it. Open only runs that you trained or trust, and copy the run again if you do."
    )


def locate_run(config: Any, path: Path) -> None:
    """Make a configuration refer to the directory of its config.yml, wherever it was written, and to its newest
    checkpoint. Raises TrainingError if there is none."""
    config.located_directory = path.resolve().parent
    config.load_step = newest_checkpoint_step(path.parent / MODEL_DIRECTORY)
    config.relative_model_dir = Path(MODEL_DIRECTORY)  # never a path that leaves the run
    if config.load_step is None:
        raise TrainingError(f"{path} belongs to a run without a checkpoint. Train it again, or let it finish.")


def newest_checkpoint_step(directory: Path) -> int | None:
    """Step of the newest checkpoint in a directory; other files are ignored. None if there is none."""
    if not Path(directory).is_dir():
        return None
    matches = (_CHECKPOINT.fullmatch(file.name) for file in Path(directory).iterdir() if file.is_file())
    return max((int(match[1]) for match in matches if match), default=None)


def installed_packages() -> tuple[str, ...]:
    """The packages whose classes appear in configurations: Nerfstudio's, and those of all plugins."""
    found = {
        entry.module.partition(".")[0]
        for group in ("nerfstudio.method_configs", "nerfstudio.dataparser_configs")
        for entry in entry_points(group=group)
    }
    return tuple(sorted(found | set(PACKAGES)))


class _RunConfigLoader(yaml.SafeLoader):
    """Loads plain values, paths, enumerations, and classes of configurations."""

    packages: tuple[str, ...] = PACKAGES

    def find_class(self, name: str, packages: tuple[str, ...]) -> type:
        """The class of a dotted name, which is defined in one of the packages; ForbiddenTagError for anything else."""
        if not _is_class_of(name, packages):
            raise ForbiddenTagError(name)
        module_name, _, class_name = name.rpartition(".")
        return getattr(importlib.import_module(module_name), class_name)


def _is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _make_tuple(loader: _RunConfigLoader, node: yaml.SequenceNode) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True))


def _make_name(loader: _RunConfigLoader, name: str, _: yaml.Node) -> Any:
    """A class, which configurations name as their target."""
    if name in FUNCTIONS:
        module, function = name.rsplit(".", 1)
        return getattr(importlib.import_module(module), function)
    return loader.find_class(name, (*loader.packages, *OPTIMIZERS))


def _make_object(loader: _RunConfigLoader, name: str, node: yaml.Node) -> Any:
    """An instance of a dataclass with the values of the file; nothing is called."""
    kind = loader.find_class(name, loader.packages)
    if not hasattr(kind, "__dataclass_fields__") or not isinstance(node, yaml.MappingNode):
        raise ForbiddenTagError(name)
    made = object.__new__(kind)
    yield made
    state = loader.construct_mapping(node, deep=True)
    for key, value in state.items():
        if not isinstance(key, str) or key.startswith("__"):
            raise ForbiddenTagError(f"{name}.{key}")
        object.__setattr__(made, key, value)


def _make_value(loader: _RunConfigLoader, name: str, node: yaml.Node) -> Any:
    """A path, or a member of an enumeration."""
    if not isinstance(node, yaml.SequenceNode):
        raise ForbiddenTagError(f"{name} with arguments by name")
    arguments = loader.construct_sequence(node, deep=True)
    module_name, _, class_name = name.rpartition(".")
    if module_name == "pathlib" or module_name.startswith("pathlib."):
        if class_name.removeprefix("Pure") in ("Path", "PosixPath", "WindowsPath") and _are_texts(arguments):
            return Path(*arguments)
        raise ForbiddenTagError(name)
    kind = loader.find_class(name, loader.packages)
    if not issubclass(kind, enum.Enum) or len(arguments) != 1:
        raise ForbiddenTagError(name)
    return kind(arguments[0])


def _are_texts(values: list[Any]) -> bool:
    return all(isinstance(value, str | PurePath) for value in values)


def _refuse(_: _RunConfigLoader, name: str, node: yaml.Node) -> Any:
    raise ForbiddenTagError(f"{name or node.tag}")


_MAKERS: dict[str, Callable[..., Any]] = {
    "name:": _make_name,
    "object:": _make_object,
    "object/apply:": _make_value,
    "": _refuse,
}
_RunConfigLoader.add_constructor(_TAG + "tuple", _make_tuple)
for _prefix, _maker in sorted(_MAKERS.items(), key=lambda item: -len(item[0])):
    _RunConfigLoader.add_multi_constructor(_TAG + _prefix, _maker)
