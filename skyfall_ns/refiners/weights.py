"""Local files of diffusion models: where they are, their pipeline class, and whether they are complete.

Nothing is downloaded.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.refiners.model_catalog import KNOWN_MODELS, Guidance, model_license
from skyfall_ns.refiners.options import FLAG, DiffusionOptions

INSTALL_COMMAND = "pip install 'skyfall-ns[diffusion]'"
NO_WEIGHTS_HINT = "choose the refiner `denoiser`, which needs no weights"
MIN_DIFFUSERS_VERSION = (0, 42)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_INDEX = "model_index.json"
_PARTS = f"--include '*/*' --include {_INDEX}"  # without the copies in single files, which double many downloads


@dataclass(frozen=True)
class Weights:
    """A diffusers pipeline on disk."""

    model: str
    """Hub name or directory, as passed by the user."""
    directory: Path
    index: dict[str, Any]
    """Content of model_index.json."""

    @property
    def pipeline_class(self) -> str:
        """Class of the pipeline in diffusers."""
        return self.index["_class_name"]

    @property
    def revision(self) -> str | None:
        """Commit of a hub model; None for a local directory."""
        return self.directory.name if self.directory.parent.name == "snapshots" else None

    @property
    def components(self) -> dict[str, str]:
        """Classes of the components of the pipeline, by name."""
        parts = {k: v for k, v in self.index.items() if isinstance(v, list) and len(v) == 2}
        return {name: cls for name, (library, cls) in parts.items() if library is not None and cls is not None}

    def read_guidance(self) -> Guidance:
        """Read from the configuration files how this model is guided."""
        if self.pipeline_class == "Flux2KleinPipeline":
            return "none" if self.index.get("is_distilled") else "classifier-free"
        if self.pipeline_class in ("FluxPipeline", "FluxKontextPipeline"):
            config = _read_json(self.directory / "transformer" / "config.json") or {}
            return "embedded" if config.get("guidance_embeds") else "none"
        return "classifier-free"


def require_packages(quantize: str) -> None:
    """Raise MissingExtraError if a package that `load` needs is missing or too old."""
    for package in ("diffusers", "transformers", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"Diffusion refiners need the package {package}, which is not installed. "
                f"Run `{INSTALL_COMMAND}`, or {NO_WEIGHTS_HINT}."
            )
    version = importlib.metadata.version("diffusers")
    if tuple(int(n) for n in version.split(".")[:2]) < MIN_DIFFUSERS_VERSION:
        raise MissingExtraError(
            f"Diffusion refiners need diffusers {'.'.join(map(str, MIN_DIFFUSERS_VERSION))} or newer, and {version} is "
            f"installed. Run `{INSTALL_COMMAND} --upgrade`."
        )
    if quantize == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            f"{FLAG}.quantize nf4 needs the package bitsandbytes, which is not installed. "
            f"Run `pip install bitsandbytes`, or pass {FLAG}.quantize fp8."
        )


def find_weights(options: DiffusionOptions, pipeline_classes: Collection[str]) -> Weights:
    """Find the local files of the model in the options.

    Raises MissingExtraError if they are not on this machine, TrainingError if they are not a pipeline of one of the
    classes."""
    model = options.model
    assert model is not None  # every refiner has a default model
    directory = _find_directory(model, options.revision)
    if directory is None:
        raise MissingExtraError(_download_hint(model, f"{model} is not on this machine"))
    index = _read_json(directory / _INDEX)
    if index is None or not isinstance(index.get("_class_name"), str):
        raise TrainingError(
            f"{directory} is not a diffusers pipeline: it has no readable {_INDEX}. "
            f"Pass a directory from `hf download MODEL --local-dir DIRECTORY` or save_pretrained as {FLAG}.model."
        )
    if index["_class_name"] not in pipeline_classes:
        raise TrainingError(
            f"{model} is a {index['_class_name']}, which this refiner cannot use. "
            f"Pass a {FLAG}.model of one of the classes {', '.join(sorted(pipeline_classes))}."
        )
    return Weights(model, directory, index)


def require_complete(weights: Weights, unneeded: Collection[str] = ()) -> None:
    """Raise MissingExtraError if files of a component are missing; components in `unneeded` are not checked."""
    for name, component_class in weights.components.items():
        missing = None if name in unneeded else _missing_file(weights.directory / name, component_class)
        if missing is not None:
            problem = f"{weights.model} is incomplete: {name}/{missing} is missing"
            raise MissingExtraError(_download_hint(weights.model, problem))


def model_identity(options: DiffusionOptions, weights: Weights) -> dict[str, Any]:
    """The part of every diffusion refiner's identity that describes its model."""
    return {
        "model": weights.model,
        "revision": weights.revision or options.revision,
        "license": model_license(weights.model),
        "dtype": options.dtype,
        "quantize": options.quantize,
    }


def _find_directory(model: str, revision: str | None) -> Path | None:
    """Local directory of the model, or its snapshot in the hub's cache; None if there is neither."""
    path = Path(model).expanduser()
    if path.is_dir():
        if revision is not None:
            raise TrainingError(f"{FLAG}.revision has no effect on the directory {model}. Leave it out.")
        return path.resolve()
    if not _HUB_NAME.fullmatch(model):
        return None
    hub = importlib.import_module("huggingface_hub")
    try:
        index = hub.try_to_load_from_cache(model, _INDEX, revision=revision)
    except ValueError:  # not a valid name on the hub
        return None
    return Path(index).parent if isinstance(index, str) else None


def _missing_file(directory: Path, component_class: str) -> str | None:
    """First missing file of a component; None if it is complete."""
    if "Scheduler" in component_class:
        return _first_missing(directory, ("scheduler_config.json",))
    if "Tokenizer" in component_class:
        return _first_missing(directory, ("tokenizer_config.json",))
    if "Processor" in component_class or "FeatureExtractor" in component_class:
        return _first_missing(directory, ("preprocessor_config.json", "processor_config.json"))
    return _first_missing(directory, ("config.json",)) or _missing_weights(directory)


def _first_missing(directory: Path, names: tuple[str, ...]) -> str | None:
    """The first name if none of the alternative files exists, else None."""
    return None if any((directory / name).is_file() for name in names) else names[0]


def _missing_weights(directory: Path) -> str | None:
    """First missing file of weights, single or in shards; None if they are complete."""
    stems = ("diffusion_pytorch_model", "model")
    for stem in stems:
        if (directory / f"{stem}.safetensors").is_file():
            return None
        shards = _read_json(directory / f"{stem}.safetensors.index.json")
        if shards is not None:
            names = sorted(set(shards.get("weight_map", {}).values()))
            return next((name for name in names if not (directory / name).is_file()), None)
    return "*.safetensors"


def _read_json(path: Path) -> dict[str, Any] | None:
    """JSON object of a file; None if it is missing or damaged."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _download_hint(model: str, problem: str) -> str:
    """Message of two sentences: the problem with license and size of the model, then the remedies."""
    if not _HUB_NAME.fullmatch(model):
        return (
            f"{problem}: there is no such directory, and it is not a name on the hub. "
            f"Pass a directory with a diffusers pipeline or a name such as `{next(iter(KNOWN_MODELS))}` as "
            f"{FLAG}.model, or {NO_WEIGHTS_HINT}."
        )
    page = f"https://huggingface.co/{model}"
    known = KNOWN_MODELS.get(model)
    if known is None:
        return (
            f"{problem} (its license and size: {page}). "
            f"Run `hf download {model} {_PARTS}`, pass a directory as {FLAG}.model, or {NO_WEIGHTS_HINT}."
        )
    facts = (
        f"license: {known.license}; about {known.download_gb:g} GB to download, "
        f"{known.memory_gb:g} GB of GPU memory in bfloat16"
    )
    accept = f"Accept the license at {page}, run `hf auth login` and" if known.gated else "Run"
    return (
        f"{problem} ({facts}). {accept} `hf download {model} {_PARTS}`, pass a directory as {FLAG}.model, "
        f"or {NO_WEIGHTS_HINT}."
    )
