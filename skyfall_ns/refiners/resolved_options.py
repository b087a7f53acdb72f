"""Options with the model's preset filled in, and what of them does nothing for that model."""

import warnings
from dataclasses import dataclass
from typing import TypeVar

from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners.flowedit import EditSteps, check_steps, steps_left_at
from skyfall_ns.refiners.model_catalog import INSTRUCTION, SOURCE_PROMPT, TARGET_PROMPT, numbers_for
from skyfall_ns.refiners.options import FLAG, DiffusionOptions, refuse_unused
from skyfall_ns.refiners.weights import Weights

FAR_SIGMA = 0.1
"""A schedule whose nearest noise level is farther off than this is too coarse: worth a warning."""

T = TypeVar("T")


@dataclass(frozen=True)
class Resolved:
    """What a refiner works with; named as in DiffusionOptions."""

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


def resolve(options: DiffusionOptions, weights: Weights, editing: bool = True) -> Resolved:
    """`editing`: only the last steps will be used. TrainingError for an option that does nothing for this model."""
    guidance = weights.guidance()
    if guidance == "none":
        refuse_unused(options, ("source_guidance", "target_guidance"), f"{options.model}, which has no guidance")
    if guidance != "classifier-free":
        refuse_unused(options, ("negative_prompt",), f"{options.model}, which has no classifier-free guidance")
    preset = numbers_for(options.model, weights.family, guidance)
    guided = guidance != "none"
    steps = _or(preset.edit_steps, preset.steps) if editing else preset.steps
    return Resolved(
        steps=_or(options.steps, steps),
        edit_start_sigma=_or(options.edit_start_sigma, preset.edit_start_sigma),
        edit_end_sigma=_or(options.edit_end_sigma, min(preset.edit_end_sigma, _or(options.edit_start_sigma, 1.0))),
        n_max=options.n_max,
        n_min=options.n_min,
        n_avg=_or(options.n_avg, preset.n_avg),
        source_prompt=_or(options.source_prompt, SOURCE_PROMPT),
        target_prompt=_or(options.target_prompt, TARGET_PROMPT),
        negative_prompt=_or(options.negative_prompt, ""),
        source_guidance=_or(options.source_guidance, preset.source_guidance) if guided else None,
        target_guidance=_or(options.target_guidance, preset.target_guidance) if guided else None,
        instruction=_or(options.instruction, INSTRUCTION),
    )


def check_resolved(resolved: Resolved) -> None:
    """TrainingError if editing would end before it starts, or counts do not fit the schedule."""
    r = resolved
    if r.n_min is not None and r.n_max is None:
        raise TrainingError(
            f"{FLAG}.n-min is given without {FLAG}.n-max, so where editing starts is not known in steps. "
            f"Pass both, or {FLAG}.edit-end-sigma."
        )
    if r.n_max is None and r.edit_end_sigma > r.edit_start_sigma:
        raise TrainingError(
            f"Editing would start at noise level {r.edit_start_sigma} and end above it, at {r.edit_end_sigma}. "
            f"Pass a {FLAG}.edit-end-sigma of at most {FLAG}.edit-start-sigma."
        )
    n_max = r.steps if r.n_max is None else r.n_max
    check_steps(EditSteps(n_max, _or(r.n_min, 0), r.n_avg), r.steps, FLAG)


def edit_steps(resolved: Resolved, sigmas: Float[Tensor, "t1"]) -> EditSteps:
    """Counts of steps on this schedule: noise levels become the nearest of its own."""
    n_max = _or(resolved.n_max, steps_left_at(sigmas, resolved.edit_start_sigma))
    n_min = _or(resolved.n_min, min(n_max, steps_left_at(sigmas, resolved.edit_end_sigma)))
    if resolved.n_max is None:
        got = float(sigmas[len(sigmas) - 1 - n_max])
        if abs(got - resolved.edit_start_sigma) > FAR_SIGMA or got == 0 < resolved.edit_start_sigma:
            warnings.warn(
                f"Editing starts at noise level {got:.2f} instead of {resolved.edit_start_sigma:g}: {len(sigmas) - 1} "
                f"steps are too few. Pass more {FLAG}.steps.",
                stacklevel=2,
            )
    return EditSteps(n_max, n_min, resolved.n_avg)


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
