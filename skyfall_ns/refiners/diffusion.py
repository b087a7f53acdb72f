"""The refiner of Skyfall-GS: FlowEdit with any rectified-flow model that there is an adapter for."""

import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.refiners.base import Refiner, RenderedView
from skyfall_ns.refiners.batches import stacked, unstacked
from skyfall_ns.refiners.diffusion_models import ADAPTERS, FlowAdapter
from skyfall_ns.refiners.flowedit import FlowModel, NoiseFn, flow_edit_latents
from skyfall_ns.refiners.model_catalog import FLUX2_KLEIN_BASE, licence_of
from skyfall_ns.refiners.model_loading import lend_pipeline
from skyfall_ns.refiners.options import DiffusionOptions, Noise, check_numbers, refuse_unused
from skyfall_ns.refiners.padding import pad_to_multiple, padded_size
from skyfall_ns.refiners.prompts import are_cached, encoded
from skyfall_ns.refiners.resolved_options import Resolved, check_resolved, edit_steps, resolve
from skyfall_ns.refiners.view_noise import anchored_noise, seeded_noise
from skyfall_ns.refiners.weights import Weights, find_weights, require_packages, require_whole

NAME = "flowedit"
_UNUSED = ("instruction",)


@dataclass(frozen=True)
class FlowEditRefinerConfig(DiffusionOptions):
    """Edits renders along the difference of two prompts: keeps what is there, sharpens how it looks."""

    generative: ClassVar[bool] = True
    model: str = FLUX2_KLEIN_BASE
    """Hub name of a diffusers pipeline in the local cache, or a local folder with one."""

    def check(self) -> None:
        """MissingExtraError without package or weights, TrainingError for numbers that make no sense."""
        refuse_unused(self, _UNUSED, NAME)
        check_numbers(self)
        require_packages(self.quantize)
        weights = find_weights(self, ADAPTERS)
        resolved = resolve(self, weights)
        check_resolved(resolved)
        adapter = ADAPTERS[weights.family]
        cached = are_cached(weights, adapter.text_parts, self.dtype, texts_of(resolved, adapter))
        require_whole(weights, adapter.text_parts if cached else ())

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Everything that changes pictures."""
        weights = find_weights(self, ADAPTERS)
        numbers = vars(resolve(self, weights)).copy()
        del numbers["instruction"]
        return {"name": NAME, **identity_of(self, weights), **numbers, "noise": self.noise}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """All memory is given back at the end; the refiner must not be called after it."""
        self.check()
        weights = find_weights(self, ADAPTERS)
        resolved, adapter = resolve(self, weights), ADAPTERS[weights.family]
        prompts = encoded(weights, adapter, self, texts_of(resolved, adapter), device)
        with lend_pipeline(weights, adapter.text_parts, self, device) as pipe:
            model = adapter(pipe, prompts, resolved.negative_prompt)
            seed = city_seed(episode) if self.noise == "anchored" else 0
            yield FlowEdit(model, resolved, self.noise, seed, device)


@dataclass(frozen=True)
class FlowEdit:
    """The Refiner."""

    model: FlowModel
    numbers: Resolved
    noise: Noise
    city_seed: int
    """Of anchored noise: shared by all views of an episode."""
    device: torch.device

    @torch.no_grad()
    def __call__(self, views: Sequence[RenderedView]) -> list[Float[Tensor, "h w 3"]]:
        numbers, images = self.numbers, stacked(views)
        height, width = images.shape[-2:]
        padded = padded_size(height, width)
        sigmas = self.model.sigmas(padded, numbers.steps)
        steps = edit_steps(numbers, sigmas)
        if steps.n_max == 0:
            return [view.image for view in views]
        source = self.model.condition(numbers.source_prompt, numbers.source_guidance)
        target = self.model.condition(numbers.target_prompt, numbers.target_guidance)
        x = self.model.encode(pad_to_multiple(images).to(self.device))
        z = flow_edit_latents(self.model, x, source, target, sigmas, steps, self._noise(views, padded))
        return unstacked(self.model.decode(z), height, width)

    def _noise(self, views: Sequence[RenderedView], padded: tuple[int, int]) -> NoiseFn:
        if self.noise == "anchored":
            return anchored_noise(views, padded, self.city_seed)
        return seeded_noise([view.seed for view in views])


def city_seed(episode: Path) -> int:
    """Of the episode's number: its folder may be called differently on another machine."""
    number = json.loads((episode / "poses.json").read_text())["episode"]["number"]
    return zlib.crc32(f"episode_{number:02d}".encode())


def texts_of(resolved: Resolved, adapter: type[FlowAdapter]) -> list[str]:
    """Prompts that must be encoded: what is guided away from only where there is such guidance."""
    texts = [resolved.source_prompt, resolved.target_prompt]
    strengths = [g for g in (resolved.source_guidance, resolved.target_guidance) if g is not None]
    if any(adapter.uses_negative(g) for g in strengths):
        texts.append(resolved.negative_prompt)
    return list(dict.fromkeys(texts))


def identity_of(options: DiffusionOptions, weights: Weights) -> dict[str, Any]:
    """What every diffusion refiner says of its model."""
    return {
        "model": options.model,
        "revision": weights.revision or options.revision,
        "licence": licence_of(options.model),
        "dtype": options.dtype,
        "quantize": options.quantize,
    }
