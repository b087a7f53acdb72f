import torch

from skyfall_ns.models.geometry.displaced_means import displace_means
from skyfall_ns.view import apply_quadratic_term, parallel_view


def test_means_and_gradients_equal_those_of_torch():
    g = torch.Generator().manual_seed(0)
    rows = torch.tensor([[100.0, 3, 30.0, 30.5], [-2, -100.0, 20.0, 26.5], [0, 0, -1, 20.0]])
    view = parallel_view(rows, 3.0 * torch.randn(2, 6, generator=g), 60, 50)
    means = torch.randn(1000, 3, generator=g).requires_grad_()
    upstream = torch.randn(1000, 3, generator=g)
    results = [displace(means, view) for displace in (displace_means, apply_quadratic_term)]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-6)
    assert (results[0] - means).abs().mean() > 0.01
    torch.testing.assert_close(
        *(torch.autograd.grad((result * upstream).sum(), means)[0] for result in results), rtol=1e-4, atol=1e-5
    )
