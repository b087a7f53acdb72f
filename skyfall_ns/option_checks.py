"""Rules of options, declared beside them, and one check for all of them.

`steps: Annotated[int, InRange(1)]` bounds a number; `prompt: Unused[str | None] = None` hides an inherited option that
does nothing, and refuses it by name.
"""

import math
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import tyro

from skyfall_ns.errors import TrainingError


@dataclass(frozen=True)
class InRange:
    """Numbers from `low` to `high`, both included unless `above` or `below` excludes them."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    multiple_of: int = 1

    def contains(self, value: float) -> bool:
        """Whether a number is in the range; NaN and infinities never are."""
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        whole = self.multiple_of == 1 or value % self.multiple_of == 0
        return math.isfinite(value) and low and high and whole

    def describe(self) -> str:
        """The range in words: "a number above 0, at most 90"."""
        parts = []
        if math.isfinite(self.low):
            parts.append(f"{'above' if self.above else 'of at least'} {self.low:g}")
        if math.isfinite(self.high):
            parts.append(f"{'below' if self.below else 'at most'} {self.high:g}")
        noun = "number" if self.multiple_of == 1 else f"multiple of {self.multiple_of}"
        return f"a {noun} {', '.join(parts)}" if parts else f"a finite {noun}"


@dataclass(frozen=True)
class DoesNothing:
    """Marks an option without effect."""


T = TypeVar("T")
Unused = Annotated[T, tyro.conf.Suppress, DoesNothing()]
SHARE = InRange(0, 1)
POSITIVE = InRange(0, above=True)
COUNT = InRange(1)


def check_options(options: Any, prefix: str) -> None:
    """TrainingError that names the flag (`prefix` and the option's name) of the first number out of its range, or of an
    option that was set but does nothing; options that are dataclasses are checked too."""
    for flag, value, default, rules in _ruled_options(options, prefix):
        for rule in rules:
            if isinstance(rule, InRange):
                _check_range(flag, value, rule)
            elif isinstance(rule, DoesNothing) and value != default:
                raise TrainingError(f"{flag} does nothing in this method. Leave it out.")


def _check_range(flag: str, value: Any, allowed: InRange) -> None:
    for number in value if isinstance(value, tuple | list) else (value,):
        if number is not None and not allowed.contains(number):
            raise TrainingError(f"{flag} is {_shown(value)}. Pass {allowed.describe()}.")


def _ruled_options(options: Any, prefix: str) -> Iterator[tuple[str, Any, Any, tuple[Any, ...]]]:
    """(flag, value, default, annotations) of every option that has annotations."""
    hints = get_type_hints(type(options), include_extras=True)
    for field in fields(options):
        value, rules = getattr(options, field.name), _annotations(hints[field.name])
        flag = prefix + field.name.replace("_", "-")
        if rules:
            yield flag, value, _default_of(field), rules
        if is_dataclass(value) and not isinstance(value, type):
            unnamed = any(getattr(rule, "name", None) == "" for rule in rules)  # tyro.conf.arg(name="")
            yield from _ruled_options(value, prefix if unnamed else f"{flag}.")


def _default_of(field: Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _annotations(hint: Any) -> tuple[Any, ...]:
    return get_args(hint)[1:] if get_origin(hint) is Annotated else ()


def _shown(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple | list) else f"{value}"
