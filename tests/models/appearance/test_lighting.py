"""Image formation: closed forms of irradiance, gamma encoding, appearances and their interpolation."""

import math

import pytest
import torch

from skyfall_ns.models.appearance.fit_appearance import fit_appearance
from skyfall_ns.models.appearance.lighting import (
    LINEAR_BELOW,
    AppearanceModel,
    apply_sensor_model,
    encode_premultiplied,
    gamma_decode,
    gamma_encode,
    normals_from_quats,
    relative_irradiance,
)
from skyfall_ns.scene.scene import DISPLAY_GAMMA

SUN = (0.6, 0.0, 0.8)
AMBIENT = torch.tensor([0.2, 0.3, 0.4])


def test_level_ground_in_the_sun_keeps_its_color():
    up, sun_visibility = torch.tensor([[0.0, 0.0, 1.0]]), torch.ones(1)
    torch.testing.assert_close(relative_irradiance(up, sun_visibility, SUN, AMBIENT), torch.ones(1, 3))
    torch.testing.assert_close(relative_irradiance(None, sun_visibility, SUN, AMBIENT), torch.ones(1, 3))


def test_irradiance_of_walls_and_shadows_follows_the_formula():
    normals = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0], [0, 0, 1.0]])
    light = relative_irradiance(normals, torch.tensor([1.0, 1.0, 0.0]), SUN, AMBIENT)
    level = AMBIENT + 0.8
    expected = torch.stack([(0.6 * AMBIENT + 0.6) / level, 0.6 * AMBIENT / level, AMBIENT / level])
    torch.testing.assert_close(light, expected)


def test_gamma_encoding_is_inverted_and_black_keeps_a_gradient():
    colors = torch.linspace(0.06, 1.3, 20)
    torch.testing.assert_close(gamma_encode(gamma_decode(colors)), colors)
    dark = torch.tensor([0.0, -0.01, LINEAR_BELOW / 2], requires_grad=True)
    gamma_encode(dark).sum().backward()
    slope = LINEAR_BELOW ** (1 / DISPLAY_GAMMA - 1) / DISPLAY_GAMMA
    torch.testing.assert_close(dark.grad, torch.full((3,), slope))
    near = gamma_encode(torch.tensor([LINEAR_BELOW * (1 - 1e-3), LINEAR_BELOW * (1 + 1e-3)]))
    assert near[1] - near[0] == pytest.approx(2e-3 * LINEAR_BELOW * slope, rel=0.02)  # no jump


def test_whites_stay_white_and_keep_their_gradient():
    colors = torch.full((1, 3), 1.4, requires_grad=True)
    out = gamma_encode(apply_sensor_model(colors, None, AppearanceModel([None], decoder=None).image_appearance(0)))
    out.sum().backward()
    torch.testing.assert_close(out.detach(), colors.detach())
    torch.testing.assert_close(colors.grad, torch.ones(1, 3))


def test_interpolation_goes_from_one_appearance_to_the_other():
    appearance_model = AppearanceModel([SUN, None], decoder="linear")
    with torch.no_grad():
        appearance_model.log_gain[0], appearance_model.log_gain[1] = 0.2, -0.2
    first, second = appearance_model.image_appearance(0), appearance_model.image_appearance(1)
    for share, gain, sun in ((0.0, 0.2, SUN), (0.25, 0.1, SUN), (0.75, -0.1, None), (1.0, -0.2, None)):
        interpolated = first.lerp(second, share)
        torch.testing.assert_close(interpolated.log_gain, torch.full((3,), gain), atol=1e-7, rtol=0)
        assert interpolated.sun == sun
    middle = first.lerp(second, 0.5)
    for name, value in appearance_model.reference_appearance().learnable_tensors().items():
        torch.testing.assert_close(value, middle.learnable_tensors()[name])


def test_the_reference_appearance_is_the_mean_of_the_reference_images():
    appearance_model = AppearanceModel([SUN, None, None], "linear", reference_images=(1, 2))
    with torch.no_grad():
        for number, value in enumerate(appearance_model.parameters()):
            value.copy_(torch.arange(value.numel()).view(value.shape) + number)
    reference = appearance_model.reference_appearance(SUN)
    assert reference.sun == SUN
    for name, value in reference.learnable_tensors().items():
        torch.testing.assert_close(
            value,
            (
                appearance_model.image_appearance(1).learnable_tensors()[name]
                + appearance_model.image_appearance(2).learnable_tensors()[name]
            )
            / 2,
        )


def test_free_views_have_the_mean_sun_of_the_reference_images():
    appearance_model = AppearanceModel([SUN, (0.0, 0.6, 0.8), None, (0.0, 0.0, 1.0)], None, reference_images=(0, 1, 2))
    length = math.hypot(0.6, 0.6, 1.6)
    assert appearance_model.free_view_appearance().sun == pytest.approx((0.6 / length, 0.6 / length, 1.6 / length))
    assert AppearanceModel([None, SUN], None, reference_images=(0,)).free_view_appearance().sun is None


def test_normals_are_the_third_axes():
    half = math.sqrt(0.5)
    quats = torch.tensor([[1.0, 0, 0, 0], [2 * half, 0, 2 * half, 0], [half, half, 0, 0]])  # turned about y, about x
    torch.testing.assert_close(
        normals_from_quats(quats), torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]]), atol=1e-6, rtol=0
    )


def test_an_appearance_is_recovered_from_half_of_an_image():
    torch.manual_seed(0)
    appearance_model = AppearanceModel([None], decoder=None)
    albedo = torch.rand(32, 40, 3)
    with torch.no_grad():
        appearance_model.log_gain[0] = torch.tensor([0.3, -0.2, 0.1])
        appearance_model.path_radiance[0] = torch.tensor([0.02, 0.04, 0.08])
    target = gamma_encode(apply_sensor_model(albedo, None, appearance_model.image_appearance(0))).detach()
    mask = torch.zeros(32, 40, 1)
    mask[:, :20] = 1
    start = AppearanceModel([None], decoder=None).image_appearance(0)
    half_target = torch.where(mask > 0, target, torch.rand_like(target))
    fitted = fit_appearance(
        lambda appearance: gamma_encode(apply_sensor_model(albedo, None, appearance)), start, half_target, mask
    )
    error = (gamma_encode(apply_sensor_model(albedo, None, fitted)) - target)[:, 20:].abs().mean()
    assert error < 0.1 * (gamma_encode(apply_sensor_model(albedo, None, start)) - target)[:, 20:].abs().mean()
    assert not fitted.log_gain.requires_grad


def test_light_is_blended_before_it_is_encoded():
    """Half of the light of white over black is encoded as 0.73, not as 0.5."""
    white = torch.ones(1, 1, 3)
    torch.testing.assert_close(encode_premultiplied(0.5 * white, torch.ones(1, 1)), 0.5 ** (1 / DISPLAY_GAMMA) * white)
    torch.testing.assert_close(
        encode_premultiplied(0.5 * white, torch.full((1, 1), 0.5)), 0.5 * white
    )  # white, half covered
    nothing = encode_premultiplied(torch.zeros(1, 1, 3), torch.zeros(1, 1))
    assert torch.equal(nothing, torch.zeros(1, 1, 3))
