"""Options of the refiner `smooth`; light, because commands read them for their help."""

from dataclasses import dataclass

from skyfall_ns.errors import TrainingError

FLAG = "--pipeline.refiner.smooth."


@dataclass(frozen=True)
class SmoothOptions:
    """Of the bilateral filter."""

    colour: float = 0.12
    """Colours (0..1) that differ by more than this are kept apart."""
    reach_px: float = 3.0
    """Standard deviation of the distance over which is smoothed, pixels."""

    def check(self) -> None:
        """TrainingError that names the flag of a number that makes no sense."""
        for name, low, high in (("colour", 0.0, 1.0), ("reach_px", 0.3, 50.0)):
            if not low < getattr(self, name) <= high:
                raise TrainingError(
                    f"{FLAG}{name.replace('_', '-')} {getattr(self, name)} smooths nothing, or all. "
                    f"Pass a number above {low:g}, up to {high:g}."
                )
