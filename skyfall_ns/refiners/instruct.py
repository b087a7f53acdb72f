"""The refiner `instruct`: models that edit an image by a written instruction, with an optional reference image."""

import importlib
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.io.files import atomic_write, sha256_of_bytes, sha256_of_file
from skyfall_ns.refiners.base import Refiner, RenderedView
from skyfall_ns.refiners.batches import split_images, stack_images
from skyfall_ns.refiners.diffusion_models import FlowAdapter
from skyfall_ns.refiners.diffusion_models.flux import Flux1
from skyfall_ns.refiners.diffusion_models.flux2 import Flux2Klein
from skyfall_ns.refiners.model_catalog import FLUX2_KLEIN
from skyfall_ns.refiners.model_loading import load_pipeline
from skyfall_ns.refiners.options import FLAG, DiffusionOptions, check_ranges, refuse_unused
from skyfall_ns.refiners.padding import pad_to_multiple
from skyfall_ns.refiners.prompts import are_cached, encode_prompts
from skyfall_ns.refiners.resolved_options import ResolvedOptions, resolve_options
from skyfall_ns.refiners.weights import Weights, find_weights, model_identity, require_complete, require_packages

NAME = "instruct"
REFERENCE_FILE = "reference.png"
FIRST_VIEW_FILE = "reference_view.png"
MIN_SIDE_PX = 64
"""FLUX.2 rejects images with a shorter side."""
_FLOWEDIT_OPTIONS = ("source_prompt", "target_prompt", "source_guidance", "edit_start_sigma", "edit_end_sigma")
_UNUSED_OPTIONS = (*_FLOWEDIT_OPTIONS, "n_max", "n_min", "n_avg", "noise")
_IDENTITY_OPTIONS = ("steps", "instruction", "negative_prompt", "target_guidance")


@dataclass(frozen=True)
class EditorSpec:
    """Properties of a diffusers pipeline for instruction editing."""

    adapter: type[FlowAdapter] | None
    """Encodes the instruction ahead of loading; None: the text encoder also reads the image and stays loaded."""
    takes_reference: bool
    """Whether the pipeline accepts a second image, the reference."""


EDITORS: dict[str, EditorSpec] = {
    "FluxKontextPipeline": EditorSpec(Flux1, takes_reference=False),
    "Flux2KleinPipeline": EditorSpec(Flux2Klein, takes_reference=True),
    "QwenImageEditPipeline": EditorSpec(None, takes_reference=False),
    "QwenImageEditPlusPipeline": EditorSpec(None, takes_reference=True),
}


@dataclass(frozen=True)
class InstructRefinerConfig(DiffusionOptions):
    """Editing by an instruction; models that accept several images also get the `ReferenceImage`."""

    generative: ClassVar[bool] = True
    model: str = FLUX2_KLEIN
    """Hub name of a diffusers pipeline in the local cache, or a local directory with one."""

    def check(self) -> None:
        """Raise MissingExtraError if a package or weights are missing, TrainingError for options out of range."""
        refuse_unused(self, _UNUSED_OPTIONS, NAME)
        check_ranges(self)
        if self.batch != 1:
            raise TrainingError(f"Instruction editors take one view at a time, not {self.batch}. Pass {FLAG}.batch 1.")
        require_packages(self.quantize)
        weights = find_weights(self, EDITORS)
        adapter = EDITORS[weights.pipeline_class].adapter
        prompts = _prompts_to_encode(resolve_options(self, weights, editing=False), weights)
        cached = adapter is not None and are_cached(weights, adapter.text_parts, self.dtype, prompts)
        require_complete(weights, adapter.text_parts if adapter is not None and cached else ())

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Everything that changes images, including the hash of reference.png where the model accepts a reference."""
        weights = find_weights(self, EDITORS)
        resolved = vars(resolve_options(self, weights, editing=False))
        options = {name: resolved[name] for name in _IDENTITY_OPTIONS}
        identity = {"name": NAME, **model_identity(self, weights), **options}
        if not EDITORS[weights.pipeline_class].takes_reference:
            return identity
        file = None if episode is None else episode / REFERENCE_FILE
        reference = sha256_of_file(file) if file is not None and file.is_file() else None
        return {**identity, "reference": reference}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """Load the refiner for the duration of the context; it must not be called afterwards."""
        self.check()
        weights = find_weights(self, EDITORS)
        resolved, editor = resolve_options(self, weights, editing=False), EDITORS[weights.pipeline_class]
        adapter, prompts, excluded = editor.adapter, {}, ()
        if adapter is not None:
            prompts = encode_prompts(weights, adapter, self, _prompts_to_encode(resolved, weights), device)
            excluded = adapter.text_parts
        with load_pipeline(weights, excluded, self, device) as pipe:
            arguments = _prompt_arguments(weights, resolved, None if adapter is None else adapter(pipe, prompts))
            reference = ReferenceImage(episode, self.identity(episode)) if editor.takes_reference else None
            yield InstructRefiner(pipe, resolved.steps, arguments, reference)


class ReferenceImage:
    """The reference image of all views of an episode: reference.png if the user has put one into its directory, else
    the first refined view, saved as reference_view.png so that a resumed episode uses the same."""

    def __init__(self, episode: Path, identity: Mapping[str, Any]) -> None:
        """A saved first view is used only if it was made with the same `identity` of the refiner."""
        self._file = episode / FIRST_VIEW_FILE
        self._refiner_hash = sha256_of_bytes(json.dumps(identity, sort_keys=True).encode())
        self._view: str | None = None
        self._image = _read_image(episode / REFERENCE_FILE)
        if self._image is None:
            self._use_first_view(_read_image(self._file))

    def image_for_view(self, name: str) -> Any | None:
        """The reference for a view; None if there is none yet or it is this view itself."""
        return None if name == self._view else self._image

    def set_if_missing(self, name: str, image: Float[Tensor, "h w 3"]) -> None:
        """Save a refined view as the reference if there is none yet; images with NaN or infinity are skipped."""
        if self._image is not None or not torch.isfinite(image).all():
            return
        information = importlib.import_module("PIL.PngImagePlugin").PngInfo()
        information.add_text("view", name)
        information.add_text("refiner", self._refiner_hash)
        buffer = io.BytesIO()
        to_pil_image(image).save(buffer, format="png", pnginfo=information)
        atomic_write(self._file, buffer.getvalue())
        self._use_first_view(_read_image(self._file))

    def _use_first_view(self, image: Any | None) -> None:
        if image is not None and image.info.get("refiner") == self._refiner_hash:
            self._image, self._view = image, image.info.get("view")


@dataclass(frozen=True)
class InstructRefiner:
    """Instruction editing with a loaded pipeline; implements `Refiner`."""

    pipe: Any
    steps: int
    prompt_arguments: dict[str, Any]
    reference: ReferenceImage | None

    @torch.no_grad()
    def __call__(self, views: Sequence[RenderedView]) -> list[Float[Tensor, "h w 3"]]:
        return [self._edit_view(view) for view in views]

    def _edit_view(self, view: RenderedView) -> Float[Tensor, "h w 3"]:
        image = to_pil_image(pad_to_multiple(stack_images([view]))[0].permute(1, 2, 0))
        reference = None if self.reference is None else self.reference.image_for_view(view.name)
        arguments = dict(self.prompt_arguments)
        if "max_area" in arguments:
            arguments["max_area"] = image.width * image.height
        images = self.pipe(
            image=image if reference is None else [image, reference],
            height=image.height,
            width=image.width,
            num_inference_steps=self.steps,
            generator=torch.Generator().manual_seed(view.seed),
            output_type="pt",
            **arguments,
        ).images
        (refined,) = split_images(images, *view.image.shape[:2])
        if self.reference is not None:
            self.reference.set_if_missing(view.name, refined)
        return refined


def to_pil_image(image: Float[Tensor, "h w 3"]) -> Any:
    """Convert an image in 0..1 to the 8-bit PIL image that the pipelines take."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return importlib.import_module("PIL.Image").fromarray(np.ascontiguousarray(pixels))


def _read_image(path: Path) -> Any | None:
    """Read an image as the pipelines take it, enlarged to `MIN_SIDE_PX` if need be; None where there is no file."""
    if not path.is_file():
        return None
    pil = importlib.import_module("PIL.Image")
    try:
        original = pil.open(path)
        original.load()
    except OSError as error:
        raise TrainingError(f"{path} is not a readable image. Delete or replace it.") from error
    image = original.convert("RGB")
    scale = MIN_SIDE_PX / min(image.size)
    if scale > 1:
        image = image.resize([math.ceil(side * scale) for side in image.size])
    image.info = dict(original.info)
    return image


def _prompts_to_encode(resolved: ResolvedOptions, weights: Weights) -> list[str]:
    """Distinct prompts that the model needs; the negative prompt only with classifier-free guidance."""
    if weights.read_guidance() == "classifier-free":
        return list(dict.fromkeys([resolved.instruction, resolved.negative_prompt]))
    return [resolved.instruction]


def _prompt_arguments(weights: Weights, resolved: ResolvedOptions, model: FlowAdapter | None) -> dict[str, Any]:
    """Instruction and guidance as arguments of the pipeline."""
    if model is None:  # Qwen-Image-Edit needs a blank as empty negative prompt
        return {
            "prompt": resolved.instruction,
            "negative_prompt": resolved.negative_prompt or " ",
            "true_cfg_scale": resolved.target_guidance,
        }
    arguments = model.pipeline_arguments(model.make_condition(resolved.instruction, resolved.target_guidance), 1)
    if weights.pipeline_class == "FluxKontextPipeline":  # would otherwise resize to a megapixel
        return {**arguments, "max_area": None, "_auto_resize": False}
    return arguments
