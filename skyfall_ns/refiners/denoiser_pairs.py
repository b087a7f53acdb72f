"""Files of training pairs, `pairs/` of an episode: two images of one view, the second predicted from the first."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.io.files import atomic_write
from skyfall_ns.io.images import encode_png

SATELLITE_PREFIX = "satellite_"  # of the names of pairs whose second image is a satellite image


@dataclass(frozen=True)
class ImagePair:
    """Two images of one view, colors in 0..1."""

    first: Float[Tensor, "h w 3"]
    """Input of the network."""
    second: Float[Tensor, "h w 3"]
    """Target of the network."""
    weight: Float[Tensor, "h w"]
    """Weight of each pixel in the loss, 0..1; 0 where the images cannot be compared."""
    satellite: bool = False
    """Whether the second image is a satellite image."""


def write_pair(directory: Path, name: str, pair: ImagePair) -> None:
    """Write the three images `NAME_first.png`, `NAME_second.png`, `NAME_weight.png`, the first one last."""
    for part in ("second", "weight", "first"):
        pixels = (255 * getattr(pair, part)).round().to(torch.uint8).numpy()
        pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
        atomic_write(directory / f"{name}_{part}.png", encode_png(pixels))


def read_pairs(directory: Path) -> list[ImagePair]:
    """Read all pairs of a directory, sorted by name; raises TrainingError if there are none or one is damaged."""
    names = sorted(path.name.removesuffix("_first.png") for path in directory.glob("*_first.png"))
    if not names:
        raise TrainingError(
            f"{directory} has no training pairs for the refiner `denoiser`. "
            "Resume the training, which renders them, or choose another refiner."
        )
    pairs = []
    for name in names:
        flags = {"first": cv2.IMREAD_COLOR, "second": cv2.IMREAD_COLOR, "weight": cv2.IMREAD_GRAYSCALE}
        parts = {part: cv2.imread(str(directory / f"{name}_{part}.png"), flag) for part, flag in flags.items()}
        if any(p is None for p in parts.values()) or len({p.shape[:2] for p in parts.values()}) != 1:
            raise TrainingError(
                f"The pair {name} in {directory} is damaged. "
                "Delete it and resume the training, which renders it again, or choose another refiner."
            )
        values = {part: torch.from_numpy(np.ascontiguousarray(p[..., ::-1] if p.ndim == 3 else p)).float() / 255
                  for part, p in parts.items()}  # fmt: skip
        pairs.append(ImagePair(**values, satellite=name.startswith(SATELLITE_PREFIX)))
    return pairs
