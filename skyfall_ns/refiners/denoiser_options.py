"""Options of the refiner `denoiser`; imports nothing heavy, because every `--help` reads them."""

from dataclasses import dataclass
from typing import Annotated

from skyfall_ns.option_checks import COUNT, SHARE, InRange, check_options

FLAG = "--pipeline.refiner.denoiser."


@dataclass(frozen=True)
class DenoiserOptions:
    """Options of the network and its training; the defaults take about a minute on two CPU cores."""

    pairs: Annotated[int, COUNT] = 36
    """Number of views of the episode of which training pairs are rendered; every satellite image adds one more."""
    steps: Annotated[int, COUNT] = 300
    """Training steps."""
    width: Annotated[int, InRange(4, multiple_of=4)] = 16
    """Channels of the network at full resolution; twice as many at lower resolutions."""
    rate: Annotated[float, InRange(0, 1, above=True, below=True)] = 3e-3
    """Initial learning rate; it decays to 0 along a cosine."""
    crop_px: Annotated[int, InRange(16, multiple_of=4)] = 96
    """Width and height of training crops, pixels; a multiple of 4."""
    batch: Annotated[int, COUNT] = 6
    """Crops per step."""
    satellite_share: Annotated[float, SHARE] = 0.5
    """Fraction of the crops that come from satellite images."""
    strength: Annotated[float, SHARE] = 0.4
    """Blend between the render (0) and the output of the network (1)."""
    seed: int = 0
    """Seed of the initial weights and of the crops."""

    def check_ranges(self) -> None:
        """Raise TrainingError that names the flag of an option out of range."""
        check_options(self, FLAG)
