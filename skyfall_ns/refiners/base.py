"""The refiner protocol: rendered views of one episode in, refined images of the same views out."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skyfall_ns.geo.cameras import PinholeCamera


@dataclass(frozen=True)
class RenderedView:
    """One rendered view of an episode, on the CPU."""

    name: str
    image: Float[Tensor, "h w 3"]
    """Red, green, blue in 0..1; empty pixels are filled from their surroundings."""
    valid: Bool[Tensor, "h w"]
    """False where the scene is empty (alpha below one half)."""
    depth_m: Float[Tensor, "h w"]
    """Expected depth along the optical axis, meters; 0 in empty pixels."""
    camera: PinholeCamera
    """In the scene's local frame, meters; the first pixel's center is (0, 0)."""
    seed: int
    """Seeds all random numbers of this view, which therefore depend neither on its batch nor on the device."""


class Refiner(Protocol):
    """Refine a batch of views of one size: images of that size, in the same order, on the CPU.

    The caller (`idu.refinement`) handles three cases: after an out-of-memory error it calls again with fewer views;
    values outside 0..1 are clamped; an image with NaN or infinity is replaced by its render."""

    def __call__(self, views: Sequence[RenderedView]) -> list[Float[Tensor, "h w 3"]]: ...


class RefinerConfig(Protocol):
    """Configuration of one refiner, a frozen dataclass. Nothing is loaded or downloaded before `load`."""

    generative: ClassVar[bool]
    """Whether the refiner can invent content that no image shows."""

    @property
    def batch(self) -> int:
        """Maximum number of views per call."""
        ...

    @property
    def training_pairs(self) -> int:
        """Number of views of which image pairs (`denoiser_pairs`) are rendered into `pairs/` of the episode before
        `load`; every satellite image adds one more. 0: no pairs are rendered."""
        ...

    def check(self) -> None:
        """Raise MissingExtraError or TrainingError, with the remedy, if a package or weights are missing or an option
        is out of range; called before training starts."""
        ...

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Plain JSON for manifests: the name and everything that changes results (model, revision, license, prompts,
        numbers), including files that the user has put into the episode directory for the refiner."""
        ...

    def load(self, device: torch.device, episode: Path) -> AbstractContextManager[Refiner]:
        """Load the refiner for the duration of the context, which releases all its memory at the end. `episode` is the
        episode directory, with the files that were written for the refiner."""
        ...
