"""Options shared by all diffusion refiners, and their range checks."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, Self

from skyfall_ns.errors import TrainingError
from skyfall_ns.option_checks import COUNT, SHARE, InRange, check_options

FLAG = "--pipeline.refiner.diffusion"
"""Prefix of the options on the command line."""

DtypeName = Literal["bfloat16", "float16", "float32"]
QuantizeMode = Literal["none", "nf4", "fp8"]
OffloadMode = Literal["none", "model", "group"]
NoiseMode = Literal["independent", "anchored"]


@dataclass(frozen=True)
class DiffusionOptions:
    """Options of a diffusion refiner; None: the value of the model's preset."""

    model: str | None = None
    """Hub name of a diffusers pipeline in the local cache, or a local directory with one; None: the refiner's default
    model."""
    revision: str | None = None
    """Branch, tag or commit of a hub model; None: main."""
    dtype: DtypeName = "bfloat16"
    """Number format of the networks; float16 is for GPUs without bfloat16 and overflows in some models."""
    quantize: QuantizeMode = "none"
    """Weights of the transformer in 4 bits (nf4, bitsandbytes, CUDA) or 8 bits (fp8): less memory, less precision."""
    offload: OffloadMode = "none"
    """Offload unused parts to CPU memory: whole networks (model), or also single layers (group, slow)."""
    steps: Annotated[int | None, COUNT] = None
    """Steps of the whole noise schedule; editing uses only the last of them."""
    edit_start_sigma: Annotated[float | None, SHARE] = None
    """Noise level in 0..1 where editing starts, 0.64 by default: higher changes more."""
    edit_end_sigma: Annotated[float | None, SHARE] = None
    """Noise level in 0..1 where editing ends and plain sampling starts, 0.345 by default: 0 is editing only."""
    n_max: int | None = None
    """Number of steps left where editing starts, instead of a noise level; 0 changes nothing."""
    n_min: int | None = None
    """Number of steps left where plain sampling starts, instead of a noise level."""
    n_avg: int | None = None
    """Noise draws averaged per edit step, 1 by default; run time is proportional to it."""
    source_prompt: str | None = None
    """Description of the renders; default: the prompt of Skyfall-GS."""
    target_prompt: str | None = None
    """Description of the wanted images; default: the prompt of Skyfall-GS."""
    negative_prompt: str | None = None
    """Negative prompt of models with classifier-free guidance; empty by default."""
    source_guidance: Annotated[float | None, InRange(0)] = None
    """Guidance strength of the source prompt, in the convention of the model."""
    target_guidance: Annotated[float | None, InRange(0)] = None
    """Guidance strength of the target prompt or of the instruction, in the convention of the model."""
    instruction: str | None = None
    """Instruction of an instruction editor."""
    batch: Annotated[int, COUNT] = 1
    """Maximum number of views per call; halved when memory runs out."""
    noise: NoiseMode = "independent"
    """independent: each view has its own noise. anchored: noise is anchored to the city in 3D, so that views share it
    where they see the same surface."""

    @classmethod
    def from_options(cls, options: "DiffusionOptions") -> Self:
        """The configuration for options of the command line or a manifest; unset options keep the defaults of `cls`."""
        return cls(**options.collect_overrides())

    @property
    def training_pairs(self) -> int:
        """0: diffusion models are not trained on the scene."""
        return 0

    def collect_overrides(self) -> dict[str, Any]:
        """Options that differ from the defaults of `DiffusionOptions`; refiners have defaults of their own."""
        values = {field.name: getattr(self, field.name) for field in fields(DiffusionOptions)}
        return {name: value for name, value in values.items() if value != getattr(DiffusionOptions, name)}


def refuse_unused(options: DiffusionOptions, unused: tuple[str, ...], name: str) -> None:
    """Raise TrainingError if an option in `unused` is set; `name`: the refiner or model that does not use it."""
    defaults = {field.name: field.default for field in fields(options)}
    for option in unused:
        if getattr(options, option) != defaults[option]:
            raise TrainingError(f"{FLAG}.{option.replace('_', '-')} has no effect on {name}. Leave it out.")


def check_ranges(options: DiffusionOptions) -> None:
    """Raise TrainingError for options that are out of range for every model."""
    check_options(options, f"{FLAG}.")
    for count, sigma in (("n_max", "edit_start_sigma"), ("n_min", "edit_end_sigma")):
        if getattr(options, count) is not None and getattr(options, sigma) is not None:
            a, b = (f"{FLAG}.{name.replace('_', '-')}" for name in (count, sigma))
            raise TrainingError(f"{a} and {b} exclude each other. Pass one of them.")
