"""One tone for all images: percentiles of usable pixels, and what cannot be toned."""

import numpy as np
import pytest

from skyfall_ns.data.tone import GAMMA, fit_tone
from skyfall_ns.errors import RasterError


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
    assert tone.gamma == GAMMA == 2.2


def test_toning_keeps_order_and_its_ends():
    tone = fit_tone(images(), [np.ones((60, 70), bool)] * 2)
    ramp = np.repeat(np.arange(0, 1500, dtype=np.uint16)[:, None], 3, 1)
    values = tone.apply(ramp)
    assert (np.diff(values, axis=0) >= 0).all() and values[0].max() == 0 and values[-1].min() == 1
    middle = np.round(0.5 * (np.add(tone.low, tone.high)))
    np.testing.assert_allclose(tone.apply(middle.astype(np.uint16)), 0.5 ** (1 / 2.2), atol=2e-3)


@pytest.mark.parametrize(
    ("bands", "usable", "spread", "message"),
    [((1, 3), True, 50, "some are in colour"), ((3, 3), False, 50, "No pixel"), ((3, 3), True, 0, "no contrast")],
)
def test_what_cannot_be_toned_is_said(bands, usable, spread, message):
    generator = np.random.default_rng(0)
    pictures = [(500 + spread * generator.random((9, 9, n))).astype(np.uint16) for n in bands]
    with pytest.raises(RasterError, match=rf"{message}.*\. [A-Z].*\.$"):
        fit_tone(pictures, [np.full((9, 9), usable)] * 2)
