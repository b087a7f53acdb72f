"""The refiner that needs no weights: a small network trained at run time on this scene alone.

It learns from pairs of pictures that the training wrote into the episode's folder (`refiners.pairs`): what is noise of
single splats, and what satellite images look like. It cleans up; it is not generative and invents nothing.
"""

import hashlib
import io
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from skyfall_ns.io.files import write_whole
from skyfall_ns.refiners.base import Refiner, RenderedView
from skyfall_ns.refiners.denoiser_network import Denoiser
from skyfall_ns.refiners.denoiser_options import SceneOptions
from skyfall_ns.refiners.denoiser_pairs import Pair, read_pairs

NETWORK_FILE = "network.pt"


@dataclass(frozen=True)
class SceneRefinerConfig:
    """A network for one episode, trained when it is first needed and kept in the episode's folder."""

    options: SceneOptions = field(default_factory=SceneOptions)
    generative: ClassVar[bool] = False
    batch: int = 4

    def check(self) -> None:
        """TrainingError for numbers that make no sense; no weights can be missing."""
        self.options.check()

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Name and options."""
        return {"name": "scene", **asdict(self.options)}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """Train the network, or load the one that was trained from the same pairs with the same options."""
        network = self._network(device, episode).eval()

        @torch.no_grad()
        def refine(views: Sequence[RenderedView]) -> list[Tensor]:
            return [self._refined(network, view.image.to(device)).cpu() for view in views]

        yield refine

    def _refined(self, network: nn.Module, image: Tensor) -> Tensor:
        height, width, _ = image.shape
        padded = functional.pad(image.permute(2, 0, 1)[None], (0, -width % 4, 0, -height % 4), mode="replicate")
        answer = network(padded)[0, :, :height, :width].permute(1, 2, 0)
        return torch.lerp(image, answer, self.options.strength)

    def _network(self, device: torch.device, episode: Path) -> Denoiser:
        pairs, file = read_pairs(episode / "pairs"), episode / NETWORK_FILE
        network, key = Denoiser(self.options.width, self.options.seed), _key(self.options, pairs)
        known = _read_network(file)
        if known is None or known["key"] != key:
            train_network(network.to(device), pairs, self.options)
            state = {name: value.cpu() for name, value in network.state_dict().items()}
            buffer = io.BytesIO()
            torch.save({"key": key, "network": state}, buffer)
            write_whole(file, buffer.getvalue())
        else:
            network.load_state_dict(known["network"])
        return network.to(device)


def train_network(network: nn.Module, pairs: Sequence[Pair], options: SceneOptions) -> None:
    """Least squares of what the network makes of one picture of a pair against the other, where both are known."""
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.Adam(network.parameters(), options.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    crops = _Crops(pairs, options, generator)
    bar = tqdm(range(options.steps), desc="Learning the scene", unit="step", leave=False, file=sys.stderr, disable=None)
    with torch.enable_grad():
        for _ in bar:
            first, second, weight = (part.to(device) for part in crops.draw())
            error = (network(first) - second).square() * weight
            loss = error.sum() / weight.sum().clamp_min(1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


class _Crops:
    """Random crops of pairs: satellites' by their share, the scene's own for the rest."""

    def __init__(self, pairs: Sequence[Pair], options: SceneOptions, generator: torch.Generator) -> None:
        self._options, self._generator = options, generator
        self._of = {kind: [p for p in pairs if p.satellite == kind] for kind in (False, True)}

    def draw(self) -> tuple[Tensor, Tensor, Tensor]:
        """Batches "b 3 s s", "b 3 s s" and "b 1 s s"."""
        crops = [self._crop() for _ in range(self._options.batch)]
        return tuple(torch.stack([crop[part] for crop in crops]) for part in range(3))  # type: ignore[return-value]

    def _crop(self) -> tuple[Tensor, Tensor, Tensor]:
        wanted = bool(torch.rand((), generator=self._generator) < self._options.satellite_share)
        pairs = self._of[wanted] or self._of[not wanted]
        pair = pairs[self._integer(len(pairs))]
        size = self._options.crop_px
        height, width = pair.weight.shape
        row, column = self._integer(max(height - size, 0) + 1), self._integer(max(width - size, 0) + 1)
        parts = (pair.first, pair.second, pair.weight[..., None])
        cut = [_sized(part[row : row + size, column : column + size].permute(2, 0, 1), size) for part in parts]
        return tuple(part.flip(-1) for part in cut) if self._integer(2) else tuple(cut)  # type: ignore[return-value]

    def _integer(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self._generator))


def _sized(crop: Tensor, size: int) -> Tensor:
    """Pictures smaller than a crop get a border of zero weight."""
    return functional.pad(crop, (0, size - crop.shape[-1], 0, size - crop.shape[-2]))


def _key(options: SceneOptions, pairs: Sequence[Pair]) -> str:
    digest = hashlib.sha256(repr(sorted(asdict(options).items())).encode())
    for pair in pairs:
        for part in (pair.first, pair.second, pair.weight):
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()


def _read_network(file: Path) -> dict[str, Any] | None:
    """What was saved; None where there is nothing, or nothing whole."""
    try:
        known = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # whatever is wrong with the file, the network is trained again
        return None
    return known if isinstance(known, dict) and {"key", "network"} <= known.keys() else None
