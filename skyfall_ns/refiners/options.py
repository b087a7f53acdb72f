"""The options that all diffusion refiners share, and what of them is out of range."""

import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from skyfall_ns.errors import TrainingError

FLAG = "--pipeline.refiner.diffusion"
"""What command lines put before the options of a refiner."""

DtypeName = Literal["bfloat16", "float16", "float32"]
Quantize = Literal["none", "nf4", "fp8"]
Offload = Literal["none", "model", "group"]
Noise = Literal["independent", "anchored"]


@dataclass(frozen=True)
class DiffusionOptions:
    """Options of a diffusion refiner; None means what the model's preset says."""

    model: str | None = None
    """Hub name of a diffusers pipeline in the local cache, or a local folder with one; None: the refiner's own."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; None: main."""
    dtype: DtypeName = "bfloat16"
    """Number format of the networks; float16 is for cards without bfloat16, and prone to overflow."""
    quantize: Quantize = "none"
    """Weights of the transformer in 4 bits (nf4, by bitsandbytes, on CUDA) or 8 bits (fp8): less memory, less exact."""
    offload: Offload = "none"
    """What waits in main memory while unused: whole networks (model), or also their layers (group, slow)."""
    steps: int | None = None
    """Steps of the whole noise schedule, of which only the last are used where a render is edited."""
    edit_start_sigma: float | None = None
    """Noise level in 0..1 where editing starts, 0.64 by default: higher changes more."""
    edit_end_sigma: float | None = None
    """Noise level in 0..1 where editing gives way to plain sampling, 0.345 by default: 0 samples nothing."""
    n_max: int | None = None
    """Steps left where editing starts, instead of a noise level; 0 changes nothing."""
    n_min: int | None = None
    """Steps left where plain sampling begins, instead of a noise level."""
    n_avg: int | None = None
    """Draws of noise averaged per edit step, 1 by default; time grows with it."""
    source_prompt: str | None = None
    """Describes the renders; by default Skyfall-GS's words."""
    target_prompt: str | None = None
    """Describes what they should look like; by default Skyfall-GS's words."""
    negative_prompt: str | None = None
    """Describes what guidance leads away from, where a model has classifier-free guidance; empty by default."""
    source_guidance: float | None = None
    """Strength of the source prompt, in the model's own convention."""
    target_guidance: float | None = None
    """Strength of the target prompt or of the instruction, in the model's own convention."""
    instruction: str | None = None
    """What an instruction editor is told to do."""
    batch: int = 1
    """Views per call, at most; halved when memory runs out."""
    noise: Noise = "independent"
    """Noise of each view by itself, or anchored to the city in 3D, so that views share it where they see the same."""

    def given(self) -> dict[str, Any]:
        """The options that are not left as they are: each refiner has a model of its own."""
        values = {field.name: getattr(self, field.name) for field in fields(DiffusionOptions)}
        return {name: value for name, value in values.items() if value != getattr(DiffusionOptions, name)}


def refuse_unused(options: DiffusionOptions, unused: tuple[str, ...], name: str) -> None:
    """TrainingError if an option that does nothing here was given."""
    defaults = {field.name: field.default for field in fields(options)}
    for option in unused:
        if getattr(options, option) != defaults[option]:
            raise TrainingError(f"{FLAG}.{option.replace('_', '-')} does nothing for {name}. Leave it out.")


def check_numbers(options: DiffusionOptions) -> None:
    """TrainingError for numbers that make no sense, whatever the model."""
    for name in ("batch", "steps"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise TrainingError(f"{FLAG}.{name} is {value}. Pass 1 or more.")
    for name in ("edit_start_sigma", "edit_end_sigma"):
        value = getattr(options, name)
        if value is not None and not 0 <= value <= 1:
            raise TrainingError(f"{FLAG}.{name.replace('_', '-')} is {value}, no noise level. Pass one in 0..1.")
    for name in ("source_guidance", "target_guidance"):
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise TrainingError(f"{FLAG}.{name.replace('_', '-')} is {value}. Pass a finite number of at least 0.")
    for count, sigma in (("n_max", "edit_start_sigma"), ("n_min", "edit_end_sigma")):
        if getattr(options, count) is not None and getattr(options, sigma) is not None:
            a, b = (f"{FLAG}.{name.replace('_', '-')}" for name in (count, sigma))
            raise TrainingError(f"{a} and {b} say the same thing in two ways. Pass one of them.")
