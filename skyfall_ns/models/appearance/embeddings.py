"""Appearance: what season, sensor and years do to a colour, learned per image and per Gaussian.

A reader turns an image's embedding (32) and a Gaussian's (24) into a gain and an offset per band (1 or 3); what is
seen in that image is gain * light + offset. `Linear` makes a matrix of the image's embedding and multiplies the
Gaussian's with it: the splats' embeddings are what they look like in all images, an image's picks from it. `Perceptron`
is WildGaussians' form: a multi-layer perceptron reads both, and the base colour; runs take nearly three times as long,
and are at best 0.6 dB better (docs/stage1.md). Both start at the identity (gain 1, offset 0); Skyfall-GS starts every
Gaussian at grey; nothing clamps a coefficient, so whites stay white and gradients stay alive: colours are clamped where
a picture is written, nowhere else.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

IMAGE_DIM = 32
FREQUENCIES = 4
GAUSSIAN_DIM = 6 * FREQUENCIES  # axis, frequency, phase
HIDDEN = 128
RESIDUAL_SCALE = 0.01  # the perceptron's output times this (Skyfall-GS)
NOISE = 1e-4  # standard deviation added to the Fourier features at the start (Skyfall-GS)


def fourier_features(means: Float[Tensor, "n 3"]) -> Float[Tensor, "n 24"]:
    """sin(2 pi 2^k p + phase) for k = 0..3 and phase in {0, pi/2}, flattened as (axis, frequency, phase).

    p is the position per axis, brought to about 0..1: centred, divided by the 97 % quantile of its magnitude, times one
    half plus one half (Skyfall-GS 4.1)."""
    if means.shape[0] == 0:
        return means.new_zeros(0, GAUSSIAN_DIM)
    centred = means - means.mean(0)
    rank = max(1, round(0.97 * means.shape[0]))
    reach = centred.abs().kthvalue(rank, dim=0).values.clamp_min(1e-9)
    p = centred / reach * 0.5 + 0.5
    frequency = 2.0 ** torch.arange(FREQUENCIES, dtype=means.dtype, device=means.device)
    phase = means.new_tensor([0.0, torch.pi / 2])
    angle = 2 * torch.pi * p[:, :, None, None] * frequency[:, None] + phase
    return torch.sin(angle).flatten(1)


def start_embeddings(means: Float[Tensor, "n 3"], generator: torch.Generator | None = None) -> Float[Tensor, "n 24"]:
    """Per-Gaussian embeddings at the start: Fourier features of the position plus a little noise."""
    features = fourier_features(means)
    noise = torch.randn(features.shape, generator=generator, dtype=features.dtype)
    return features + NOISE * noise.to(features.device)


@dataclass(frozen=True)
class ToneShift:
    """What an image does to colours: gain and offset "n b" (or broadcastable)."""

    gain: Tensor
    offset: Tensor

    def __call__(self, colors: Float[Tensor, "n b"]) -> Float[Tensor, "n b"]:
        return self.gain * colors + self.offset


class Linear(nn.Module):
    """Gain and offset, linear in the Gaussian's embedding and in the image's."""

    spread = IMAGE_DIM**-0.5  # of image embeddings at the start: length one, so that a step moves every look alike

    def __init__(self, bands: int = 3) -> None:
        super().__init__()
        self.matrices = nn.Linear(IMAGE_DIM, 2 * bands * GAUSSIAN_DIM)
        nn.init.zeros_(self.matrices.weight)  # gain 1, offset 0, exactly
        nn.init.zeros_(self.matrices.bias)

    def forward(
        self, base: Float[Tensor, "n b"], gaussians: Float[Tensor, "n 24"], image: Float[Tensor, "32"]
    ) -> ToneShift:
        """Gain and offset "n b"; the base colour does not matter."""
        offset, gain = (gaussians @ self.matrices(image).view(-1, GAUSSIAN_DIM).T).chunk(2, -1)
        return ToneShift(1.0 + gain, offset)


class Perceptron(nn.Module):
    """Gain and offset by a perceptron 59-128-128-6 (57-128-128-2 for one band)."""

    spread = 0.01

    def __init__(self, bands: int = 3) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(bands + GAUSSIAN_DIM + IMAGE_DIM, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(),
            nn.Linear(HIDDEN, 2 * bands),
        )
        last = self.mlp[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)  # gain 1, offset 0, exactly
        nn.init.zeros_(last.bias)

    def forward(
        self, base: Float[Tensor, "n b"], gaussians: Float[Tensor, "n 24"], image: Float[Tensor, "32"]
    ) -> ToneShift:
        """Gain and offset "n b" of Gaussians with base colours `base`."""
        # The image's share of the first layer is the same for all Gaussians: one vector instead of n copies.
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        split = base.shape[1] + GAUSSIAN_DIM
        bias = first.bias + first.weight[:, split:] @ image
        hidden = nn.functional.linear(torch.cat([base, gaussians], -1), first.weight[:, :split], bias)
        offset, gain = (RESIDUAL_SCALE * self.mlp[1:](hidden)).chunk(2, -1)
        return ToneShift(1.0 + gain, offset)


Reader = Literal["linear", "perceptron"]
READERS = {"linear": Linear, "perceptron": Perceptron}


class Appearance(nn.Module):
    """Image embeddings and what reads them; the Gaussians' embeddings live with the Gaussians."""

    def __init__(self, num_images: int, reader: Reader, bands: int = 3) -> None:
        super().__init__()
        self.reader = READERS[reader](bands)
        self.images = nn.Parameter(self.reader.spread * torch.randn(num_images, IMAGE_DIM))

    def forward(
        self, base: Float[Tensor, "n b"], gaussians: Float[Tensor, "n 24"], image: Float[Tensor, "32"]
    ) -> ToneShift:
        """Gain and offset "n b" of Gaussians with base colours `base`, seen in the image with embedding `image`."""
        return self.reader(base, gaussians, image)
