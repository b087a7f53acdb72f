"""Appearance embeddings: identity at the start, Fourier features of the reference, gradients of all parts."""

import math

import pytest
import torch

from skyfall_ns.models.appearance.embeddings import (
    DECODERS,
    GAUSSIAN_EMBEDDING_DIM,
    AppearanceEmbedding,
    apply_coefficients,
    fourier_features,
    init_embeddings,
)


@pytest.mark.parametrize("decoder", DECODERS)
def test_starts_at_the_identity(decoder):
    torch.manual_seed(0)
    colors, gaussians = torch.rand(7, 3) * 1.4, torch.randn(7, GAUSSIAN_EMBEDDING_DIM)
    model = AppearanceEmbedding(4, decoder)
    coefficients = model(colors, gaussians, model.image_embeddings[2])
    torch.testing.assert_close(apply_coefficients(coefficients, colors), colors, rtol=0, atol=0)


def test_fourier_features_follow_the_published_formula():
    means = torch.randn(1000, 3, dtype=torch.float64) * torch.tensor([100.0, 50.0, 10.0])
    features = fourier_features(means)
    centered = means - means.mean(0)
    extent = torch.quantile(centered.abs(), 0.97, dim=0)
    p = centered / extent * 0.5 + 0.5
    for axis, k, phase in [(0, 0, 0), (1, 2, 1), (2, 3, 0)]:
        expected = torch.sin(2 * math.pi * 2**k * p[:, axis] + phase * math.pi / 2)
        # kthvalue and interpolated quantile differ by one order statistic of a thousand
        assert (features[:, axis * 8 + k * 2 + phase] - expected).abs().median() < 0.2
    assert features.shape == (1000, 24)
    assert features.abs().max() <= 1.0


def test_features_are_exact_when_the_quantile_is():
    means = torch.tensor([[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    features = fourier_features(means).reshape(2, 3, 4, 2)
    torch.testing.assert_close(features[1, :, 0, 1], torch.ones(3, dtype=torch.float64))  # p = 1: sin(2 pi + pi / 2)
    torch.testing.assert_close(features[0, :, :, 0], torch.zeros(3, 4, dtype=torch.float64))  # p = 0: sin 0


def test_initial_embeddings_are_seeded_and_empty_scenes_are_accepted():
    means = torch.randn(10, 3)
    first, second = (init_embeddings(means, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert fourier_features(torch.zeros(0, 3)).shape == (0, 24)


def test_perceptron_with_a_shared_image_term_equals_the_plain_one():
    torch.manual_seed(1)
    model = AppearanceEmbedding(3, "perceptron")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    colors, gaussians = torch.rand(5, 3), torch.randn(5, GAUSSIAN_EMBEDDING_DIM)
    coefficients = model(colors, gaussians, model.image_embeddings[1])
    plain = 0.01 * model.decoder.mlp(torch.cat([colors, gaussians, model.image_embeddings[1].expand(5, -1)], -1))
    torch.testing.assert_close(coefficients, plain)


def test_linear_decoder_is_linear_in_either_embedding():
    torch.manual_seed(1)
    model = AppearanceEmbedding(3, "linear")
    torch.nn.init.normal_(model.decoder.matrices.weight)
    (first, second), (image, other) = torch.randn(2, 5, GAUSSIAN_EMBEDDING_DIM), model.image_embeddings[:2]

    def decode(gaussians, image):
        return model(torch.rand(5, 3), gaussians, image)  # independent of the colors

    expected = decode(first, image) + 2 * decode(second, image)
    torch.testing.assert_close(decode(first + 2 * second, image), expected, atol=1e-4, rtol=1e-4)
    expected = decode(first, image) + 2 * decode(first, other)
    torch.testing.assert_close(decode(first, image + 2 * other), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("decoder", DECODERS)
def test_gradients_reach_images_gaussians_and_colors_above_white(decoder):
    torch.manual_seed(2)
    model = AppearanceEmbedding(2, decoder)
    for parameter in model.decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    colors = torch.full((4, 3), 1.2, requires_grad=True)
    gaussians = torch.randn(4, GAUSSIAN_EMBEDDING_DIM, requires_grad=True)
    apply_coefficients(model(colors, gaussians, model.image_embeddings[0]), colors).sum().backward()
    assert (colors.grad.abs() > 0.5).all()
    assert gaussians.grad.abs().max() > 0
    assert model.image_embeddings.grad[0].abs().max() > 0 and model.image_embeddings.grad[1].abs().max() == 0


def test_image_embeddings_have_length_one_at_the_start():
    model = AppearanceEmbedding(3, "linear")
    torch.testing.assert_close(model.image_embeddings.norm(dim=1).mean(), torch.tensor(1.0), atol=0.3, rtol=0)
