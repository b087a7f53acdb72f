"""The table of depth priors.

The module of a prior is imported only when the prior is built. How to add one: docs/extending/add_a_depth_prior.md.
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from skyfall_ns.errors import TrainingError
from skyfall_ns.priors.base import DepthPriorConfig
from skyfall_ns.priors.options import PriorOptions
from skyfall_ns.priors.surface import surface_height_field
from skyfall_ns.scene.model_space import NormalizedScene


@dataclass(frozen=True)
class PriorEntry:
    """Where the configuration class of a depth prior is."""

    module: str
    config_class: str
    """Name of a class that implements `DepthPriorConfig`, with a class method `from_options(options, normalized)`."""


PRIORS: dict[str, PriorEntry] = {
    "surface": PriorEntry("skyfall_ns.priors.surface", "SurfacePriorConfig"),
    "moge": PriorEntry("skyfall_ns.priors.moge", "MogePriorConfig"),
    "transformers": PriorEntry("skyfall_ns.priors.learned", "TransformersPriorConfig"),
    "plane": PriorEntry("skyfall_ns.priors.plane", "PlanePriorConfig"),
}
"""All depth priors by name; the names are choices of `--pipeline.depth.prior`, beside `auto` and `none`."""

if TYPE_CHECKING:
    PriorName = str
else:
    PriorName = Literal[("auto", "none", *PRIORS)]


def build_prior(name: PriorName, options: PriorOptions, normalized: NormalizedScene) -> DepthPriorConfig | None:
    """Build the configuration of a prior, which has not been checked yet; None for no prior.

    `auto`: the prior `surface` if the scene has a dense surface, else none. Raises TrainingError for unknown names."""
    if name == "auto":
        name = "none" if surface_height_field(normalized) is None else "surface"
    if name == "none":
        return None
    if name not in PRIORS:
        raise TrainingError(f"There is no depth prior {name!r}. Pass one of auto, none, {', '.join(PRIORS)}.")
    entry = PRIORS[name]
    config_class = getattr(importlib.import_module(entry.module), entry.config_class)
    return config_class.from_options(options, normalized)
