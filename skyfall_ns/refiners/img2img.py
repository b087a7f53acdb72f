"""The refiner `img2img`: noise up to a level, then sampling with the target prompt (SDEdit, arXiv 2108.01073)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.refiners.base import Refiner, RenderedView
from skyfall_ns.refiners.batches import split_images, stack_images
from skyfall_ns.refiners.diffusion_models import ADAPTERS, FlowAdapter
from skyfall_ns.refiners.model_catalog import Z_IMAGE
from skyfall_ns.refiners.model_loading import load_pipeline
from skyfall_ns.refiners.options import DiffusionOptions, check_ranges, refuse_unused
from skyfall_ns.refiners.padding import pad_to_multiple, padded_size
from skyfall_ns.refiners.prompts import are_cached, encode_prompts, prompts_to_encode
from skyfall_ns.refiners.resolved_options import ResolvedOptions, check_resolved, edit_steps, resolve_options
from skyfall_ns.refiners.weights import Weights, find_weights, model_identity, require_complete, require_packages

NAME = "img2img"
_UNUSED_OPTIONS = ("source_prompt", "source_guidance", "edit_end_sigma", "n_min", "n_avg", "instruction", "noise")
_ADAPTERS = {name: ADAPTERS[name] for name in ("FluxPipeline", "StableDiffusion3Pipeline", "ZImagePipeline")}


@dataclass(frozen=True)
class Img2ImgRefinerConfig(DiffusionOptions):
    """Image-to-image sampling from noisy renders: simpler than FlowEdit, preserves less of the content."""

    generative: ClassVar[bool] = True
    model: str = Z_IMAGE
    """Hub name of a diffusers pipeline in the local cache, or a local directory with one."""

    def check(self) -> None:
        """Raise MissingExtraError if a package or weights are missing, TrainingError for options out of range."""
        refuse_unused(self, _UNUSED_OPTIONS, NAME)
        check_ranges(self)
        require_packages(self.quantize)
        weights, adapter, resolved = self._resolve_model()
        check_resolved(resolved)
        cached = are_cached(weights, adapter.text_parts, self.dtype, prompts_to_encode(resolved, adapter))
        require_complete(weights, adapter.text_parts if cached else ())

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Everything that changes images."""
        weights, _, resolved = self._resolve_model()
        options = {name: value for name, value in vars(resolved).items() if name not in _UNUSED_OPTIONS}
        return {"name": NAME, **model_identity(self, weights), **options}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """Load the refiner for the duration of the context; it must not be called afterwards."""
        self.check()
        weights, adapter, resolved = self._resolve_model()
        prompts = encode_prompts(weights, adapter, self, prompts_to_encode(resolved, adapter), device)
        with load_pipeline(weights, adapter.text_parts, self, device, "AutoPipelineForImage2Image") as pipe:
            model = adapter(pipe, prompts, resolved.negative_prompt)
            yield Img2ImgRefiner(pipe, model, resolved)

    def _resolve_model(self) -> tuple[Weights, type[FlowAdapter], ResolvedOptions]:
        weights = find_weights(self, _ADAPTERS)
        resolved = resolve_options(self, weights)
        # There is no source here: its prompt must not be encoded.
        resolved = replace(resolved, source_prompt=resolved.target_prompt, source_guidance=resolved.target_guidance)
        return weights, _ADAPTERS[weights.pipeline_class], resolved


@dataclass(frozen=True)
class Img2ImgRefiner:
    """Image-to-image sampling with a loaded pipeline; implements `Refiner`."""

    pipe: Any
    model: FlowAdapter
    options: ResolvedOptions

    @torch.no_grad()
    def __call__(self, views: Sequence[RenderedView]) -> list[Float[Tensor, "h w 3"]]:
        options, images = self.options, stack_images(views)
        height, width = images.shape[-2:]
        padded = padded_size(height, width)
        n_max = edit_steps(options, self.model.noise_levels(padded, options.steps)).n_max
        if n_max == 0:
            return [view.image for view in views]
        condition = self.model.make_condition(options.target_prompt, options.target_guidance)
        refined = self.pipe(
            image=pad_to_multiple(images),
            height=padded[0],
            width=padded[1],
            num_inference_steps=options.steps,
            strength=strength_for_steps(n_max, options.steps),
            generator=[torch.Generator().manual_seed(view.seed) for view in views],
            output_type="pt",
            **self.model.pipeline_arguments(condition, len(views)),
        ).images
        return split_images(refined, height, width)


def strength_for_steps(n_max: int, steps: int) -> float:
    """Strength with which the flow pipelines of diffusers run exactly the last `n_max` steps; they round down."""
    return (n_max - 0.5) / steps
