"""The table of refiners, and their options as the command line and episode manifests have them.

The module of a refiner is imported only when the refiner is built. How to add one: docs/extending/add_a_refiner.md.
"""

import importlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_type_hints

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners.bilateral_options import BilateralOptions
from skyfall_ns.refiners.denoiser_options import DenoiserOptions
from skyfall_ns.refiners.model_catalog import FLUX1_DEV, FLUX2_KLEIN_BASE, SOURCE_PROMPT, TARGET_PROMPT
from skyfall_ns.refiners.options import DiffusionOptions

if TYPE_CHECKING:
    from skyfall_ns.refiners.base import RefinerConfig


@dataclass(frozen=True)
class RefinerEntry:
    """Where the configuration class of a refiner is, and which options it takes."""

    module: str
    config_class: str
    """Name of a class that implements `RefinerConfig`."""
    options: str | None = None
    """Field of `RefinerOptions` that is passed to `from_options` of the class; None: a refiner without options."""


REFINERS: dict[str, RefinerEntry] = {
    "identity": RefinerEntry("skyfall_ns.refiners.identity", "IdentityRefinerConfig"),
    "bilateral": RefinerEntry("skyfall_ns.refiners.bilateral", "BilateralRefinerConfig", "bilateral"),
    "denoiser": RefinerEntry("skyfall_ns.refiners.denoiser", "DenoiserRefinerConfig", "denoiser"),
    "flowedit": RefinerEntry("skyfall_ns.refiners.flowedit", "FlowEditRefinerConfig", "diffusion"),
    "img2img": RefinerEntry("skyfall_ns.refiners.img2img", "Img2ImgRefinerConfig", "diffusion"),
    "instruct": RefinerEntry("skyfall_ns.refiners.instruct", "InstructRefinerConfig", "diffusion"),
}
"""All refiners by name; the names are the choices of `--pipeline.refiner.name`."""

if TYPE_CHECKING:
    RefinerName = str
else:
    RefinerName = Literal[tuple(REFINERS)]


@dataclass(frozen=True)
class RefinerOptions:
    """Choice of a refiner, and the options of all refiners."""

    name: RefinerName = "bilateral"
    """identity: returns renders unchanged. bilateral: an edge-preserving filter. denoiser: a small network trained on
    this scene alone; like bilateral, it is not generative. flowedit, img2img, instruct: diffusion models, which can
    invent content that no image shows."""
    bilateral: BilateralOptions = field(default_factory=BilateralOptions)
    """Options of the refiner `bilateral`."""
    denoiser: DenoiserOptions = field(default_factory=DenoiserOptions)
    """Options of the refiner `denoiser`."""

    diffusion: DiffusionOptions = field(default_factory=DiffusionOptions)
    """Options of the refiners `flowedit`, `img2img` and `instruct`."""

    def build(self) -> "RefinerConfig":
        """Build the configuration of the chosen refiner, which has not been checked yet.

        Raises TrainingError for a name that is not in `REFINERS`."""
        if self.name not in REFINERS:
            raise TrainingError(
                f"There is no refiner {str(self.name)[:40]!r}. Pass one of {', '.join(REFINERS)} as the refiner's name."
            )
        entry = REFINERS[self.name]
        config_class = getattr(importlib.import_module(entry.module), entry.config_class)
        return config_class() if entry.options is None else config_class.from_options(getattr(self, entry.options))

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON for manifests; `from_dict` is the inverse."""
        return _to_json_value(asdict(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RefinerOptions":
        """Options from the result of `to_dict`; missing ones have their defaults.

        Raises ValueError for a refiner or an option that this version does not have."""
        options = _dataclass_from_dict(cls, data)
        if options.name not in REFINERS:
            raise ValueError(f"the refiner {str(options.name)[:40]!r} is unknown")
        return options


FLUX = RefinerOptions(
    "flowedit",
    diffusion=DiffusionOptions(
        model=FLUX1_DEV, steps=28, n_max=10, n_min=4, n_avg=1, source_guidance=1.5, target_guidance=5.5,
        source_prompt=SOURCE_PROMPT, target_prompt=TARGET_PROMPT,
    ),
)  # fmt: skip
"""Published options of Skyfall-GS (arXiv 2510.15869, fixed n_max): FLUX.1-dev, 16 evaluations per view of 1024 px."""
KLEIN = RefinerOptions("flowedit", diffusion=DiffusionOptions(model=FLUX2_KLEIN_BASE))
"""FlowEdit with weights under the Apache-2.0 license, at the published noise levels."""


def _to_json_value(value: Any) -> Any:
    """Replace tuples by lists and paths by strings."""
    if isinstance(value, dict):
        return {name: _to_json_value(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json_value(entry) for entry in value]
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _dataclass_from_dict(cls: type, data: Any) -> Any:
    """Rebuild a dataclass of plain values, tuples, paths and other such dataclasses."""
    if not isinstance(data, Mapping):
        raise ValueError(f"{cls.__name__} is not an object of options by name")
    hints = get_type_hints(cls)
    unknown = set(data) - {field.name for field in fields(cls)}
    if unknown:
        raise ValueError(f"the option {str(min(unknown))[:40]!r} is unknown")
    return cls(**{name: _field_value(hints[name], value) for name, value in data.items()})


def _field_value(hint: Any, value: Any) -> Any:
    """Convert a JSON value to the type of its field."""
    if is_dataclass(hint):
        return _dataclass_from_dict(hint, value)  # type: ignore[arg-type]
    if isinstance(value, list):
        return tuple(value)
    is_path = hint is Path or Path in get_args(hint)
    return Path(value) if is_path and isinstance(value, str) else value
