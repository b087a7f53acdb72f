"""Appearance embeddings: color changes by season, sensor and years, learned per image and per Gaussian.

A decoder computes a gain and an offset per band (1 or 3) from an image embedding (32) and a Gaussian embedding (24);
the light in that image is gain * light + offset. `LinearDecoder` computes a matrix from the image embedding and
multiplies the Gaussian embedding by it. `PerceptronDecoder` is the form of WildGaussians: a multi-layer perceptron of
both embeddings and the albedo; runs take nearly three times as long and are at best 0.6 dB better
(benchmarks/stage1.md). Both start at the identity (gain 1, offset 0), whereas Skyfall-GS starts every Gaussian at gray.
Coefficients are not clamped, so that whites stay white and keep their gradients: colors are clamped only where an image
is written.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

IMAGE_EMBEDDING_DIM = 32
NUM_FREQUENCIES = 4
GAUSSIAN_EMBEDDING_DIM = 6 * NUM_FREQUENCIES  # axes times frequencies times phases
HIDDEN_DIM = 128
RESIDUAL_SCALE = 0.01  # factor of the perceptron's output (Skyfall-GS)
FEATURE_NOISE_STD = 1e-4  # standard deviation of the noise on the initial Fourier features (Skyfall-GS)


def fourier_features(means: Float[Tensor, "n 3"]) -> Float[Tensor, "n 24"]:
    """sin(2 pi 2^k p + phase) for k = 0..3 and phase in {0, pi/2}, flattened as (axis, frequency, phase).

    p is the position per axis, scaled to about 0..1: centered, divided by the 97 % quantile of its magnitude, times one
    half plus one half (Skyfall-GS 4.1)."""
    if means.shape[0] == 0:
        return means.new_zeros(0, GAUSSIAN_EMBEDDING_DIM)
    centered = means - means.mean(0)
    rank = max(1, round(0.97 * means.shape[0]))
    extent = centered.abs().kthvalue(rank, dim=0).values.clamp_min(1e-9)
    position = centered / extent * 0.5 + 0.5
    frequency = 2.0 ** torch.arange(NUM_FREQUENCIES, dtype=means.dtype, device=means.device)
    phase = means.new_tensor([0.0, torch.pi / 2])
    angle = 2 * torch.pi * position[:, :, None, None] * frequency[:, None] + phase
    return torch.sin(angle).flatten(1)


def init_embeddings(means: Float[Tensor, "n 3"], generator: torch.Generator | None = None) -> Float[Tensor, "n 24"]:
    """Initial embeddings of Gaussians: Fourier features of the position plus noise."""
    features = fourier_features(means)
    noise = torch.randn(features.shape, generator=generator, dtype=features.dtype)
    return features + FEATURE_NOISE_STD * noise.to(features.device)


def apply_coefficients(coefficients: Float[Tensor, "n 2*b"], light: Float[Tensor, "n b"]) -> Float[Tensor, "n b"]:
    """(1 + gain) * light + offset, of coefficients (offset, gain)."""
    offset, gain = coefficients.chunk(2, -1)
    return (1 + gain) * light + offset


class LinearDecoder(nn.Module):
    """Coefficients linear in the Gaussian embedding and in the image embedding."""

    init_std = IMAGE_EMBEDDING_DIM**-0.5  # embeddings of length 1, so that a step changes all appearances equally

    def __init__(self, bands: int = 3) -> None:
        super().__init__()
        self.matrices = nn.Linear(IMAGE_EMBEDDING_DIM, 2 * bands * GAUSSIAN_EMBEDDING_DIM)
        nn.init.zeros_(self.matrices.weight)  # gain 1, offset 0, exactly
        nn.init.zeros_(self.matrices.bias)

    def forward(
        self,
        albedo: Float[Tensor, "n b"],
        gaussian_embeddings: Float[Tensor, "n 24"],
        image_embedding: Float[Tensor, "32"],
    ) -> Float[Tensor, "n 2*b"]:
        """Coefficients of Gaussians; independent of the albedo."""
        return gaussian_embeddings @ self.matrices(image_embedding).view(-1, GAUSSIAN_EMBEDDING_DIM).T


class PerceptronDecoder(nn.Module):
    """Coefficients from a perceptron 59-128-128-6 (57-128-128-2 for one band)."""

    init_std = 0.01

    def __init__(self, bands: int = 3) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(bands + GAUSSIAN_EMBEDDING_DIM + IMAGE_EMBEDDING_DIM, HIDDEN_DIM),
            nn.ReLU(),
            nn.Linear(HIDDEN_DIM, HIDDEN_DIM),
            nn.ReLU(),
            nn.Linear(HIDDEN_DIM, 2 * bands),
        )
        last_layer = self.mlp[-1]
        assert isinstance(last_layer, nn.Linear)
        nn.init.zeros_(last_layer.weight)  # gain 1, offset 0, exactly
        nn.init.zeros_(last_layer.bias)

    def forward(
        self,
        albedo: Float[Tensor, "n b"],
        gaussian_embeddings: Float[Tensor, "n 24"],
        image_embedding: Float[Tensor, "32"],
    ) -> Float[Tensor, "n 2*b"]:
        """Coefficients of Gaussians."""
        # the image embedding adds the same vector to the first layer of all Gaussians: computed once, not n times
        first_layer = self.mlp[0]
        assert isinstance(first_layer, nn.Linear)
        num_inputs = albedo.shape[1] + GAUSSIAN_EMBEDDING_DIM
        bias = first_layer.bias + first_layer.weight[:, num_inputs:] @ image_embedding
        hidden = nn.functional.linear(
            torch.cat([albedo, gaussian_embeddings], -1), first_layer.weight[:, :num_inputs], bias
        )
        return RESIDUAL_SCALE * self.mlp[1:](hidden)


AppearanceDecoder = Literal["linear", "perceptron"]
DECODERS = {"linear": LinearDecoder, "perceptron": PerceptronDecoder}


class AppearanceEmbedding(nn.Module):
    """Image embeddings and their decoder; the embeddings of the Gaussians are parameters of the Gaussians."""

    def __init__(self, num_images: int, decoder: AppearanceDecoder, bands: int = 3) -> None:
        super().__init__()
        self.decoder = DECODERS[decoder](bands)
        self.image_embeddings = nn.Parameter(self.decoder.init_std * torch.randn(num_images, IMAGE_EMBEDDING_DIM))

    def forward(
        self,
        albedo: Float[Tensor, "n b"],
        gaussian_embeddings: Float[Tensor, "n 24"],
        image_embedding: Float[Tensor, "32"],
    ) -> Float[Tensor, "n 2*b"]:
        """Coefficients (offset, gain - 1) of Gaussians in the image with this embedding; see `apply_coefficients`."""
        return self.decoder(albedo, gaussian_embeddings, image_embedding)
