"""One tone curve for all images: percentiles of valid pixels, gamma, and images without one."""

import numpy as np
import pytest

from skyfall_ns.errors import RasterError
from skyfall_ns.processing.tone_mapping import MID_GRAY, check_gamma, fit_tone, median_gamma
from skyfall_ns.scene.scene import DISPLAY_GAMMA


def random_images():
    generator = np.random.default_rng(1)
    return [generator.normal(m, 50, (60, 70, 3)).round().astype(np.uint16) for m in (500, 700)]


def test_percentiles_are_common_and_of_valid_pixels_only():
    images = random_images()
    masks = [np.ones((60, 70), bool), np.ones((60, 70), bool)]
    images[0][:20], masks[0][:20] = 60000, False
    tone = fit_tone(images, masks)
    valid = np.concatenate([image[mask] for image, mask in zip(images, masks, strict=True)]).astype(float)
    np.testing.assert_allclose(tone.low, np.percentile(valid, 0.5, axis=0))
    np.testing.assert_allclose(tone.high, np.percentile(valid, 99.5, axis=0))


def test_tone_curve_is_monotonic_from_0_to_1():
    tone = fit_tone(random_images(), [np.ones((60, 70), bool)] * 2)
    ramp = np.repeat(np.arange(0, 1500, dtype=np.uint16)[:, None], 3, 1)
    values = tone.apply_curve(ramp)
    assert (np.diff(values, axis=0) >= 0).all() and values[0].max() == 0 and values[-1].min() == 1
    middle = np.round(0.5 * (np.add(tone.low, tone.high)))
    np.testing.assert_allclose(tone.apply_curve(middle.astype(np.uint16)), 0.5 ** (1 / tone.gamma), atol=2e-3)


@pytest.mark.parametrize(
    ("bands", "valid", "spread", "message"),
    [((1, 3), True, 50, "some are in color"), ((3, 3), False, 50, "No pixel"), ((3, 3), True, 0, "no contrast")],
)
def test_images_without_a_tone_curve_are_refused(bands, valid, spread, message):
    generator = np.random.default_rng(0)
    images = [(500 + spread * generator.random((9, 9, n))).astype(np.uint16) for n in bands]
    with pytest.raises(RasterError, match=rf"{message}.*\. [A-Z].*\.$"):
        fit_tone(images, [np.full((9, 9), valid)] * 2)


def linear_and_encoded():
    """Reflectances as 11-bit digital numbers of a sensor, and gamma-encoded in 8 bits."""
    light = np.random.default_rng(2).beta(1.5, 8, (80, 90, 3))
    return (2047 * light).astype(np.uint16), np.round(255 * light ** (1 / DISPLAY_GAMMA)).astype(np.uint8)


def test_linear_images_are_gamma_encoded_and_encoded_ones_are_not_encoded_again():
    linear, encoded = linear_and_encoded()
    everywhere = np.ones(linear.shape[:2], bool)
    tone = fit_tone([linear], [everywhere])
    assert tone.gamma == DISPLAY_GAMMA
    tone_of_encoded = fit_tone([encoded], [everywhere])
    assert 1.0 <= tone_of_encoded.gamma < 1.4
    for values in (tone.apply_curve(linear), tone_of_encoded.apply_curve(encoded)):
        assert 90 <= 255 * np.median(values) <= 140
    assert np.median(fit_tone([encoded], [everywhere], DISPLAY_GAMMA).apply_curve(encoded)) > 0.6


def test_median_gamma_brings_the_median_to_mid_gray_and_never_darkens():
    bright = MID_GRAY**1.3
    assert median_gamma(bright) == pytest.approx(1.3)
    assert bright ** (1 / median_gamma(bright)) == pytest.approx(MID_GRAY)
    assert median_gamma(0.9) == median_gamma(1.0) == 1.0
    assert median_gamma(0.0) == median_gamma(0.1) == pytest.approx(DISPLAY_GAMMA)


def test_saturated_pixels_are_white_although_other_images_are_brighter():
    low, high = (np.full((20, 20, 3), v, np.uint16) for v in (300, 900))
    low[:10], high[:10] = 1023, 1500
    tone = fit_tone([low, high], [np.ones((20, 20), bool)] * 2, full_well=1023.0)
    assert (tone.apply_curve(low[:10]) == 1).all() and (tone.apply_curve(high[10:]) < 1).all()


@pytest.mark.parametrize("gamma", [0.0, -1.0, np.nan, np.inf])
def test_gamma_that_is_not_positive_is_refused(gamma):
    with pytest.raises(RasterError, match=r"--gamma .* is not a positive number\. Pass"):
        check_gamma(gamma)
