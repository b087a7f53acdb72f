"""The refiner `smooth`: grain goes, edges stay."""

import pytest
import torch
from helpers.views import make_view

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners.base import RenderedView
from skyfall_ns.refiners.bilateral import SmoothRefinerConfig
from skyfall_ns.refiners.bilateral_options import SmoothOptions
from skyfall_ns.refiners.registry import RefinerOptions

CPU = torch.device("cpu")


def refined(image: torch.Tensor, tmp_path, **options: float) -> torch.Tensor:
    view = make_view()
    view = RenderedView("000", image, view.valid, view.depth_m, view.camera, 0)
    with SmoothRefinerConfig(SmoothOptions(**options)).load(CPU, tmp_path) as refine:
        (answer,) = refine([view])
    return answer


def grainy(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A dark half beside a bright one, clean and with grain."""
    clean = torch.full((64, 64, 3), 0.2)
    clean[:, 32:] = 0.8
    return clean, (clean + 0.04 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def test_grain_goes_and_edges_stay(tmp_path):
    clean, noisy = grainy()
    answer = refined(noisy, tmp_path)
    assert answer.shape == clean.shape and answer.dtype == torch.float32
    assert (answer - clean).square().mean() < 0.1 * (noisy - clean).square().mean()
    edge = (answer[:, 32] - answer[:, 31]).mean()
    assert edge == pytest.approx(0.6, abs=0.02)
    assert torch.equal(refined(noisy, tmp_path), answer)


def test_even_pictures_stay_as_they_are(tmp_path):
    even = torch.full((64, 64, 3), 0.37)
    torch.testing.assert_close(refined(even, tmp_path), even, atol=1e-5, rtol=0)


def test_options_change_pictures_and_the_identity(tmp_path):
    _, noisy = grainy()
    assert not torch.equal(refined(noisy, tmp_path, reach_px=1.0), refined(noisy, tmp_path, reach_px=5.0))
    configs = [RefinerOptions("smooth", SmoothOptions(reach_px=reach)).choose() for reach in (1.0, 5.0)]
    assert configs[0].identity() != configs[1].identity() and configs[0].identity()["name"] == "smooth"
    assert configs[0].generative is False


@pytest.mark.parametrize(("name", "value"), [("colour", 0.0), ("colour", 1.5), ("reach_px", 0.1), ("reach_px", 99.0),
                                             ("colour", float("nan"))])  # fmt: skip
def test_bad_numbers_are_named(name, value):
    flag = name.replace("_", "-")
    with pytest.raises(TrainingError, match=rf"--pipeline\.refiner\.smooth\.{flag} {value} .*\. Pass a number above"):
        SmoothRefinerConfig(SmoothOptions(**{name: value})).check()
