"""Episode and training view of a step: functions of the step number, so that a run resumes exactly."""

import math
from dataclasses import dataclass
from itertools import accumulate

GOLDEN_SECTION = 0.618033988749895


@dataclass(frozen=True)
class EpisodeWindow:
    """Training steps of one episode, `first_step` to `first_step + steps - 1`; `number` counts from 1."""

    number: int
    first_step: int
    steps: int


@dataclass(frozen=True)
class EpisodeSchedule:
    """Training steps of stage 2: `steps` of each episode, one after another, from `first_step` on."""

    first_step: int
    steps: tuple[int, ...]

    @property
    def end_step(self) -> int:
        """The step after the last one."""
        return self.first_step + sum(self.steps)

    def window_at(self, step: int) -> EpisodeWindow | None:
        """The window that contains a step; None before and after stage 2."""
        if not self.first_step <= step < self.end_step:
            return None
        first_steps = list(accumulate(self.steps, initial=self.first_step))
        index = max(i for i in range(len(self.steps)) if first_steps[i] <= step)
        return EpisodeWindow(index + 1, first_steps[index], self.steps[index])


def synthetic_index(step: int, share: float) -> int | None:
    """Index of the synthetic view of a step (from 0) of an episode; None for steps with a satellite image.

    The fraction `share` of all steps has a synthetic view, at even intervals."""
    before, after = math.floor(step * share), math.floor((step + 1) * share)
    return before if after > before else None


def source_episode(index: int, episode_number: int, decay: float) -> int:
    """Number (1..episode_number) of the episode that synthetic view `index` of episode `episode_number` comes from.

    Each earlier episode has the share of the next one times `decay`. The golden section spreads episodes evenly."""
    weights = [decay ** (episode_number - episode) for episode in range(1, episode_number + 1)]
    position = math.modf(index * GOLDEN_SECTION + 0.5)[0] * sum(weights)
    for episode, bound in enumerate(accumulate(weights), 1):
        if position < bound:
            return episode
    return episode_number
