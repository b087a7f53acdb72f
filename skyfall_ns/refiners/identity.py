"""The refiner `identity`: returns renders unchanged, for tests and comparisons."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from skyfall_ns.refiners.base import Refiner, RenderedView


def return_renders(views: Sequence[RenderedView]) -> list[Tensor]:
    """Rendered images, unchanged."""
    return [view.image for view in views]


@dataclass(frozen=True)
class IdentityRefinerConfig:
    """No refinement."""

    generative: ClassVar[bool] = False
    batch: int = 1
    training_pairs: int = 0

    def check(self) -> None:
        """Nothing to check: there are neither options nor weights."""

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Refiner name; there are no options."""
        return {"name": "identity"}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """Yield the refiner; nothing is loaded."""
        yield return_renders
