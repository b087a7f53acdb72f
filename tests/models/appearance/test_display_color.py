"""The fused display colors against torch's operations: values and gradients."""

import numba
import pytest
import torch

from skyfall_ns.models.appearance.display_color import display_color, display_color_with_torch
from skyfall_ns.models.appearance.lighting import ImageAppearance
from skyfall_ns.models.appearance.shadow_map import ShadowMap, sun_view
from skyfall_ns.models.rasterizers import Rendering
from skyfall_ns.view import View, parallel_view

SCALE, HEIGHT, WIDTH = 0.01, 53, 61
SUN = (0.3, -0.5, 0.8124038404635961)


def make_view(kind: str) -> View:
    """A view of a square of 60 m: from 20 degrees off nadir, with a quadratic term, or of a pinhole."""
    if kind == "pinhole":
        camera = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
        camera[2, 3] = 20.0
        intrinsics = torch.tensor([[2000.0, 0, 31.0], [0, 2000.0, 26.0], [0, 0, 1]], dtype=torch.float64)
        return View(camera, intrinsics, WIDTH, HEIGHT, "pinhole")
    rows = torch.tensor([[100.0, 0, 30.0, 30.5], [0, -100.0, 20.0, 26.5], [0, 0, -1, 20.0]])
    quadratic = 0.2 * torch.randn(2, 6, generator=torch.Generator().manual_seed(0)) if kind == "quadratic" else None
    return parallel_view(rows, quadratic, WIDTH, HEIGHT)


def random_inputs(kind: str, bands: int, shadows: bool):
    g = torch.Generator().manual_seed(bands)
    alpha = torch.rand(HEIGHT, WIDTH, generator=g).sqrt()
    alpha[:3, :7] = 0
    y, x = torch.meshgrid(torch.arange(HEIGHT) * 1.0, torch.arange(WIDTH) * 1.0, indexing="ij")
    depth = 20.0 - 0.03 * torch.sin(x / 9) * torch.cos(y / 7) - 0.1 * ((x > 30) & (y > 20))
    leaves = {
        "color": torch.rand(HEIGHT, WIDTH, bands + shadows, generator=g) * alpha[..., None],
        "alpha": alpha,
        "log_ambient": 0.3 * torch.randn(bands, generator=g),
    }
    if shadows:
        box = torch.tensor([[-0.4, -0.4, -0.1], [0.4, 0.4, 0.2]])
        map_view = sun_view(torch.tensor(SUN), *box, 0.35 * SCALE)
        solid = torch.rand(map_view.height, map_view.width, generator=g)
        mean = 0.05 * torch.randn(map_view.height, map_view.width, generator=g) + 0.05
        leaves["moments"] = torch.stack([solid * mean, solid * (mean**2 + 1e-4), solid], -1)
    leaves = {name: value.requires_grad_() for name, value in leaves.items()}
    appearance = ImageAppearance(torch.zeros(bands), torch.zeros(bands), leaves["log_ambient"], None, SUN)
    shadow_map = ShadowMap(leaves["moments"], torch.tensor(0.0), map_view, SCALE) if shadows else None
    rendering = Rendering(leaves["color"], depth, leaves["alpha"])
    return list(leaves.values()), (rendering, bands, make_view(kind), appearance, shadow_map)


@pytest.mark.parametrize("kind", ["parallel", "quadratic", "pinhole"])
@pytest.mark.parametrize(("bands", "shadows"), [(3, True), (1, True), (3, False), (1, False)])
def test_colors_and_gradients_equal_those_of_torch(kind, bands, shadows):
    leaves, arguments = random_inputs(kind, bands, shadows)
    fused, plain = display_color(*arguments), display_color_with_torch(*arguments)
    difference = (fused - plain).abs()
    assert difference.median() < 1e-6 and difference.max() < (
        2e-3 if shadows else 2e-6
    )  # float32 lookups at cell edges
    upstream = torch.randn(fused.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((color * upstream).sum(), leaves, allow_unused=True) for color in (fused, plain)]
    for name, a, b in zip(("color", "alpha", "log_ambient", "moments"), *gradients, strict=False):
        if b is None:
            assert a is None, name
        else:
            assert float((a - b).norm() / b.norm()) < 2e-3, name
    if shadows:
        darkened = display_color(arguments[0], bands, arguments[2], arguments[3], None) if bands == 3 else None
        assert darkened is None or (fused - darkened).abs().mean() > 0.01


def test_bits_are_the_same_for_any_number_of_threads():
    results, before = [], numba.get_num_threads()
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            leaves, arguments = random_inputs("quadratic", 3, True)
            color = display_color(*arguments)
            results.append([color, *torch.autograd.grad(color.square().sum(), leaves)])
    finally:
        numba.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
