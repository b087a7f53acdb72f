"""The refiner `flowedit` of Skyfall-GS: FlowEdit with any rectified-flow model that has an adapter."""

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
from skyfall_ns.refiners.batches import split_images, stack_images
from skyfall_ns.refiners.diffusion_models import ADAPTERS
from skyfall_ns.refiners.flowedit_algorithm import FlowModel, NoiseFn, flow_edit_latents
from skyfall_ns.refiners.model_catalog import FLUX2_KLEIN_BASE
from skyfall_ns.refiners.model_loading import load_pipeline
from skyfall_ns.refiners.options import DiffusionOptions, NoiseMode, check_ranges, refuse_unused
from skyfall_ns.refiners.padding import pad_to_multiple, padded_size
from skyfall_ns.refiners.prompts import are_cached, encode_prompts, prompts_to_encode
from skyfall_ns.refiners.resolved_options import ResolvedOptions, check_resolved, edit_steps, resolve_options
from skyfall_ns.refiners.view_noise import anchored_noise, seeded_noise
from skyfall_ns.refiners.weights import find_weights, model_identity, require_complete, require_packages

NAME = "flowedit"
_UNUSED_OPTIONS = ("instruction",)


@dataclass(frozen=True)
class FlowEditRefinerConfig(DiffusionOptions):
    """FlowEdit from a source prompt (blurred renders) to a target prompt (sharp images); keeps the content."""

    generative: ClassVar[bool] = True
    model: str = FLUX2_KLEIN_BASE
    """Hub name of a diffusers pipeline in the local cache, or a local directory with one."""

    def check(self) -> None:
        """Raise MissingExtraError if a package or weights are missing, TrainingError for options out of range."""
        refuse_unused(self, _UNUSED_OPTIONS, NAME)
        check_ranges(self)
        require_packages(self.quantize)
        weights = find_weights(self, ADAPTERS)
        resolved = resolve_options(self, weights)
        check_resolved(resolved)
        adapter = ADAPTERS[weights.pipeline_class]
        cached = are_cached(weights, adapter.text_parts, self.dtype, prompts_to_encode(resolved, adapter))
        require_complete(weights, adapter.text_parts if cached else ())

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Everything that changes images."""
        weights = find_weights(self, ADAPTERS)
        options = vars(resolve_options(self, weights)).copy()
        del options["instruction"]
        return {"name": NAME, **model_identity(self, weights), **options, "noise": self.noise}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """Load the refiner for the duration of the context; it must not be called afterwards."""
        self.check()
        weights = find_weights(self, ADAPTERS)
        resolved, adapter = resolve_options(self, weights), ADAPTERS[weights.pipeline_class]
        prompts = encode_prompts(weights, adapter, self, prompts_to_encode(resolved, adapter), device)
        with load_pipeline(weights, adapter.text_parts, self, device) as pipe:
            model = adapter(pipe, prompts, resolved.negative_prompt)
            seed = episode_noise_seed(episode) if self.noise == "anchored" else 0
            yield FlowEditRefiner(model, resolved, self.noise, seed, device)


@dataclass(frozen=True)
class FlowEditRefiner:
    """FlowEdit with a loaded model; implements `Refiner`."""

    model: FlowModel
    options: ResolvedOptions
    noise: NoiseMode
    noise_seed: int
    """Seed of anchored noise, shared by all views of an episode."""
    device: torch.device

    @torch.no_grad()
    def __call__(self, views: Sequence[RenderedView]) -> list[Float[Tensor, "h w 3"]]:
        options, images = self.options, stack_images(views)
        height, width = images.shape[-2:]
        padded = padded_size(height, width)
        sigmas = self.model.noise_levels(padded, options.steps)
        steps = edit_steps(options, sigmas)
        if steps.n_max == 0:
            return [view.image for view in views]
        source = self.model.make_condition(options.source_prompt, options.source_guidance)
        target = self.model.make_condition(options.target_prompt, options.target_guidance)
        x = self.model.encode_images(pad_to_multiple(images).to(self.device))
        z = flow_edit_latents(self.model, x, source, target, sigmas, steps, self._noise_function(views, padded))
        return split_images(self.model.decode_latents(z), height, width)

    def _noise_function(self, views: Sequence[RenderedView], padded: tuple[int, int]) -> NoiseFn:
        if self.noise == "anchored":
            return anchored_noise(views, padded, self.noise_seed)
        return seeded_noise([view.seed for view in views])


def episode_noise_seed(episode: Path) -> int:
    """Seed from the episode's number, not from its directory, which may have another name on another machine."""
    number = json.loads((episode / "poses.json").read_text())["episode"]["number"]
    return zlib.crc32(f"episode_{number:02d}".encode())
