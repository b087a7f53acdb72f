"""Options of the refiner `bilateral`; imports nothing heavy, because every `--help` reads them."""

from dataclasses import dataclass
from typing import Annotated

from skyfall_ns.option_checks import InRange, check_options

FLAG = "--pipeline.refiner.bilateral."


@dataclass(frozen=True)
class BilateralOptions:
    """Options of the bilateral filter."""

    color: Annotated[float, InRange(0, 1, above=True)] = 0.12
    """Standard deviation of the color weight, colors in 0..1: larger differences count as edges and are kept."""
    reach_px: Annotated[float, InRange(0.3, 50, above=True)] = 3.0
    """Standard deviation of the spatial weight, pixels."""

    def check_ranges(self) -> None:
        """Raise TrainingError that names the flag of an option out of range."""
        check_options(self, FLAG)
