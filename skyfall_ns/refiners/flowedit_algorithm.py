"""FlowEdit: image editing along the difference of two flows, without inversion.

Formulas: Kulikov et al., FlowEdit (arXiv 2412.08629), with the final n_min plain sampling steps of its published code.
For a rectified flow z = (1 - sigma) x + sigma e the network predicts dz/dsigma.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import TrainingError

Latents = Float[Tensor, "b c h w"]
NoiseFn = Callable[[int, int, tuple[int, ...]], Tensor]
"""(step, k, shape) -> white noise; `step`: index in the schedule, `k`: index of the averaged draw of a step."""


class FlowModel(Protocol):
    """A rectified-flow model. Latents are the input of its network as a grid: channels by rows by columns."""

    def encode_images(self, image: Float[Tensor, "b 3 y x"]) -> Latents:
        """Encode images in 0..1 as latents, float32."""
        ...

    def decode_latents(self, z: Latents) -> Float[Tensor, "b 3 y x"]:
        """Decode latents to images, float32, about 0..1."""
        ...

    def noise_levels(self, size_px: tuple[int, int], steps: int) -> Float[Tensor, "t1"]:
        """Noise levels for images of (height, width), decreasing to 0: steps + 1 values, on the CPU."""
        ...

    def make_condition(self, prompt: str, guidance: float | None) -> Any:
        """Condition of `velocity` for a prompt that has been encoded; `guidance` None: without guidance."""
        ...

    def velocity(self, z: Latents, sigma: float, condition: Any) -> Latents:
        """dz/dsigma with guidance, float32."""
        ...


@dataclass(frozen=True)
class EditSteps:
    """Steps used at the end of a schedule: `n_max` in total, of which the last `n_min` are plain sampling."""

    n_max: int
    n_min: int = 0
    n_avg: int = 1
    """Noise draws averaged per edit step."""


def check_steps(steps: EditSteps, total: int, flag: str) -> None:
    """Raise TrainingError unless 0 <= n_min <= n_max <= total and n_avg >= 1; `flag`: prefix of the options."""
    if not 0 <= steps.n_min <= steps.n_max:
        raise TrainingError(
            f"{flag}.n-min is {steps.n_min} and {flag}.n-max is {steps.n_max}, but 0 <= n-min <= n-max must hold. "
            f"Pass {flag}.n-min 0 to only edit, or a larger {flag}.n-max."
        )
    if steps.n_max > total:
        raise TrainingError(
            f"{flag}.n-max is {steps.n_max}, but the schedule has only {total} steps. "
            f"Pass at most {total}, or more {flag}.steps."
        )
    if steps.n_avg < 1:
        raise TrainingError(f"{flag}.n-avg is {steps.n_avg}, and at least one draw is needed. Pass 1 or more.")


def steps_left_at(sigmas: Float[Tensor, "t1"], sigma: float) -> int:
    """Number of steps from the noise level of the schedule nearest to `sigma` to the end."""
    return len(sigmas) - 1 - int((sigmas - sigma).abs().argmin())


def sample_to_end(model: FlowModel, z: Latents, condition: Any, sigmas: Float[Tensor, "t1"], first: int) -> Latents:
    """Sample with Euler steps from step `first` to the end of the schedule."""
    for i in range(first, len(sigmas) - 1):
        sigma = float(sigmas[i])
        z = z + (float(sigmas[i + 1]) - sigma) * model.velocity(z, sigma, condition)
    return z


def flow_edit_latents(
    model: FlowModel,
    x: Latents,
    source: Any,
    target: Any,
    sigmas: Float[Tensor, "t1"],
    steps: EditSteps,
    noise: NoiseFn,
) -> Latents:
    """Latents of the edited image, with 2 n_avg (n_max - n_min) + n_min evaluations of the network.

    The edit steps accumulate delta = sum (sigma_next - sigma) mean_k [v(z + delta, target) - v(z, source)] separately
    from x and in float32: with equal conditions it is exactly zero in every number format of the network.
    """

    def add_noise(i: int, k: int) -> Latents:
        sigma = float(sigmas[i])
        return (1 - sigma) * x + sigma * noise(i, k, tuple(x.shape)).to(x)

    end = len(sigmas) - 1
    delta = torch.zeros_like(x, dtype=torch.float32)
    for i in range(end - steps.n_max, end - steps.n_min):
        sigma = float(sigmas[i])
        change = torch.zeros_like(delta)
        for k in range(steps.n_avg):
            z = add_noise(i, k)
            change += model.velocity(z + delta, sigma, target) - model.velocity(z, sigma, source)
        delta += (float(sigmas[i + 1]) - sigma) / steps.n_avg * change
    if steps.n_min == 0:
        return x + delta
    first = end - steps.n_min
    return sample_to_end(model, add_noise(first, 0) + delta, target, sigmas, first)
