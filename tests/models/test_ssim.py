"""Fused SSIM against torchmetrics: value and gradient."""

import pytest
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from skyfall_ns.models import ssim as module
from skyfall_ns.models.ssim import ssim


def image_pair(height, width, channels, seed=0):
    g = torch.Generator().manual_seed(seed)
    target = torch.rand(height, width, channels, generator=g)
    return (target + 0.2 * torch.randn(height, width, channels, generator=g)).clamp(0, 1), target


def torchmetrics_ssim(pred, target):
    return structural_similarity_index_measure(
        pred.permute(2, 0, 1)[None], target.permute(2, 0, 1)[None], data_range=1.0, kernel_size=11, sigma=1.5
    )


@pytest.mark.parametrize("shape", [(64, 48, 3), (11, 11, 1), (37, 90, 4), (130, 33, 3)])
@pytest.mark.parametrize("smooth", [False, True])
def test_value_and_gradient_equal_those_of_torchmetrics(shape, smooth):
    pred, target = image_pair(*shape)
    if smooth:  # variances near zero: where rounding would show
        pred, target = 0.5 + 0.02 * pred, 0.5 + 0.02 * target
    ours, reference = pred.clone().requires_grad_(), pred.double().requires_grad_()
    value, expected = ssim(ours, target), torchmetrics_ssim(reference, target.double())
    value.backward()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), abs=1e-5)
    assert (ours.grad - reference.grad).abs().max() < 2e-3 * reference.grad.abs().max()


def test_equal_images_score_one_and_have_no_gradient():
    image = image_pair(40, 40, 3)[1].requires_grad_()
    score = ssim(image, image.detach())
    score.backward()
    assert score.item() == pytest.approx(1.0, abs=1e-6)
    assert image.grad.abs().max() < 1e-6


def test_the_torch_implementation_equals_the_kernels():
    pred, target = image_pair(50, 41, 3)
    assert module._ssim_torch(module._padded_planes(pred), module._padded_planes(target)).item() == pytest.approx(
        ssim(pred, target).item(), abs=1e-5
    )


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="at least 11"):
        ssim(torch.rand(10, 40, 3), torch.rand(10, 40, 3))
