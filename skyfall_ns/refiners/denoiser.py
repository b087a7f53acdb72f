"""The refiner `denoiser`: a small network that is trained at run time on this scene alone and needs no weights.

Its training data are the image pairs in the episode directory (`denoiser_pairs`): pairs of renders for the noise of
single Gaussians (Noise2Noise), pairs with satellite images for their appearance. It is not generative.
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

from skyfall_ns.io.files import atomic_write
from skyfall_ns.refiners.base import Refiner, RenderedView
from skyfall_ns.refiners.denoiser_network import Denoiser
from skyfall_ns.refiners.denoiser_options import DenoiserOptions
from skyfall_ns.refiners.denoiser_pairs import ImagePair, read_pairs

NETWORK_FILE = "network.pt"


@dataclass(frozen=True)
class DenoiserRefinerConfig:
    """A network for one episode, trained at the first `load` and saved in the episode directory."""

    options: DenoiserOptions = field(default_factory=DenoiserOptions)
    generative: ClassVar[bool] = False
    batch: int = 4

    @classmethod
    def from_options(cls, options: DenoiserOptions) -> "DenoiserRefinerConfig":
        """The configuration for options of the command line or a manifest."""
        return cls(options)

    @property
    def training_pairs(self) -> int:
        """Number of views of which image pairs are rendered."""
        return self.options.pairs

    def check(self) -> None:
        """Raise TrainingError for options out of range."""
        self.options.check_ranges()

    def identity(self, episode: Path | None = None) -> dict[str, Any]:
        """Refiner name and options."""
        return {"name": "denoiser", **asdict(self.options)}

    @contextmanager
    def load(self, device: torch.device, episode: Path) -> Iterator[Refiner]:
        """Load the network that was trained on the same pairs with the same options, or train it.

        Raises TrainingError if the episode directory has no pairs or a damaged one."""
        network = self._load_or_train(device, episode).eval()

        @torch.no_grad()
        def refine(views: Sequence[RenderedView]) -> list[Tensor]:
            return [self._denoise_image(network, view.image.to(device)).cpu() for view in views]

        yield refine

    def _denoise_image(self, network: nn.Module, image: Tensor) -> Tensor:
        height, width, _ = image.shape
        padded = functional.pad(image.permute(2, 0, 1)[None], (0, -width % 4, 0, -height % 4), mode="replicate")
        denoised = network(padded)[0, :, :height, :width].permute(1, 2, 0)
        return torch.lerp(image, denoised, self.options.strength)

    def _load_or_train(self, device: torch.device, episode: Path) -> Denoiser:
        pairs, file = read_pairs(episode / "pairs"), episode / NETWORK_FILE
        network, key = Denoiser(self.options.width, self.options.seed), _training_key(self.options, pairs)
        saved = _read_saved_network(file)
        if saved is None or saved["key"] != key:
            train_network(network.to(device), pairs, self.options)
            state = {name: value.cpu() for name, value in network.state_dict().items()}
            buffer = io.BytesIO()
            torch.save({"key": key, "network": state}, buffer)
            atomic_write(file, buffer.getvalue())
        else:
            network.load_state_dict(saved["network"])
        return network.to(device)


def train_network(network: nn.Module, pairs: Sequence[ImagePair], options: DenoiserOptions) -> None:
    """Train the network in place to predict the second image of a pair from the first: least squares over the pixels
    with weight (Noise2Noise, Lehtinen et al. 2018, arXiv 1803.04189)."""
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(options.seed)
    optimizer = torch.optim.Adam(network.parameters(), options.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.steps)
    crops = _CropSampler(pairs, options, generator)
    bar = tqdm(range(options.steps), desc="Learning the scene", unit="step", leave=False, file=sys.stderr, disable=None)
    with torch.enable_grad():
        for _ in bar:
            first, second, weight = (part.to(device) for part in crops.draw_batch())
            error = (network(first) - second).square() * weight
            loss = error.sum() / weight.sum().clamp_min(1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()


class _CropSampler:
    """Draws random crops of pairs: a share of pairs with satellite images, pairs of renders for the rest."""

    def __init__(self, pairs: Sequence[ImagePair], options: DenoiserOptions, generator: torch.Generator) -> None:
        self._options, self._generator = options, generator
        self._pairs_by_source = {source: [p for p in pairs if p.satellite == source] for source in (False, True)}

    def draw_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw first images "b 3 s s", second images "b 3 s s" and weights "b 1 s s"."""
        crops = [self._draw_crop() for _ in range(self._options.batch)]
        return tuple(torch.stack([crop[part] for crop in crops]) for part in range(3))  # type: ignore[return-value]

    def _draw_crop(self) -> tuple[Tensor, Tensor, Tensor]:
        satellite = bool(torch.rand((), generator=self._generator) < self._options.satellite_share)
        pairs = self._pairs_by_source[satellite] or self._pairs_by_source[not satellite]
        pair = pairs[self._random_integer(len(pairs))]
        size = self._options.crop_px
        height, width = pair.weight.shape
        row, column = self._random_integer(max(height - size, 0) + 1), self._random_integer(max(width - size, 0) + 1)
        parts = (pair.first, pair.second, pair.weight[..., None])
        crop = [_pad_to_size(part[row : row + size, column : column + size].permute(2, 0, 1), size) for part in parts]
        return tuple(part.flip(-1) for part in crop) if self._random_integer(2) else tuple(crop)  # type: ignore[return-value]

    def _random_integer(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self._generator))


def _pad_to_size(crop: Tensor, size: int) -> Tensor:
    """Pad a crop "c h w" of a smaller image with zeros, which have no weight."""
    return functional.pad(crop, (0, size - crop.shape[-1], 0, size - crop.shape[-2]))


def _training_key(options: DenoiserOptions, pairs: Sequence[ImagePair]) -> str:
    """Hash of everything that determines the trained network."""
    digest = hashlib.sha256(repr(sorted(asdict(options).items())).encode())
    for pair in pairs:
        for part in (pair.first, pair.second, pair.weight):
            digest.update(part.numpy().tobytes())
    return digest.hexdigest()


def _read_saved_network(file: Path) -> dict[str, Any] | None:
    """Contents of a network file, {"key", "network"}; None where it is missing or damaged."""
    try:
        saved = torch.load(file, map_location="cpu", weights_only=True)
    except Exception:  # whatever is wrong with the file, the network is trained again
        return None
    return saved if isinstance(saved, dict) and {"key", "network"} <= saved.keys() else None
