"""The refiner `bilateral`: an edge-preserving filter that needs neither weights nor training.

It removes the noise of single Gaussians within each view; training on all views removes it between views. Measured in
benchmarks/stage2.md beside the alternatives.
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
from skyfall_ns.refiners.bilateral_options import BilateralOptions


@dataclass(frozen=True)
class BilateralRefinerConfig:
    """Bilateral filtering of each view."""

    options: BilateralOptions = field(default_factory=BilateralOptions)
    generative: ClassVar[bool] = False
    batch: int = 1
    training_pairs: int = 0

    @classmethod
    def from_options(cls, options: BilateralOptions) -> "BilateralRefinerConfig":
        """The configuration for options of the command line or a manifest."""
        return cls(options)

    def check(self) -> None:
        """Raise TrainingError for options out of range."""
        self.options.check_ranges()

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Refiner name and options."""
        return {"name": "bilateral", **asdict(self.options)}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """Yield the filter; nothing is loaded."""
        yield self._refine_views

    def _refine_views(self, views: Sequence[RenderedView]) -> list[Tensor]:
        return [self._filter_image(view.image) for view in views]

    def _filter_image(self, image: Tensor) -> Tensor:
        sigma_px = self.options.reach_px
        diameter_px = 2 * round(1.5 * sigma_px) + 1
        pixels = np.ascontiguousarray(image.numpy(), np.float32)
        return torch.from_numpy(cv2.bilateralFilter(pixels, diameter_px, self.options.color, sigma_px))
