"""One tone for all images: percentiles of usable pixels, and what cannot be toned."""

import numpy as np
import pytest

from skyfall_ns.errors import RasterError
from skyfall_ns.processing.tone_mapping import MID_GRAY, check_gamma, fit_tone, median_gamma
from skyfall_ns.scene.scene import DISPLAY_GAMMA


def images():
    generator = np.random.default_rng(1)
    return [generator.normal(m, 50, (60, 70, 3)).round().astype(np.uint16) for m in (500, 700)]


def test_percentiles_are_shared_and_of_usable_pixels_only():
    pictures = images()
    masks = [np.ones((60, 70), bool), np.ones((60, 70), bool)]
    pictures[0][:20], masks[0][:20] = 60000, False
    tone = fit_tone(pictures, masks)
    usable = np.concatenate([p[m] for p, m in zip(pictures, masks, strict=True)]).astype(float)
    np.testing.assert_allclose(tone.low, np.percentile(usable, 0.5, axis=0))
    np.testing.assert_allclose(tone.high, np.percentile(usable, 99.5, axis=0))


def test_toning_keeps_order_and_its_ends():
    tone = fit_tone(images(), [np.ones((60, 70), bool)] * 2)
    ramp = np.repeat(np.arange(0, 1500, dtype=np.uint16)[:, None], 3, 1)
    values = tone.apply(ramp)
    assert (np.diff(values, axis=0) >= 0).all() and values[0].max() == 0 and values[-1].min() == 1
    middle = np.round(0.5 * (np.add(tone.low, tone.high)))
    np.testing.assert_allclose(tone.apply(middle.astype(np.uint16)), 0.5 ** (1 / tone.gamma), atol=2e-3)


@pytest.mark.parametrize(
    ("bands", "usable", "spread", "message"),
    [((1, 3), True, 50, "some are in colour"), ((3, 3), False, 50, "No pixel"), ((3, 3), True, 0, "no contrast")],
)
def test_what_cannot_be_toned_is_said(bands, usable, spread, message):
    generator = np.random.default_rng(0)
    pictures = [(500 + spread * generator.random((9, 9, n))).astype(np.uint16) for n in bands]
    with pytest.raises(RasterError, match=rf"{message}.*\. [A-Z].*\.$"):
        fit_tone(pictures, [np.full((9, 9), usable)] * 2)


def linear_and_coded():
    """Reflectances as a sensor counts them in 11 bits, and as an 8-bit file for displays shows them."""
    light = np.random.default_rng(2).beta(1.5, 8, (80, 90, 3))
    return (2047 * light).astype(np.uint16), np.round(255 * light ** (1 / DISPLAY_GAMMA)).astype(np.uint8)


def test_numbers_that_follow_the_light_are_coded_for_displays_and_coded_ones_are_not_coded_again():
    linear, coded = linear_and_coded()
    everywhere = np.ones(linear.shape[:2], bool)
    tone = fit_tone([linear], [everywhere])
    assert tone.gamma == DISPLAY_GAMMA
    again = fit_tone([coded], [everywhere])
    assert 1.0 <= again.gamma < 1.4
    for values in (tone.apply(linear), again.apply(coded)):
        assert 90 <= 255 * np.median(values) <= 140
    assert np.median(fit_tone([coded], [everywhere], DISPLAY_GAMMA).apply(coded)) > 0.6


def test_gamma_brings_a_median_of_8_bits_to_mid_gray_and_never_darkens():
    bright = MID_GRAY**1.3
    assert median_gamma(bright) == pytest.approx(1.3)
    assert bright ** (1 / median_gamma(bright)) == pytest.approx(MID_GRAY)
    assert median_gamma(0.9) == median_gamma(1.0) == 1.0
    assert median_gamma(0.0) == median_gamma(0.1) == pytest.approx(DISPLAY_GAMMA)


def test_saturated_numbers_are_white_whatever_other_images_reach():
    low, high = (np.full((20, 20, 3), v, np.uint16) for v in (300, 900))
    low[:10], high[:10] = 1023, 1500
    tone = fit_tone([low, high], [np.ones((20, 20), bool)] * 2, full_well=1023.0)
    assert (tone.apply(low[:10]) == 1).all() and (tone.apply(high[10:]) < 1).all()


@pytest.mark.parametrize("gamma", [0.0, -1.0, np.nan, np.inf])
def test_a_gamma_that_is_none_is_said(gamma):
    with pytest.raises(RasterError, match=r"--gamma .* is not a positive number\. Pass"):
        check_gamma(gamma)
