"""The refiner `bilateral`: removes noise and keeps edges."""

import pytest
import torch
from helpers.views import make_view

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners.base import RenderedView
from skyfall_ns.refiners.bilateral import BilateralRefinerConfig
from skyfall_ns.refiners.bilateral_options import BilateralOptions
from skyfall_ns.refiners.registry import RefinerOptions

CPU = torch.device("cpu")


def refine_image(image: torch.Tensor, tmp_path, **options: float) -> torch.Tensor:
    view = make_view()
    view = RenderedView("000", image, view.valid, view.depth_m, view.camera, 0)
    with BilateralRefinerConfig(BilateralOptions(**options)).load(CPU, tmp_path) as refine:
        (refined,) = refine([view])
    return refined


def noisy_edge(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A dark and a bright half, without and with noise."""
    clean = torch.full((64, 64, 3), 0.2)
    clean[:, 32:] = 0.8
    return clean, (clean + 0.04 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def test_noise_is_removed_and_edges_are_kept(tmp_path):
    clean, noisy = noisy_edge()
    refined = refine_image(noisy, tmp_path)
    assert refined.shape == clean.shape and refined.dtype == torch.float32
    assert (refined - clean).square().mean() < 0.1 * (noisy - clean).square().mean()
    edge = (refined[:, 32] - refined[:, 31]).mean()
    assert edge == pytest.approx(0.6, abs=0.02)
    assert torch.equal(refine_image(noisy, tmp_path), refined)


def test_uniform_images_are_unchanged(tmp_path):
    uniform = torch.full((64, 64, 3), 0.37)
    torch.testing.assert_close(refine_image(uniform, tmp_path), uniform, atol=1e-5, rtol=0)


def test_options_change_images_and_the_identity(tmp_path):
    _, noisy = noisy_edge()
    assert not torch.equal(refine_image(noisy, tmp_path, reach_px=1.0), refine_image(noisy, tmp_path, reach_px=5.0))
    configs = [RefinerOptions("bilateral", BilateralOptions(reach_px=reach)).build() for reach in (1.0, 5.0)]
    assert configs[0].identity() != configs[1].identity() and configs[0].identity()["name"] == "bilateral"
    assert configs[0].generative is False


@pytest.mark.parametrize(("name", "value"), [("color", 0.0), ("color", 1.5), ("reach_px", 0.1), ("reach_px", 99.0),
                                             ("color", float("nan"))])  # fmt: skip
def test_options_out_of_range_are_refused_by_flag(name, value):
    flag = rf"--pipeline\.refiner\.bilateral\.{name.replace('_', '-')}"
    with pytest.raises(TrainingError, match=rf"{flag} is {value}\. Pass a number above"):
        BilateralRefinerConfig(BilateralOptions(**{name: value})).check()
