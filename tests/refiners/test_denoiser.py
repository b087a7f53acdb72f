"""The refiner `denoiser`: starts as the identity, learns to denoise from noisy images, is trained once per episode."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.views import make_view

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners import denoiser
from skyfall_ns.refiners.base import RenderedView
from skyfall_ns.refiners.denoiser import NETWORK_FILE, DenoiserRefinerConfig, train_network
from skyfall_ns.refiners.denoiser_network import Denoiser
from skyfall_ns.refiners.denoiser_options import DenoiserOptions
from skyfall_ns.refiners.denoiser_pairs import ImagePair, write_pair

CPU = torch.device("cpu")
SHORT_TRAINING = DenoiserOptions(steps=3, width=4, crop_px=16, batch=2)
NOISE = 0.1


def add_noise(clean: torch.Tensor, seed: int) -> torch.Tensor:
    return (clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def make_view_from_image(image: torch.Tensor) -> RenderedView:
    template = make_view(height=image.shape[0], width=image.shape[1])
    return RenderedView("000", image, template.valid, template.depth_m, template.camera, 0)


def make_pairs(count: int) -> list[ImagePair]:
    """Pairs for Noise2Noise: no image is clean."""
    pairs = []
    for seed in range(count):
        clean = make_view(seed).image
        pairs.append(ImagePair(add_noise(clean, 100 + seed), add_noise(clean, 200 + seed), torch.ones(clean.shape[:2])))
    return pairs


@pytest.fixture
def episode(tmp_path):
    """An episode directory with two pairs."""
    for number, pair in enumerate(make_pairs(2)):
        write_pair(tmp_path / "pairs", f"view_{number:03d}", pair)
    return tmp_path


def refine_image(episode, image: torch.Tensor, options: DenoiserOptions = SHORT_TRAINING) -> torch.Tensor:
    with DenoiserRefinerConfig(options).load(CPU, episode) as refine:
        (denoised,) = refine([make_view_from_image(image)])
    return denoised


@pytest.fixture
def trainings(monkeypatch):
    """A list with one entry per training."""
    calls, train = [], train_network
    monkeypatch.setattr(denoiser, "train_network", lambda *arguments: (calls.append(1), train(*arguments)))
    return calls


def test_an_untrained_network_is_the_identity():
    image = torch.rand(1, 3, 16, 24)
    for seed in (0, 1):
        network = Denoiser(8, seed)
        torch.testing.assert_close(network(image), image, atol=0, rtol=0)
        assert any(p.abs().sum() > 0 for p in network.fine.parameters())  # it can be trained


def test_training_on_noisy_pairs_removes_noise():
    options = DenoiserOptions(steps=100, width=8, crop_px=32, batch=4, rate=5e-3)
    network = Denoiser(options.width, options.seed)
    train_network(network, make_pairs(6), options)
    clean = make_view(50).image  # not among the pairs
    image = add_noise(clean, 7)
    with torch.no_grad():
        denoised = network(image.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    before, after = ((p - clean).square().mean().item() for p in (image, denoised))
    assert after < before / 3, f"{before:.5f} -> {after:.5f}"


def test_pixels_without_weight_are_ignored():
    """Where the weight is 0 the second image has no influence."""
    clean = make_view(0).image
    weight = torch.zeros(64, 64)
    weight[:, :32] = 1
    other = clean.clone()
    other[:, 32:] = 1 - other[:, 32:]
    networks = []
    for second in (clean, other):
        network = Denoiser(4)
        train_network(network, [ImagePair(add_noise(clean, 3), second, weight)], SHORT_TRAINING)
        networks.append(network.state_dict())
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_satellite_share_is_the_fraction_of_crops(share):
    black, white, weight = torch.zeros(32, 32, 3), torch.ones(32, 32, 3), torch.ones(32, 32)
    pairs = [ImagePair(white, white, weight, True), ImagePair(black, black, weight), ImagePair(black, black, weight)]
    options = replace(SHORT_TRAINING, satellite_share=share)
    crops = denoiser._CropSampler(pairs, options, torch.Generator().manual_seed(0))
    fraction = torch.stack([crops.draw_batch()[0].mean() for _ in range(300)]).mean().item()
    assert fraction == pytest.approx(share, abs=0.05)


def test_images_smaller_than_a_crop_and_of_odd_size(tmp_path):
    clean = make_view(0, height=13, width=18).image
    write_pair(tmp_path / "pairs", "view_000", ImagePair(add_noise(clean, 1), add_noise(clean, 2), torch.ones(13, 18)))
    denoised = refine_image(tmp_path, clean)
    assert denoised.shape == clean.shape and torch.isfinite(denoised).all()


def test_training_is_deterministic(episode, tmp_path_factory, trainings):
    image, random_state = make_view(9).image, (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])
    denoised = refine_image(episode, image)
    assert torch.equal(torch.get_rng_state(), random_state[0]) and random.getstate() == random_state[1]
    assert (np.random.get_state()[1] == random_state[2]).all()
    assert torch.equal(denoised, refine_image(episode, image)) and len(trainings) == 1  # the trained network is kept
    first = (episode / NETWORK_FILE).read_bytes()
    (episode / NETWORK_FILE).unlink()
    torch.manual_seed(77)
    assert torch.equal(denoised, refine_image(episode, image)) and len(trainings) == 2
    assert (episode / NETWORK_FILE).read_bytes() == first
    assert not torch.equal(denoised, image)


def test_strength_blends_render_and_output(episode):
    image = make_view(9).image
    full, half, none = (refine_image(episode, image, replace(SHORT_TRAINING, strength=s)) for s in (1.0, 0.5, 0.0))
    assert torch.equal(none, image)
    torch.testing.assert_close(half, 0.5 * (full + image), atol=1e-6, rtol=0)


def test_other_pairs_or_options_train_again(episode, trainings):
    image = make_view(9).image
    refine_image(episode, image)
    refine_image(episode, image, replace(SHORT_TRAINING, seed=1))
    refine_image(episode, image, replace(SHORT_TRAINING, seed=1))
    assert len(trainings) == 2
    write_pair(episode / "pairs", "view_000", make_pairs(3)[2])
    refine_image(episode, image, replace(SHORT_TRAINING, seed=1))
    assert len(trainings) == 3


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "list", "other"])
def test_a_damaged_network_is_trained_again(episode, trainings, damage):
    image = make_view(9).image
    expected, file = refine_image(episode, image), episode / NETWORK_FILE
    content = file.read_bytes()
    if damage == "list":
        torch.save([1], file)
    elif damage == "other":
        torch.save({"key": "of another", "network": {}}, file)
    else:
        file.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"no network"}[damage])
    assert torch.equal(refine_image(episode, image), expected) and len(trainings) == 2
    assert file.read_bytes() == content


def test_missing_pairs_are_an_error(tmp_path):
    config = DenoiserRefinerConfig(SHORT_TRAINING)
    with pytest.raises(TrainingError, match=r"has no training pairs"), config.load(CPU, tmp_path):
        pass


@pytest.mark.parametrize(("name", "value"), [("pairs", 0), ("steps", 0), ("width", 6), ("width", 0), ("rate", 0.0),
                                             ("rate", float("nan")), ("crop_px", 18), ("crop_px", 8), ("batch", 0),
                                             ("satellite_share", 1.1), ("strength", -0.1)])  # fmt: skip
def test_options_out_of_range_are_refused_by_flag(name, value):
    flag = name.replace("_", "-")
    with pytest.raises(TrainingError, match=rf"--pipeline\.refiner\.denoiser\.{flag} is {value}\. Pass"):
        DenoiserRefinerConfig(DenoiserOptions(**{name: value})).check()
    DenoiserRefinerConfig(DenoiserOptions()).check()
