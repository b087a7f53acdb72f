import torch

from skyfall_ns.models.geometry.height_terms import height_terms, height_terms_with_torch


def test_terms_and_gradients_equal_those_of_torch():
    g = torch.Generator().manual_seed(0)
    height = (3 * torch.randn(40, 33, generator=g)).requires_grad_()
    alpha = torch.rand(40, 33, generator=g).requires_grad_()
    surface = height.detach() + 2 * torch.randn(40, 33, generator=g)
    weight = torch.rand(40, 33, generator=g) * (torch.rand(40, 33, generator=g) > 0.3)
    mask = (torch.rand(40, 33, generator=g) > 0.2).float()
    factors, results = torch.tensor([1.0, 2.0, 3.0]), []
    for terms_of in (height_terms, height_terms_with_torch):
        terms = torch.stack(terms_of(height, alpha, surface, weight, mask, 0.5))
        results.append((terms, *torch.autograd.grad((factors * terms).sum(), (height, alpha))))
    for fused, plain in zip(*results, strict=True):
        torch.testing.assert_close(fused, plain, rtol=1e-4, atol=1e-7)
