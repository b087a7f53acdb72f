"""Plain image-to-image refinement (SDEdit): noise up to a level, then sampling with the target prompt."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.refiners.base import Refiner, RenderedView
from skyfall_ns.refiners.batches import stacked, unstacked
from skyfall_ns.refiners.diffusion import identity_of, texts_of
from skyfall_ns.refiners.diffusion_models import ADAPTERS, FlowAdapter
from skyfall_ns.refiners.model_catalog import Z_IMAGE
from skyfall_ns.refiners.model_loading import lend_pipeline
from skyfall_ns.refiners.options import DiffusionOptions, check_numbers, refuse_unused
from skyfall_ns.refiners.padding import pad_to_multiple, padded_size
from skyfall_ns.refiners.prompts import are_cached, encoded
from skyfall_ns.refiners.resolved_options import Resolved, check_resolved, edit_steps, resolve
from skyfall_ns.refiners.weights import Weights, find_weights, require_packages, require_whole

NAME = "img2img"
_UNUSED = ("source_prompt", "source_guidance", "edit_end_sigma", "n_min", "n_avg", "instruction", "noise")
_FAMILIES = {name: ADAPTERS[name] for name in ("FluxPipeline", "StableDiffusion3Pipeline", "ZImagePipeline")}


@dataclass(frozen=True)
class Img2ImgRefinerConfig(DiffusionOptions):
    """Adds noise to renders and samples it away again: simpler than FlowEdit, and keeps less of what is there."""

    generative: ClassVar[bool] = True
    model: str = Z_IMAGE
    """Hub name of a diffusers pipeline in the local cache, or a local folder with one."""

    def check(self) -> None:
        """MissingExtraError without package or weights, TrainingError for numbers that make no sense."""
        refuse_unused(self, _UNUSED, NAME)
        check_numbers(self)
        require_packages(self.quantize)
        weights, adapter, resolved = self._parts()
        check_resolved(resolved)
        cached = are_cached(weights, adapter.text_parts, self.dtype, texts_of(resolved, adapter))
        require_whole(weights, adapter.text_parts if cached else ())

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Everything that changes pictures."""
        weights, _, resolved = self._parts()
        numbers = {name: value for name, value in vars(resolved).items() if name not in _UNUSED}
        return {"name": NAME, **identity_of(self, weights), **numbers}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """All memory is given back at the end; the refiner must not be called after it."""
        self.check()
        weights, adapter, resolved = self._parts()
        prompts = encoded(weights, adapter, self, texts_of(resolved, adapter), device)
        with lend_pipeline(weights, adapter.text_parts, self, device, "AutoPipelineForImage2Image") as pipe:
            model = adapter(pipe, prompts, resolved.negative_prompt)
            yield _Img2Img(pipe, model, resolved)

    def _parts(self) -> tuple[Weights, type[FlowAdapter], Resolved]:
        weights = find_weights(self, _FAMILIES)
        resolved = resolve(self, weights)
        # There is no source here: its prompt is not to be encoded.
        plain = replace(resolved, source_prompt=resolved.target_prompt, source_guidance=resolved.target_guidance)
        return weights, _FAMILIES[weights.family], plain


@dataclass(frozen=True)
class _Img2Img:
    pipe: Any
    model: FlowAdapter
    numbers: Resolved

    @torch.no_grad()
    def __call__(self, views: Sequence[RenderedView]) -> list[Float[Tensor, "h w 3"]]:
        numbers, images = self.numbers, stacked(views)
        height, width = images.shape[-2:]
        padded = padded_size(height, width)
        n_max = edit_steps(numbers, self.model.sigmas(padded, numbers.steps)).n_max
        if n_max == 0:
            return [view.image for view in views]
        condition = self.model.condition(numbers.target_prompt, numbers.target_guidance)
        refined = self.pipe(
            image=pad_to_multiple(images),
            height=padded[0],
            width=padded[1],
            num_inference_steps=numbers.steps,
            strength=strength_of(n_max, numbers.steps),
            generator=[torch.Generator().manual_seed(view.seed) for view in views],
            output_type="pt",
            **self.model.arguments(condition, len(views)),
        ).images
        return unstacked(refined, height, width)


def strength_of(n_max: int, steps: int) -> float:
    """What makes diffusers' flow pipelines take exactly the last `n_max` steps; they round the rest down."""
    return (n_max - 0.5) / steps
