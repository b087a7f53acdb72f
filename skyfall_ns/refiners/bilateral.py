"""Edges stay, grain goes: a bilateral filter, the refiner that needs neither weights nor training.

Grain of single splats is smoothed away within a view, and between views by training on all of them. Measured in
benchmarks/stage2.md beside everything else that was tried.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor

from skyfall_ns.refiners.base import Refiner, RenderedView
from skyfall_ns.refiners.bilateral_options import SmoothOptions


@dataclass(frozen=True)
class SmoothRefinerConfig:
    """Bilateral filtering of each view."""

    options: SmoothOptions = field(default_factory=SmoothOptions)
    generative: ClassVar[bool] = False
    batch: int = 1

    def check(self) -> None:
        """TrainingError for numbers that make no sense."""
        self.options.check()

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Name and options."""
        return {"name": "smooth", **asdict(self.options)}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """Nothing to load."""
        yield self._refine

    def _refine(self, views: Sequence[RenderedView]) -> list[Tensor]:
        return [self._smoothed(view.image) for view in views]

    def _smoothed(self, image: Tensor) -> Tensor:
        reach = self.options.reach_px
        size = 2 * round(1.5 * reach) + 1
        pixels = np.ascontiguousarray(image.numpy(), np.float32)
        return torch.from_numpy(cv2.bilateralFilter(pixels, size, self.options.colour, reach))
