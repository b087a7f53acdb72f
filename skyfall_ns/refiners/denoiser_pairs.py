"""Files of pairs: pictures of one view, of which one is to be predicted from the other; `pairs/` of an episode."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.io.files import write_whole

SATELLITE = "satellite_"  # begins the names of pairs with a satellite image


@dataclass(frozen=True)
class Pair:
    """Two pictures of one view, 0..1, where they may be compared, and whether the second is a satellite's."""

    first: Float[Tensor, "h w 3"]
    second: Float[Tensor, "h w 3"]
    weight: Float[Tensor, "h w"]
    satellite: bool = False


def write_pair(folder: Path, name: str, pair: Pair) -> None:
    """Three pictures: `NAME_first.png`, `NAME_second.png`, `NAME_weight.png`."""
    for part in ("second", "weight", "first"):
        pixels = (255 * getattr(pair, part)).round().to(torch.uint8).numpy()
        pixels = pixels[..., ::-1] if pixels.ndim == 3 else pixels
        write_whole(folder / f"{name}_{part}.png", cv2.imencode(".png", pixels)[1].tobytes())


def read_pairs(folder: Path) -> list[Pair]:
    """All pairs of a folder, by name; TrainingError if there is none or one is damaged."""
    mend = "Go on with the training, which draws the pairs, or choose another refiner."
    names = sorted(path.name.removesuffix("_first.png") for path in folder.glob("*_first.png"))
    if not names:
        raise TrainingError(f"{folder} holds no pairs for the refiner `scene`. {mend}")
    pairs = []
    for name in names:
        flags = {"first": cv2.IMREAD_COLOR, "second": cv2.IMREAD_COLOR, "weight": cv2.IMREAD_GRAYSCALE}
        parts = {part: cv2.imread(str(folder / f"{name}_{part}.png"), flag) for part, flag in flags.items()}
        if any(p is None for p in parts.values()) or len({p.shape[:2] for p in parts.values()}) != 1:
            raise TrainingError(f"The pair {name} in {folder} is damaged. Delete it; {mend[0].lower() + mend[1:]}")
        values = {part: torch.from_numpy(np.ascontiguousarray(p[..., ::-1] if p.ndim == 3 else p)).float() / 255
                  for part, p in parts.items()}  # fmt: skip
        pairs.append(Pair(**values, satellite=name.startswith(SATELLITE)))
    return pairs
