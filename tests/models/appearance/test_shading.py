"""The fused light of Gaussians against torch's operations: values and gradients."""

import numba
import pytest
import torch

from skyfall_ns.models.appearance.lighting import ImageAppearance
from skyfall_ns.models.appearance.shading import shade_gaussians, shade_with_torch

SUN = (0.3, -0.5, 0.8124038404635961)
CASES = {
    "all": dict(sun=SUN, visible=True, coefficients=True, shading=True),
    "no shadows": dict(sun=SUN, visible=False, coefficients=True, shading=True),
    "level ground": dict(sun=SUN, visible=True, coefficients=False, shading=False),
    "uniform light": dict(sun=None, visible=False, coefficients=True, shading=True),
    "sun without shading": dict(sun=SUN, visible=False, coefficients=False, shading=False),
}


def random_inputs(n, bands, sun, visible, coefficients, shading):
    g = torch.Generator().manual_seed(n + bands)
    albedo = torch.rand(n, bands, generator=g) * 1.4 - 0.1
    albedo[: n // 8] = 0.0
    leaves = {
        "albedo": albedo,
        "quats": torch.randn(n, 4, generator=g) * 3,
        "visibility": torch.rand(n, generator=g) if visible else None,
        "coefficients": 0.3 * torch.randn(n, 2 * bands, generator=g) if coefficients else None,
        **{name: 0.3 * torch.randn(bands, generator=g) for name in ("log_gain", "path_radiance", "log_ambient")},
    }
    leaves = {name: None if value is None else value.requires_grad_() for name, value in leaves.items()}
    appearance = ImageAppearance(leaves["log_gain"], leaves["path_radiance"], leaves["log_ambient"], None, sun)
    arguments = leaves["albedo"], leaves["quats"], leaves["visibility"], leaves["coefficients"], appearance, shading
    return [leaf for leaf in leaves.values() if leaf is not None], arguments


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("n", "bands"), [(1, 3), (1100, 3), (517, 1)])
def test_light_and_gradients_equal_those_of_torch(case, n, bands):
    leaves, arguments = random_inputs(n, bands, **CASES[case])
    fused, plain = shade_gaussians(*arguments), shade_with_torch(*arguments)
    torch.testing.assert_close(fused, plain, rtol=3e-6, atol=3e-6)
    upstream = torch.randn(fused.shape, generator=torch.Generator().manual_seed(1))
    gradients = [torch.autograd.grad((light * upstream).sum(), leaves, allow_unused=True) for light in (fused, plain)]
    for a, b in zip(*gradients, strict=True):
        if a is None or b is None:
            assert b is None or not b.any()
            assert a is None or not a.any()
        else:
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()) + 1e-7)


def test_the_last_channel_is_the_sun_visibility():
    _, arguments = random_inputs(40, 3, **CASES["all"])
    light, with_visibility = shade_gaussians(*arguments), shade_gaussians(*arguments, append_visibility=True)
    assert torch.equal(with_visibility[:, :3], light) and torch.equal(with_visibility[:, 3], arguments[2])
    upstream = torch.zeros(40, 4)
    upstream[:, 3] = 2.0
    assert (torch.autograd.grad((with_visibility * upstream).sum(), arguments[2])[0] == 2).all()


def test_bits_are_the_same_for_any_number_of_threads():
    results, before = [], numba.get_num_threads()
    try:
        for threads in (1, before):
            numba.set_num_threads(threads)
            leaves, arguments = random_inputs(3000, 3, **CASES["all"])
            light = shade_gaussians(*arguments)
            results.append([light, *torch.autograd.grad(light.square().sum(), leaves)])
    finally:
        numba.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
