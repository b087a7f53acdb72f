"""Options of diffusion refiners completed by the model's preset, and checks that depend on the model."""

import warnings
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners.flowedit_algorithm import EditSteps, check_steps, steps_left_at
from skyfall_ns.refiners.model_catalog import INSTRUCTION, SOURCE_PROMPT, TARGET_PROMPT, preset_for
from skyfall_ns.refiners.options import FLAG, DiffusionOptions, refuse_unused
from skyfall_ns.refiners.weights import Weights

MAX_SIGMA_ERROR = 0.1
"""Warn about a schedule whose nearest noise level differs more than this from the requested one."""

T = TypeVar("T")


@dataclass(frozen=True)
class ResolvedOptions:
    """Options of a diffusion refiner without unset values; fields as in `DiffusionOptions`."""

    steps: int
    edit_start_sigma: float
    edit_end_sigma: float
    n_max: int | None
    n_min: int | None
    n_avg: int
    source_prompt: str
    target_prompt: str
    negative_prompt: str
    source_guidance: float | None
    target_guidance: float | None
    instruction: str


def resolve_options(options: DiffusionOptions, weights: Weights, editing: bool = True) -> ResolvedOptions:
    """Fill in the model's preset; `editing`: only the last steps of the schedule are used.

    Raises TrainingError for an option that has no effect on this model."""
    guidance = weights.read_guidance()
    if guidance == "none":
        refuse_unused(options, ("source_guidance", "target_guidance"), f"{weights.model}, which has no guidance")
    if guidance != "classifier-free":
        refuse_unused(options, ("negative_prompt",), f"{weights.model}, which has no classifier-free guidance")
    preset = preset_for(weights.model, weights.pipeline_class, guidance)
    guided = guidance != "none"
    steps = _value_or(preset.edit_steps, preset.steps) if editing else preset.steps
    default_end = min(preset.edit_end_sigma, _value_or(options.edit_start_sigma, 1.0))
    return ResolvedOptions(
        steps=_value_or(options.steps, steps),
        edit_start_sigma=_value_or(options.edit_start_sigma, preset.edit_start_sigma),
        edit_end_sigma=_value_or(options.edit_end_sigma, default_end),
        n_max=options.n_max,
        n_min=options.n_min,
        n_avg=_value_or(options.n_avg, preset.n_avg),
        source_prompt=_value_or(options.source_prompt, SOURCE_PROMPT),
        target_prompt=_value_or(options.target_prompt, TARGET_PROMPT),
        negative_prompt=_value_or(options.negative_prompt, ""),
        source_guidance=_value_or(options.source_guidance, preset.source_guidance) if guided else None,
        target_guidance=_value_or(options.target_guidance, preset.target_guidance) if guided else None,
        instruction=_value_or(options.instruction, INSTRUCTION),
    )


def check_resolved(resolved: ResolvedOptions) -> None:
    """Raise TrainingError if editing would end before it starts, or counts of steps do not fit the schedule."""
    r = resolved
    if r.n_min is not None and r.n_max is None:
        raise TrainingError(
            f"{FLAG}.n-min is set without {FLAG}.n-max, so the step where editing starts is undefined. "
            f"Pass both, or {FLAG}.edit-end-sigma."
        )
    if r.n_max is None and r.edit_end_sigma > r.edit_start_sigma:
        raise TrainingError(
            f"Editing would start at noise level {r.edit_start_sigma} and end at a higher one, {r.edit_end_sigma}. "
            f"Pass a {FLAG}.edit-end-sigma of at most {FLAG}.edit-start-sigma."
        )
    n_max = r.steps if r.n_max is None else r.n_max
    check_steps(EditSteps(n_max, _value_or(r.n_min, 0), r.n_avg), r.steps, FLAG)


def edit_steps(resolved: ResolvedOptions, sigmas: Float[Tensor, "t1"]) -> EditSteps:
    """Counts of steps on a schedule; noise levels are replaced by the nearest ones of the schedule."""
    n_max = _value_or(resolved.n_max, steps_left_at(sigmas, resolved.edit_start_sigma))
    n_min = _value_or(resolved.n_min, min(n_max, steps_left_at(sigmas, resolved.edit_end_sigma)))
    if resolved.n_max is None:
        start = float(sigmas[len(sigmas) - 1 - n_max])
        if abs(start - resolved.edit_start_sigma) > MAX_SIGMA_ERROR or start == 0 < resolved.edit_start_sigma:
            warnings.warn(
                f"Editing starts at noise level {start:.2f} instead of {resolved.edit_start_sigma:g}: "
                f"{len(sigmas) - 1} steps are too few. Pass more {FLAG}.steps.",
                stacklevel=2,
            )
    return EditSteps(n_max, n_min, resolved.n_avg)


def _value_or(value: T | None, default: T) -> T:
    return default if value is None else value
