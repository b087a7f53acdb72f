"""The exact depth of a horizontal plane: an oracle for tests and a floor for comparisons."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.priors.base import DepthPrediction, DepthPrior, PriorCamera, lend
from skyfall_ns.priors.surface import rays


@dataclass(frozen=True)
class PlanePrior:
    """Depth of the plane z = `height` (model units)."""

    height: float = 0.0

    def __call__(self, image: Float[Tensor, "h w 3"], camera: PriorCamera) -> DepthPrediction:
        centre, directions = rays(camera)
        depth = (self.height - centre[2]) / directions[..., 2]
        valid = torch.isfinite(depth) & (depth > 0)
        return DepthPrediction(torch.where(valid, depth, torch.zeros_like(depth)), valid, "depth")


@dataclass(frozen=True)
class PlanePriorConfig:
    """Depth of a horizontal plane."""

    reads_picture: ClassVar[bool] = False
    height: float = 0.0

    def check(self) -> None:
        """Nothing can be missing."""

    def load(self, device: torch.device) -> AbstractContextManager[DepthPrior]:
        return lend(PlanePrior(self.height))
