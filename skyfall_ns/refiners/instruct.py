"""Instruction editors: told in words what to do with a render, and shown a picture of the style to keep to."""

import hashlib
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
from skyfall_ns.io.files import write_whole
from skyfall_ns.refiners.base import Refiner, RenderedView
from skyfall_ns.refiners.batches import stacked, unstacked
from skyfall_ns.refiners.diffusion import identity_of
from skyfall_ns.refiners.diffusion_models import FlowAdapter
from skyfall_ns.refiners.diffusion_models.flux import Flux1
from skyfall_ns.refiners.diffusion_models.flux2 import Flux2Klein
from skyfall_ns.refiners.model_catalog import FLUX2_KLEIN
from skyfall_ns.refiners.model_loading import lend_pipeline
from skyfall_ns.refiners.options import FLAG, DiffusionOptions, check_numbers, refuse_unused
from skyfall_ns.refiners.padding import pad_to_multiple
from skyfall_ns.refiners.prompts import are_cached, encoded
from skyfall_ns.refiners.resolved_options import Resolved, resolve
from skyfall_ns.refiners.weights import Weights, find_weights, require_packages, require_whole

NAME = "instruct"
REFERENCE = "reference.png"
FIRST_VIEW = "reference_view.png"
SMALLEST_PX = 64
"""FLUX.2 refuses pictures with a shorter side."""
_EDIT_ONLY = ("source_prompt", "target_prompt", "source_guidance", "edit_start_sigma", "edit_end_sigma")
_UNUSED = (*_EDIT_ONLY, "n_max", "n_min", "n_avg", "noise")
_NUMBERS = ("steps", "instruction", "negative_prompt", "target_guidance")


@dataclass(frozen=True)
class _Editor:
    adapter: type[FlowAdapter] | None
    """Encodes the instruction ahead; None: the text encoder looks at the picture, and stays."""
    several: bool
    """Whether a second picture, the reference, can be shown."""


_EDITORS: dict[str, _Editor] = {
    "FluxKontextPipeline": _Editor(Flux1, several=False),
    "Flux2KleinPipeline": _Editor(Flux2Klein, several=True),
    "QwenImageEditPipeline": _Editor(None, several=False),
    "QwenImageEditPlusPipeline": _Editor(None, several=True),
}


@dataclass(frozen=True)
class InstructRefinerConfig(DiffusionOptions):
    """Rewrites renders as an instruction says; shows models that take several pictures one `Reference`."""

    generative: ClassVar[bool] = True
    model: str = FLUX2_KLEIN
    """Hub name of a diffusers pipeline in the local cache, or a local folder with one."""

    def check(self) -> None:
        """MissingExtraError without package or weights, TrainingError for numbers that make no sense."""
        refuse_unused(self, _UNUSED, NAME)
        check_numbers(self)
        if self.batch != 1:
            raise TrainingError(f"Instruction editors take one view at a time, not {self.batch}. Pass {FLAG}.batch 1.")
        require_packages(self.quantize)
        weights = find_weights(self, _EDITORS)
        adapter, texts = _EDITORS[weights.family].adapter, _texts(resolve(self, weights, editing=False), weights)
        cached = adapter is not None and are_cached(weights, adapter.text_parts, self.dtype, texts)
        require_whole(weights, adapter.text_parts if adapter is not None and cached else ())

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Everything that changes pictures, the content of reference.png where models are shown it."""
        weights = find_weights(self, _EDITORS)
        resolved = vars(resolve(self, weights, editing=False))
        identity = {"name": NAME, **identity_of(self, weights), **{name: resolved[name] for name in _NUMBERS}}
        if not _EDITORS[weights.family].several:
            return identity
        return {**identity, "reference": None if episode is None else _sha256(episode / REFERENCE)}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """All memory is given back at the end; the refiner must not be called after it."""
        self.check()
        weights = find_weights(self, _EDITORS)
        resolved, editor = resolve(self, weights, editing=False), _EDITORS[weights.family]
        adapter = editor.adapter
        prompts = {} if adapter is None else encoded(weights, adapter, self, _texts(resolved, weights), device)
        without = () if adapter is None else adapter.text_parts
        with lend_pipeline(weights, without, self, device) as pipe:
            told = _told(pipe, weights, resolved, None if adapter is None else adapter(pipe, prompts))
            reference = Reference(episode, self.identity(episode)) if editor.several else None
            yield _Instruct(pipe, resolved.steps, told, reference)


class Reference:
    """A picture that all views of an episode are shown: reference.png if a person has put one into its folder, or else
    the first view that this refiner makes, kept as reference_view.png so that a resumed episode shows the same."""

    def __init__(self, episode: Path, identity: Mapping[str, Any]) -> None:
        """A first view that was made by another `identity` of the refiner is made again."""
        self._file = episode / FIRST_VIEW
        self._refiner = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        self._view: str | None = None
        self._picture = _read(episode / REFERENCE)
        if self._picture is None:
            self._show_first(_read(self._file))

    def for_view(self, name: str) -> Any | None:
        """The picture, but for the view that became it."""
        return None if name == self._view else self._picture

    def offer(self, name: str, image: Float[Tensor, "h w 3"]) -> None:
        """Becomes the reference if there is none yet and it is finite."""
        if self._picture is not None or not torch.isfinite(image).all():
            return
        information = importlib.import_module("PIL.PngImagePlugin").PngInfo()
        information.add_text("view", name)
        information.add_text("refiner", self._refiner)
        buffer = io.BytesIO()
        to_pil(image).save(buffer, format="png", pnginfo=information)
        write_whole(self._file, buffer.getvalue())
        self._show_first(_read(self._file))

    def _show_first(self, picture: Any | None) -> None:
        if picture is not None and picture.info.get("refiner") == self._refiner:
            self._picture, self._view = picture, picture.info.get("view")


@dataclass(frozen=True)
class _Instruct:
    pipe: Any
    steps: int
    told: dict[str, Any]
    reference: Reference | None

    @torch.no_grad()
    def __call__(self, views: Sequence[RenderedView]) -> list[Float[Tensor, "h w 3"]]:
        return [self._edited(view) for view in views]

    def _edited(self, view: RenderedView) -> Float[Tensor, "h w 3"]:
        picture = to_pil(pad_to_multiple(stacked([view]))[0].permute(1, 2, 0))
        shown = None if self.reference is None else self.reference.for_view(view.name)
        told = dict(self.told)
        if "max_area" in told:
            told["max_area"] = picture.width * picture.height
        images = self.pipe(
            image=picture if shown is None else [picture, shown],
            height=picture.height,
            width=picture.width,
            num_inference_steps=self.steps,
            generator=torch.Generator().manual_seed(view.seed),
            output_type="pt",
            **told,
        ).images
        (refined,) = unstacked(images, *view.image.shape[:2])
        if self.reference is not None:
            self.reference.offer(view.name, refined)
        return refined


def to_pil(image: Float[Tensor, "h w 3"]) -> Any:
    """Eight bits, as editors take pictures."""
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return importlib.import_module("PIL.Image").fromarray(np.ascontiguousarray(pixels))


def _sha256(path: Path) -> str | None:
    """None where there is no file."""
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def _read(path: Path) -> Any | None:
    """A picture as editors take it; None where there is no file."""
    if not path.is_file():
        return None
    pil = importlib.import_module("PIL.Image")
    try:
        picture = pil.open(path)
        picture.load()
    except OSError as error:
        raise TrainingError(f"{path} is no readable picture. Delete it, or put another in its place.") from error
    shown = picture.convert("RGB")
    enlarge = SMALLEST_PX / min(shown.size)
    if enlarge > 1:
        shown = shown.resize([math.ceil(side * enlarge) for side in shown.size])
    shown.info = dict(picture.info)
    return shown


def _texts(resolved: Resolved, weights: Weights) -> list[str]:
    if weights.guidance() == "classifier-free":
        return list(dict.fromkeys([resolved.instruction, resolved.negative_prompt]))
    return [resolved.instruction]


def _told(pipe: Any, weights: Weights, resolved: Resolved, model: FlowAdapter | None) -> dict[str, Any]:
    """The instruction and its strength, as the pipeline takes them."""
    if model is None:  # Qwen-Image-Edit, whose empty negative prompt is a blank
        return {
            "prompt": resolved.instruction,
            "negative_prompt": resolved.negative_prompt or " ",
            "true_cfg_scale": resolved.target_guidance,
        }
    told = model.arguments(model.condition(resolved.instruction, resolved.target_guidance), 1)
    if weights.family == "FluxKontextPipeline":  # would otherwise resize to a megapixel
        return {**told, "max_area": None, "_auto_resize": False}
    return told
