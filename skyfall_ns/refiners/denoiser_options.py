"""Options of the refiner `scene`; light, because commands read them for their help."""

from dataclasses import dataclass

from skyfall_ns.errors import TrainingError

FLAG = "--pipeline.refiner.scene."


@dataclass(frozen=True)
class SceneOptions:
    """The network and its training; the defaults take about a minute on two CPU cores."""

    pairs: int = 36
    """Views of the episode that pairs are drawn of; every satellite image gives one more."""
    steps: int = 300
    """Training steps."""
    width: int = 16
    """Channels of the network at full size; it has twice as many below."""
    rate: float = 3e-3
    """Learning rate at the start; it falls to 0 along a cosine."""
    crop_px: int = 96
    """Size of the crops that it is trained on, pixels; a multiple of 4."""
    batch: int = 6
    """Crops per step."""
    satellite_share: float = 0.5
    """Part of the crops that come from satellite images."""
    strength: float = 0.4
    """How far pictures move from the render (0) to the network's answer (1)."""
    seed: int = 0
    """Of the network's first weights and of the crops."""

    def check(self) -> None:
        """TrainingError that names the flag of a number that makes no sense."""
        wanted = {
            "pairs": (self.pairs >= 1, "1 or more"),
            "steps": (self.steps >= 1, "1 or more"),
            "width": (self.width >= 4 and self.width % 4 == 0, "a multiple of 4"),
            "rate": (0 < self.rate < 1, "a number between 0 and 1"),
            "crop-px": (self.crop_px >= 16 and self.crop_px % 4 == 0, "16 or more, a multiple of 4"),
            "batch": (self.batch >= 1, "1 or more"),
            "satellite-share": (0 <= self.satellite_share <= 1, "a number from 0 to 1"),
            "strength": (0 <= self.strength <= 1, "a number from 0 to 1"),
        }
        for name, (holds, words) in wanted.items():
            if not holds:
                value = getattr(self, name.replace("-", "_"))
                raise TrainingError(f"{FLAG}{name} {value} trains no network. Pass {words}.")
