"""FlowEdit: editing a picture along the difference of two flows, without inverting it.

Formulas: Kulikov et al., FlowEdit (arXiv 2412.08629), with the tail of n_min plain steps that its code adds. For a
rectified flow z = (1 - sigma) x + sigma e the network predicts dz/dsigma.
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
"""(step, k, shape) -> white noise: `step` counts from the start of the schedule, `k` the averaged draws of a step."""


class FlowModel(Protocol):
    """A rectified-flow model, in the latents its network sees, kept as a grid: channels by rows by columns."""

    def encode(self, image: Float[Tensor, "b 3 y x"]) -> Latents:
        """Latents, float32, of pictures in 0..1."""
        ...

    def decode(self, z: Latents) -> Float[Tensor, "b 3 y x"]:
        """Pictures, float32, about 0..1."""
        ...

    def sigmas(self, size_px: tuple[int, int], steps: int) -> Float[Tensor, "t1"]:
        """Noise levels for pictures of (height, width), falling to 0; steps + 1 of them, on the CPU."""
        ...

    def condition(self, prompt: str, guidance: float | None) -> Any:
        """What `velocity` is told of a prompt."""
        ...

    def velocity(self, z: Latents, sigma: float, condition: Any) -> Latents:
        """dz/dsigma, float32."""
        ...


@dataclass(frozen=True)
class EditSteps:
    """Which of the last steps of a schedule are used: `n_max` in all, the last `n_min` of them as plain sampling."""

    n_max: int
    n_min: int = 0
    n_avg: int = 1
    """Draws of noise averaged per edit step."""


def check_steps(steps: EditSteps, total: int, flag: str) -> None:
    """TrainingError unless 0 <= n_min <= n_max <= total and n_avg >= 1; `flag` is what command lines put before."""
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
    """How many steps are left at the noise level of the schedule nearest to `sigma`."""
    return len(sigmas) - 1 - int((sigmas - sigma).abs().argmin())


def sample_to_end(model: FlowModel, z: Latents, condition: Any, sigmas: Float[Tensor, "t1"], first: int) -> Latents:
    """Plain Euler steps from `first` to the end of the schedule."""
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
    """Latents of the edited picture, of 2 n_avg (n_max - n_min) + n_min velocities.

    The edit steps sum up (sigma_next - sigma) mean_k [v(z + delta, target) - v(z, source)] as delta, by itself and in
    float32: equal conditions leave it exactly zero, in any format of the network.
    """

    def noisy(i: int, k: int) -> Latents:
        sigma = float(sigmas[i])
        return (1 - sigma) * x + sigma * noise(i, k, tuple(x.shape)).to(x)

    end = len(sigmas) - 1
    delta = torch.zeros_like(x, dtype=torch.float32)
    for i in range(end - steps.n_max, end - steps.n_min):
        sigma = float(sigmas[i])
        change = torch.zeros_like(delta)
        for k in range(steps.n_avg):
            z = noisy(i, k)
            change += model.velocity(z + delta, sigma, target) - model.velocity(z, sigma, source)
        delta += (float(sigmas[i + 1]) - sigma) / steps.n_avg * change
    if steps.n_min == 0:
        return x + delta
    first = end - steps.n_min
    return sample_to_end(model, noisy(first, 0) + delta, target, sigmas, first)
