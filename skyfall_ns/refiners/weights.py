"""Where a model is on this machine, of which family, and whether it is whole; the network is never asked."""

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
from skyfall_ns.refiners.model_catalog import KNOWN, Guidance
from skyfall_ns.refiners.options import FLAG, DiffusionOptions

INSTALL = "pip install 'skyfall-ns[diffusion]'"
EMBEDDED = "choose the refiner `scene`, which needs no weights"
OLDEST_DIFFUSERS = (0, 42)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
_INDEX = "model_index.json"


@dataclass(frozen=True)
class Weights:
    """A diffusers pipeline on disk."""

    model: str
    """As the user named it."""
    folder: Path
    index: dict[str, Any]
    """Of model_index.json."""

    @property
    def family(self) -> str:
        """Class of the pipeline."""
        return self.index["_class_name"]

    @property
    def revision(self) -> str | None:
        """Commit of a hub model; None for a local folder."""
        return self.folder.name if self.folder.parent.name == "snapshots" else None

    @property
    def components(self) -> dict[str, str]:
        """Class by name, of those that the pipeline has."""
        parts = {k: v for k, v in self.index.items() if isinstance(v, list) and len(v) == 2}
        return {name: kind for name, (library, kind) in parts.items() if library is not None and kind is not None}

    def guidance(self) -> Guidance:
        """How this model is guided, by its own configuration files."""
        if self.family == "Flux2KleinPipeline":
            return "none" if self.index.get("is_distilled") else "classifier-free"
        if self.family in ("FluxPipeline", "FluxKontextPipeline"):
            config = _read_json(self.folder / "transformer" / "config.json") or {}
            return "embedded" if config.get("guidance_embeds") else "none"
        return "classifier-free"


def require_packages(quantize: str) -> None:
    """MissingExtraError if a package is missing that loading will need."""
    for package in ("diffusers", "transformers", "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"Diffusion refiners need the package {package}, which is not installed. "
                f"Run `{INSTALL}`, or {EMBEDDED}."
            )
    version = importlib.metadata.version("diffusers")
    if tuple(int(n) for n in version.split(".")[:2]) < OLDEST_DIFFUSERS:
        raise MissingExtraError(
            f"Diffusion refiners need diffusers {'.'.join(map(str, OLDEST_DIFFUSERS))} or newer, and {version} is "
            f"installed. Run `{INSTALL} --upgrade`."
        )
    if quantize == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(
            f"{FLAG}.quantize nf4 needs the package bitsandbytes, which is not installed. "
            f"Run `pip install bitsandbytes`, or pass {FLAG}.quantize fp8."
        )


def find_weights(options: DiffusionOptions, families: Collection[str]) -> Weights:
    """The model that options name. MissingExtraError if it is not here, TrainingError if it is nothing we can use."""
    folder = _folder_of(options)
    if folder is None:
        raise MissingExtraError(_how_to_get(options.model, f"{options.model} is not on this machine"))
    index = _read_json(folder / _INDEX)
    if index is None or not isinstance(index.get("_class_name"), str):
        raise TrainingError(
            f"{folder} holds no diffusers pipeline: a readable {_INDEX} is missing. "
            f"Pass a folder that `hf download MODEL --local-dir FOLDER` or save_pretrained made as {FLAG}.model."
        )
    if index["_class_name"] not in families:
        raise TrainingError(
            f"{options.model} is a {index['_class_name']}, which this refiner cannot use. "
            f"Pass a {FLAG}.model of one of the classes {', '.join(sorted(families))}."
        )
    return Weights(options.model, folder, index)


def require_whole(weights: Weights, unneeded: Collection[str] = ()) -> None:
    """MissingExtraError if files of a component are missing; components in `unneeded` may be."""
    for name, kind in weights.components.items():
        missing = None if name in unneeded else _missing_file(weights.folder / name, kind)
        if missing is not None:
            what = f"{weights.model} is not whole: {name}/{missing} is missing"
            raise MissingExtraError(_how_to_get(weights.model, what))


def _folder_of(options: DiffusionOptions) -> Path | None:
    path = Path(options.model).expanduser()
    if path.is_dir():
        if options.revision is not None:
            raise TrainingError(f"{FLAG}.revision does nothing for the folder {options.model}. Leave it out.")
        return path.resolve()
    if not _HUB_NAME.fullmatch(options.model):
        return None
    hub = importlib.import_module("huggingface_hub")
    try:
        found = hub.try_to_load_from_cache(options.model, _INDEX, revision=options.revision)
    except ValueError:  # no name that the hub allows
        return None
    return Path(found).parent if isinstance(found, str) else None


def _missing_file(folder: Path, kind: str) -> str | None:
    """The first file that loading this component will miss; None if it is whole."""
    if "Scheduler" in kind:
        return _first_missing(folder, ("scheduler_config.json",))
    if "Tokenizer" in kind:
        return _first_missing(folder, ("tokenizer_config.json",))
    if "Processor" in kind or "FeatureExtractor" in kind:
        return _first_missing(folder, ("preprocessor_config.json", "processor_config.json"))
    return _first_missing(folder, ("config.json",)) or _missing_weights(folder)


def _first_missing(folder: Path, names: tuple[str, ...]) -> str | None:
    return None if any((folder / name).is_file() for name in names) else names[0]


def _missing_weights(folder: Path) -> str | None:
    stems = ("diffusion_pytorch_model", "model")
    for stem in stems:
        if (folder / f"{stem}.safetensors").is_file():
            return None
        shards = _read_json(folder / f"{stem}.safetensors.index.json")
        if shards is not None:
            names = sorted(set(shards.get("weight_map", {}).values()))
            return next((name for name in names if not (folder / name).is_file()), None)
    return "*.safetensors"


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _how_to_get(model: str, what: str) -> str:
    """Two sentences: what is wrong, with what to know of the model; and the ways on."""
    if not _HUB_NAME.fullmatch(model):
        return (
            f"{what}: there is no such folder, and it is no name on the hub. "
            f"Pass a folder with a diffusers pipeline or a name such as `{next(iter(KNOWN))}` as {FLAG}.model, "
            f"or {EMBEDDED}."
        )
    page = f"https://huggingface.co/{model}"
    known = KNOWN.get(model)
    if known is None:
        return (
            f"{what} (its licence and size: {page}). "
            f"Run `hf download {model}`, pass a folder as {FLAG}.model, or {EMBEDDED}."
        )
    facts = (
        f"licence: {known.licence}; about {known.download_gb:g} GB to download, "
        f"{known.memory_gb:g} GB of GPU memory in bfloat16"
    )
    accept = f"Accept the licence at {page}, run `hf auth login` and" if known.gated else "Run"
    return f"{what} ({facts}). {accept} `hf download {model}`, pass a folder as {FLAG}.model, or {EMBEDDED}."
