"""Appearance: identity at the start, the reference's Fourier features, and gradients that reach every part."""

import math

import pytest
import torch

from skyfall_ns.models.appearance.embeddings import (
    GAUSSIAN_DIM,
    READERS,
    Appearance,
    fourier_features,
    start_embeddings,
)


@pytest.mark.parametrize("reader", READERS)
def test_starts_at_the_identity(reader):
    torch.manual_seed(0)
    colors, gaussians = torch.rand(7, 3) * 1.4, torch.randn(7, GAUSSIAN_DIM)
    model = Appearance(4, reader)
    torch.testing.assert_close(model(colors, gaussians, model.images[2])(colors), colors, rtol=0, atol=0)


def test_fourier_features_follow_the_published_formula():
    means = torch.randn(1000, 3, dtype=torch.float64) * torch.tensor([100.0, 50.0, 10.0])
    got = fourier_features(means)
    centred = means - means.mean(0)
    reach = torch.quantile(centred.abs(), 0.97, dim=0)
    p = centred / reach * 0.5 + 0.5
    for axis, k, phase in [(0, 0, 0), (1, 2, 1), (2, 3, 0)]:
        expected = torch.sin(2 * math.pi * 2**k * p[:, axis] + phase * math.pi / 2)
        # kthvalue and interpolated quantile differ by one order statistic of a thousand
        assert (got[:, axis * 8 + k * 2 + phase] - expected).abs().median() < 0.2
    assert got.shape == (1000, 24)
    assert got.abs().max() <= 1.0


def test_features_are_exact_when_the_quantile_is():
    means = torch.tensor([[-1.0, -2.0, -3.0], [1.0, 2.0, 3.0]], dtype=torch.float64)
    got = fourier_features(means).reshape(2, 3, 4, 2)
    torch.testing.assert_close(got[1, :, 0, 1], torch.ones(3, dtype=torch.float64))  # p = 1: sin(2 pi + pi / 2)
    torch.testing.assert_close(got[0, :, :, 0], torch.zeros(3, 4, dtype=torch.float64))  # p = 0: sin 0


def test_start_is_seeded_and_empty_scenes_are_fine():
    means = torch.randn(10, 3)
    first, second = (start_embeddings(means, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert fourier_features(torch.zeros(0, 3)).shape == (0, 24)


def test_shortcut_of_the_first_layer_equals_the_plain_perceptron():
    torch.manual_seed(1)
    model = Appearance(3, "perceptron")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    colors, gaussians = torch.rand(5, 3), torch.randn(5, GAUSSIAN_DIM)
    shift = model(colors, gaussians, model.images[1])
    plain = 0.01 * model.reader.mlp(torch.cat([colors, gaussians, model.images[1].expand(5, -1)], -1))
    torch.testing.assert_close(shift.offset, plain[:, :3])
    torch.testing.assert_close(shift.gain, 1 + plain[:, 3:])


def test_linear_means_linear_in_either_embedding():
    torch.manual_seed(1)
    model = Appearance(3, "linear")
    torch.nn.init.normal_(model.reader.matrices.weight)
    (first, second), (image, other) = torch.randn(2, 5, GAUSSIAN_DIM), model.images[:2]

    def answer(gaussians, image):
        shift = model(torch.rand(5, 3), gaussians, image)  # whatever the colours
        return torch.cat([shift.gain - 1, shift.offset], -1)

    both = answer(first, image) + 2 * answer(second, image)
    torch.testing.assert_close(answer(first + 2 * second, image), both, atol=1e-4, rtol=1e-4)
    both = answer(first, image) + 2 * answer(first, other)
    torch.testing.assert_close(answer(first, image + 2 * other), both, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("reader", READERS)
def test_gradients_reach_images_gaussians_and_whites(reader):
    torch.manual_seed(2)
    model = Appearance(2, reader)
    for parameter in model.reader.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    colors = torch.full((4, 3), 1.2, requires_grad=True)
    gaussians = torch.randn(4, GAUSSIAN_DIM, requires_grad=True)
    model(colors, gaussians, model.images[0])(colors).sum().backward()
    assert (colors.grad.abs() > 0.5).all()
    assert gaussians.grad.abs().max() > 0
    assert model.images.grad[0].abs().max() > 0 and model.images.grad[1].abs().max() == 0


def test_images_start_alike():
    model = Appearance(3, "linear")
    torch.testing.assert_close(model.images.norm(dim=1).mean(), torch.tensor(1.0), atol=0.3, rtol=0)
