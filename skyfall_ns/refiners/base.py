"""The refiner protocol: renders of one episode in, the same views improved out."""

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
    """One render of an episode, on the CPU."""

    name: str
    image: Float[Tensor, "h w 3"]
    """Red, green, blue in 0..1; void is filled."""
    valid: Bool[Tensor, "h w"]
    """False where the scene is void (alpha below one half)."""
    depth_m: Float[Tensor, "h w"]
    """Expected depth along the optical axis, metres; 0 where void."""
    camera: PinholeCamera
    """In the scene's local frame, metres; the first pixel's centre is (0, 0)."""
    seed: int
    """Random numbers of this view come from it alone: neither from its batch nor from the device."""


class Refiner(Protocol):
    """Improves a batch of views of one size: pictures of that size, in the same order, on the CPU.

    Memory that runs out is left to the caller (`pipelines.refining`), who asks again with fewer views. So are values
    outside 0..1, which are cut off, and numbers that are none, for which the render is kept."""

    def __call__(self, views: Sequence[RenderedView]) -> list[Float[Tensor, "h w 3"]]: ...


class RefinerConfig(Protocol):
    """A choice of refiner, a frozen dataclass. Nothing is loaded or downloaded before `load`."""

    generative: ClassVar[bool]
    """Whether it can invent what no image shows."""

    @property
    def batch(self) -> int:
        """Views per call, at most."""
        ...

    def check(self) -> None:
        """Raises MissingExtraError or TrainingError, with the mend, if a package, weights or a number is missing or
        makes no sense; called before training starts."""
        ...

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Plain JSON for manifests: the name, and all that changes results (model, revision, licence, prompts,
        numbers), with what a person has put into the folder of the episode for the refiner."""
        ...

    def load(self, device: torch.device, episode: Path) -> AbstractContextManager[Refiner]:
        """Lend the refiner; all its memory is given back at the end. `episode` is the folder of the episode, where
        refiners find what was written for them."""
        ...
