"""Which episode a training step belongs to, and what it looks at: pure functions of the step, so that a run goes on
from any checkpoint as if it had never stopped."""

import math
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True)
class Round:
    """The steps of one episode, `first` to `first + steps - 1`; numbers count from 1."""

    number: int
    first: int
    steps: int


@dataclass(frozen=True)
class EpisodeSchedule:
    """Stage 2 from step `start`: one round per episode, without gaps."""

    start: int
    steps: tuple[int, ...]

    @property
    def end(self) -> int:
        """The step after the last one."""
        return self.start + sum(self.steps)

    def window_at(self, step: int) -> Round | None:
        """The round of a step; None before stage 2 and after it."""
        if not self.start <= step < self.end:
            return None
        firsts = list(accumulate(self.steps, initial=self.start))
        number = max(i for i in range(len(self.steps)) if firsts[i] <= step)
        return Round(number + 1, firsts[number], self.steps[number])


def synthetic_turn(step: int, share: float) -> int | None:
    """The how-many-th synthetic view a round's step (from 0) is, so that `share` of all steps are one, evenly spread;
    None for steps with a satellite view."""
    before, after = math.floor(step * share), math.floor((step + 1) * share)
    return before if after > before else None


def episode_turn(turn: int, number: int, kept: float) -> int:
    """From which episode (1..number) the `turn`-th synthetic view of episode `number` comes: each earlier one has
    `kept` times the share of the one after it. Turns are spread evenly by the golden section."""
    weights = [kept ** (number - episode) for episode in range(1, number + 1)]
    place = math.modf(turn * 0.618033988749895 + 0.5)[0] * sum(weights)
    for episode, bound in enumerate(accumulate(weights), 1):
        if place < bound:
            return episode
    return number
