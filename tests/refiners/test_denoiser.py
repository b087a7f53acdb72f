"""The refiner `scene`: begins as the identity, learns from noise alone to leave it out, is trained once per episode."""

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.views import make_view

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners import denoiser
from skyfall_ns.refiners.base import RenderedView
from skyfall_ns.refiners.denoiser import NETWORK_FILE, SceneRefinerConfig, train_network
from skyfall_ns.refiners.denoiser_network import Denoiser
from skyfall_ns.refiners.denoiser_options import SceneOptions
from skyfall_ns.refiners.denoiser_pairs import Pair, write_pair

CPU = torch.device("cpu")
FEW = SceneOptions(steps=3, width=4, crop_px=16, batch=2)
NOISE = 0.1


def noisy(clean: torch.Tensor, seed: int) -> torch.Tensor:
    return (clean + NOISE * torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))).clamp(0, 1)


def view_of(image: torch.Tensor) -> RenderedView:
    made = make_view(height=image.shape[0], width=image.shape[1])
    return RenderedView("000", image, made.valid, made.depth_m, made.camera, 0)


def pairs_of(number: int) -> list[Pair]:
    """Noise2Noise: no picture is clean."""
    pairs = []
    for seed in range(number):
        clean = make_view(seed).image
        pairs.append(Pair(noisy(clean, 100 + seed), noisy(clean, 200 + seed), torch.ones(clean.shape[:2])))
    return pairs


@pytest.fixture
def episode(tmp_path):
    """A folder with two pairs."""
    for number, pair in enumerate(pairs_of(2)):
        write_pair(tmp_path / "pairs", f"view_{number:03d}", pair)
    return tmp_path


def refined(episode, image: torch.Tensor, options: SceneOptions = FEW) -> torch.Tensor:
    with SceneRefinerConfig(options).load(CPU, episode) as refine:
        (answer,) = refine([view_of(image)])
    return answer


@pytest.fixture
def trainings(monkeypatch):
    """One entry per training."""
    seen, train = [], train_network
    monkeypatch.setattr(denoiser, "train_network", lambda *given: (seen.append(1), train(*given)))
    return seen


def test_a_new_network_changes_nothing():
    picture = torch.rand(1, 3, 16, 24)
    for seed in (0, 1):
        network = Denoiser(8, seed)
        torch.testing.assert_close(network(picture), picture, atol=0, rtol=0)
        assert any(p.abs().sum() > 0 for p in network.fine.parameters())  # but it can learn


def test_noise_alone_teaches_to_leave_noise_out():
    options = SceneOptions(steps=100, width=8, crop_px=32, batch=4, rate=5e-3)
    network = Denoiser(options.width, options.seed)
    train_network(network, pairs_of(6), options)
    clean = make_view(50).image  # not among the pairs
    picture = noisy(clean, 7)
    with torch.no_grad():
        answer = network(picture.permute(2, 0, 1)[None])[0].permute(1, 2, 0)
    before, after = ((p - clean).square().mean().item() for p in (picture, answer))
    assert after < before / 3, f"{before:.5f} -> {after:.5f}"


def test_weights_hide_pixels():
    """Where the weight is 0 the second picture may say anything."""
    clean = make_view(0).image
    weight = torch.zeros(64, 64)
    weight[:, :32] = 1
    lie = clean.clone()
    lie[:, 32:] = 1 - lie[:, 32:]
    networks = []
    for second in (clean, lie):
        network = Denoiser(4)
        train_network(network, [Pair(noisy(clean, 3), second, weight)], FEW)
        networks.append(network.state_dict())
    assert all(torch.equal(networks[0][name], networks[1][name]) for name in networks[0])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_satellites_have_their_share_of_the_crops(share):
    black, white, weight = torch.zeros(32, 32, 3), torch.ones(32, 32, 3), torch.ones(32, 32)
    pairs = [Pair(white, white, weight, True), Pair(black, black, weight), Pair(black, black, weight)]
    crops = denoiser._Crops(pairs, replace(FEW, satellite_share=share), torch.Generator().manual_seed(0))
    drawn = torch.stack([crops.draw()[0].mean() for _ in range(300)]).mean().item()
    assert drawn == pytest.approx(share, abs=0.05)


def test_pictures_smaller_than_a_crop_and_of_odd_sizes(tmp_path):
    clean = make_view(0, height=13, width=18).image
    write_pair(tmp_path / "pairs", "view_000", Pair(noisy(clean, 1), noisy(clean, 2), torch.ones(13, 18)))
    answer = refined(tmp_path, clean)
    assert answer.shape == clean.shape and torch.isfinite(answer).all()


def test_training_is_deterministic(episode, tmp_path_factory, trainings):
    picture, random_state = make_view(9).image, (torch.get_rng_state(), random.getstate(), np.random.get_state()[1])
    answer = refined(episode, picture)
    assert torch.equal(torch.get_rng_state(), random_state[0]) and random.getstate() == random_state[1]
    assert (np.random.get_state()[1] == random_state[2]).all()
    assert torch.equal(answer, refined(episode, picture)) and len(trainings) == 1  # the trained network is kept
    first = (episode / NETWORK_FILE).read_bytes()
    (episode / NETWORK_FILE).unlink()
    torch.manual_seed(77)
    assert torch.equal(answer, refined(episode, picture)) and len(trainings) == 2
    assert (episode / NETWORK_FILE).read_bytes() == first
    assert not torch.equal(answer, picture)


def test_strength_is_how_far_pictures_move(episode):
    picture = make_view(9).image
    whole, half, none = (refined(episode, picture, replace(FEW, strength=s)) for s in (1.0, 0.5, 0.0))
    assert torch.equal(none, picture)
    torch.testing.assert_close(half, 0.5 * (whole + picture), atol=1e-6, rtol=0)


def test_other_pairs_and_options_train_anew(episode, trainings):
    picture = make_view(9).image
    refined(episode, picture)
    refined(episode, picture, replace(FEW, seed=1))
    refined(episode, picture, replace(FEW, seed=1))
    assert len(trainings) == 2
    write_pair(episode / "pairs", "view_000", pairs_of(3)[2])
    refined(episode, picture, replace(FEW, seed=1))
    assert len(trainings) == 3


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "list", "other"])
def test_a_damaged_network_is_trained_anew(episode, trainings, damage):
    picture = make_view(9).image
    expected, file = refined(episode, picture), episode / NETWORK_FILE
    content = file.read_bytes()
    if damage == "list":
        torch.save([1], file)
    elif damage == "other":
        torch.save({"key": "of another", "network": {}}, file)
    else:
        file.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"no network"}[damage])
    assert torch.equal(refined(episode, picture), expected) and len(trainings) == 2
    assert file.read_bytes() == content


def test_without_pairs_it_says_so(tmp_path):
    config = SceneRefinerConfig(FEW)
    with pytest.raises(TrainingError, match=r"holds no pairs"), config.load(CPU, tmp_path):
        pass


@pytest.mark.parametrize(("name", "value"), [("pairs", 0), ("steps", 0), ("width", 6), ("width", 0), ("rate", 0.0),
                                             ("rate", float("nan")), ("crop_px", 18), ("crop_px", 8), ("batch", 0),
                                             ("satellite_share", 1.1), ("strength", -0.1)])  # fmt: skip
def test_bad_numbers_are_named(name, value):
    flag = name.replace("_", "-")
    with pytest.raises(TrainingError, match=rf"--pipeline\.refiner\.scene\.{flag} {value} trains no network\. Pass"):
        SceneRefinerConfig(SceneOptions(**{name: value})).check()
    SceneRefinerConfig(SceneOptions()).check()
