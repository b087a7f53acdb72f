"""Light on splats: closed forms of sun and sky, the gamma code, looks and what lies between two of them."""

import math

import pytest
import torch

from skyfall_ns.models.appearance.fit_appearance import fit_look
from skyfall_ns.models.appearance.lighting import DARKEST, Looks, decode, encode, normals_of, picture, seen, sunlight
from skyfall_ns.scene.scene import DISPLAY_GAMMA

SUN = (0.6, 0.0, 0.8)
SKY = torch.tensor([0.2, 0.3, 0.4])


def test_level_ground_in_the_sun_keeps_its_colour():
    up, lit = torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1)
    torch.testing.assert_close(sunlight(up, lit, SUN, SKY), torch.ones(1, 3))
    torch.testing.assert_close(sunlight(None, lit, SUN, SKY), torch.ones(1, 3))


def test_walls_and_shadow_have_the_light_of_the_formula():
    normals = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 0, 1.0]])
    light = sunlight(normals, torch.tensor([1.0, 1.0, 0.0]), SUN, SKY)
    whole = SKY + 0.8
    expected = torch.stack([(0.6 * SKY + 0.6) / whole, 0.6 * SKY / whole, SKY / whole])
    torch.testing.assert_close(light, expected)


def test_gamma_code_is_undone_and_black_keeps_a_gradient():
    colors = torch.linspace(0.06, 1.3, 20)
    torch.testing.assert_close(encode(decode(colors)), colors)
    dark = torch.tensor([0.0, -0.01, DARKEST / 2], requires_grad=True)
    encode(dark).sum().backward()
    slope = DARKEST ** (1 / DISPLAY_GAMMA - 1) / DISPLAY_GAMMA
    torch.testing.assert_close(dark.grad, torch.full((3,), slope))
    near = encode(torch.tensor([DARKEST * (1 - 1e-3), DARKEST * (1 + 1e-3)]))
    assert near[1] - near[0] == pytest.approx(2e-3 * DARKEST * slope, rel=0.02)  # no jump


def test_whites_stay_white_and_keep_their_gradient():
    colors = torch.full((1, 3), 1.4, requires_grad=True)
    out = encode(seen(colors, None, Looks([None], reader=None).of(0)))
    out.sum().backward()
    torch.testing.assert_close(out.detach(), colors.detach())
    torch.testing.assert_close(colors.grad, torch.ones(1, 3))


def test_looks_start_as_they_are_and_blend_from_one_to_the_other():
    looks = Looks([SUN, None], reader="linear")
    with torch.no_grad():
        looks.log_gain[0], looks.log_gain[1] = 0.2, -0.2
    first, second = looks.of(0), looks.of(1)
    for share, gain, sun in ((0.0, 0.2, SUN), (0.25, 0.1, SUN), (0.75, -0.1, None), (1.0, -0.2, None)):
        mixed = first.towards(second, share)
        torch.testing.assert_close(mixed.log_gain, torch.full((3,), gain), atol=1e-7, rtol=0)
        assert mixed.sun == sun
    middle = first.towards(second, 0.5)
    for name, value in looks.canonical().tensors().items():
        torch.testing.assert_close(value, middle.tensors()[name])


def test_the_canonical_look_is_the_mean_of_the_images_that_are_shown():
    looks = Looks([SUN, None, None], "linear", shown=(1, 2))
    with torch.no_grad():
        for number, value in enumerate(looks.parameters()):
            value.copy_(torch.arange(value.numel()).view(value.shape) + number)
    shown = looks.canonical(SUN)
    assert shown.sun == SUN
    for name, value in shown.tensors().items():
        torch.testing.assert_close(value, (looks.of(1).tensors()[name] + looks.of(2).tensors()[name]) / 2)


def test_free_views_are_lit_by_the_mean_sun_of_the_images_that_are_shown():
    looks = Looks([SUN, (0.0, 0.6, 0.8), None, (0.0, 0.0, 1.0)], None, shown=(0, 1, 2))
    length = math.hypot(0.6, 0.6, 1.6)
    assert looks.free().sun == pytest.approx((0.6 / length, 0.6 / length, 1.6 / length))
    assert Looks([None, SUN], None, shown=(0,)).free().sun is None


def test_normals_are_the_third_axes():
    half = math.sqrt(0.5)
    quats = torch.tensor([[1.0, 0, 0, 0], [2 * half, 0, 2 * half, 0], [half, half, 0, 0]])  # turned about y, about x
    torch.testing.assert_close(normals_of(quats), torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]), atol=1e-6, rtol=0)


def test_a_look_is_found_again_from_half_a_picture():
    torch.manual_seed(0)
    looks = Looks([None], reader=None)
    albedo = torch.rand(32, 40, 3)
    with torch.no_grad():
        looks.log_gain[0] = torch.tensor([0.3, -0.2, 0.1])
        looks.haze[0] = torch.tensor([0.02, 0.04, 0.08])
    target = encode(seen(albedo, None, looks.of(0))).detach()
    mask = torch.zeros(32, 40, 1)
    mask[:, :20] = 1
    start = Looks([None], reader=None).of(0)
    spoilt = torch.where(mask > 0, target, torch.rand_like(target))
    found = fit_look(lambda look: encode(seen(albedo, None, look)), start, spoilt, mask)
    error = (encode(seen(albedo, None, found)) - target)[:, 20:].abs().mean()
    assert error < 0.1 * (encode(seen(albedo, None, start)) - target)[:, 20:].abs().mean()
    assert not found.log_gain.requires_grad


def test_half_a_white_pixel_is_as_bright_as_a_sensor_says():
    """Half of the light of white over black is 0.73 of white in a picture, not 0.5."""
    white = torch.ones(1, 1, 3)
    torch.testing.assert_close(picture(0.5 * white, torch.ones(1, 1)), 0.5 ** (1 / DISPLAY_GAMMA) * white)
    torch.testing.assert_close(picture(0.5 * white, torch.full((1, 1), 0.5)), 0.5 * white)  # half of a white thing
    nothing = picture(torch.zeros(1, 1, 3), torch.zeros(1, 1))
    assert torch.equal(nothing, torch.zeros(1, 1, 3))
