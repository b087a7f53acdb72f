"""The depth prior `plane`: the exact depth of a horizontal plane, for tests and comparisons."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.priors.base import DepthPrediction, DepthPrior
from skyfall_ns.priors.options import PriorOptions
from skyfall_ns.priors.surface import camera_rays
from skyfall_ns.scene.model_space import NormalizedScene
from skyfall_ns.view import View


@dataclass(frozen=True)
class PlanePrior:
    """Depth of the plane z = `height` (model units)."""

    height: float = 0.0

    def __call__(self, image: Float[Tensor, "h w 3"], camera: View) -> DepthPrediction:
        center, directions = camera_rays(camera)
        depth = (self.height - center[2]) / directions[..., 2]
        valid = torch.isfinite(depth) & (depth > 0)
        return DepthPrediction(torch.where(valid, depth, torch.zeros_like(depth)), valid, "depth")


@dataclass(frozen=True)
class PlanePriorConfig:
    """Depth of a horizontal plane."""

    reads_image: ClassVar[bool] = False
    height: float = 0.0
    """Height of the plane, model units."""

    @classmethod
    def from_options(cls, options: PriorOptions, normalized: NormalizedScene) -> "PlanePriorConfig":
        """The plane z = 0; it has no options."""
        return cls()

    def check(self) -> None:
        """Nothing to check: there is neither a package nor a file to load."""

    def load(self, device: torch.device) -> AbstractContextManager[DepthPrior]:
        """Return the prior; nothing is loaded."""
        return nullcontext(PlanePrior(self.height))
