"""The refiner that changes nothing: the loop by itself, for tests and comparisons."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from skyfall_ns.refiners.base import Refiner, RenderedView


def _unchanged(views: Sequence[RenderedView]) -> list[Tensor]:
    return [view.image for view in views]


@dataclass(frozen=True)
class NoneRefinerConfig:
    """Nothing is refined."""

    generative: ClassVar[bool] = False
    batch: int = 1

    def check(self) -> None:
        """Nothing can be missing."""

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """The name says it all."""
        return {"name": "none"}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """Nothing to load."""
        yield _unchanged
