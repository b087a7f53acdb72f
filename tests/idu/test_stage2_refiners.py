"""Refiners in runs of stage 2: a filter, the denoiser, another refiner after a resume, and external refinement."""

from unittest.mock import patch

import pytest
import torch
from helpers.checkpoints import assert_identical
from helpers.idu_runs import (
    EPISODE_STEPS,
    VIEW_NAMES,
    VIEWS,
    CountingRefiner,
    SimulatedKill,
    kill_at,
    kill_in_second_episode,
    make_config,
    open_episodes,
    read_checkpoint,
    read_run_episodes,
    resume_config,
    set_up_trainer,
    train,
)

from skyfall_ns.errors import SkyfallError
from skyfall_ns.idu.synthetic_views import SyntheticViews
from skyfall_ns.refiners import denoiser
from skyfall_ns.refiners.bilateral import BilateralRefinerConfig
from skyfall_ns.refiners.denoiser_options import DenoiserOptions
from skyfall_ns.refiners.options import DiffusionOptions
from skyfall_ns.refiners.registry import RefinerOptions

pytestmark = pytest.mark.slow

TINY_DENOISER = DenoiserOptions(pairs=2, steps=5, width=4, crop_px=16, batch=2)


def test_refined_images_are_those_of_the_filter(city_scene, tmp_path):
    config = make_config(city_scene, tmp_path, "bilateral", refiner="bilateral", stage1_steps=1)
    config.max_num_iterations = 2
    train(config)
    (store,) = open_episodes(config)
    with BilateralRefinerConfig().load(torch.device("cpu"), store.path) as refine:
        for name, image in zip(VIEW_NAMES, refine(store.rendered_views(VIEW_NAMES)), strict=True):
            assert (store.read_refined(name) - image).abs().max() <= 0.5 / 255 + 1e-6
            assert not torch.equal(store.read_refined(name), store.rendered_view(name).image)


@pytest.mark.parametrize("name", ["identity", "denoiser"])
def test_resumed_run_with_another_refiner_trains_on_its_images(city_scene, tmp_path, name):
    """And not on the negatives of the previous refiner."""
    resumed = resume_config(kill_in_second_episode(city_scene, tmp_path, CountingRefiner()), "resumed")
    resumed.pipeline.refiner = RefinerOptions(name, denoiser=TINY_DENOISER)
    resumed.pipeline.replay_decay = 0.0
    with patch.object(SyntheticViews, "draw_view", autospec=True, side_effect=SyntheticViews.draw_view) as draw_view:
        train(resumed)
    _, store = open_episodes(resumed)
    assert store.manifest.refiner["name"] == name and not store.missing_weights()
    images = draw_view.call_args_list[0].args[0].images
    for image, view in zip(images, store.rendered_views(VIEW_NAMES), strict=True):
        assert (image.float() / 255 - view.image).abs().mean() < 0.05  # no negative


def test_denoiser_is_trained_once_per_episode(city_scene, tmp_path):
    """Killed after its second image, a run does not train it again, and ends as an uninterrupted run."""

    def make_denoiser_config(name):
        config = make_config(city_scene, tmp_path, name)
        config.pipeline.refiner = RefinerOptions("denoiser", denoiser=TINY_DENOISER)
        return config

    uninterrupted, killed_in_refinement, killed_in_pairs = map(make_denoiser_config, ("uninterrupted", "late", "early"))
    with patch.object(denoiser, "train_network", side_effect=denoiser.train_network) as train_network:
        train(uninterrupted)
        assert train_network.call_count == 2
        with pytest.raises(SimulatedKill), kill_at("refined", VIEWS + 2):
            train(killed_in_refinement)
        with pytest.raises(SimulatedKill), kill_at("pairs", 4):
            train(killed_in_pairs)
        assert train_network.call_count == 4
        for config in (killed_in_refinement, killed_in_pairs):
            resumed = resume_config(config, f"{config.timestamp}_resumed")
            train(resumed, seed=5)
            assert read_run_episodes(resumed) == read_run_episodes(uninterrupted)
            assert_identical(read_checkpoint(resumed), read_checkpoint(uninterrupted))
        assert train_network.call_count == 6
    for store in open_episodes(resumed):
        assert store.manifest.refiner["name"] == "denoiser" and store.manifest.generative is False
        assert len(list((store.path / "pairs").glob("view_*_first.png"))) == 2


def test_missing_weights_are_reported_before_training(city_scene, tmp_path):
    pytest.importorskip("diffusers", reason="the extra `diffusion` is not installed")
    config = make_config(city_scene, tmp_path, "missing")
    config.pipeline.refiner = RefinerOptions("flowedit", diffusion=DiffusionOptions(model=str(tmp_path / "nothing")))
    with pytest.raises(SkyfallError, match=r"nothing is not on this machine: .*\. Pass a directory with a diffusers"):
        set_up_trainer(config)


def test_external_refinement_needs_no_weights(city_scene, tmp_path):
    """And images of any refiner are trained on as they are."""
    config = make_config(city_scene, tmp_path, "first", external_refinement=True, stage1_steps=1)
    config.pipeline.refiner = RefinerOptions("flowedit", diffusion=DiffusionOptions(model="nowhere/nothing"))
    config.max_num_iterations = 1 + EPISODE_STEPS
    with pytest.raises(SystemExit, match=f"{VIEWS} of its {VIEWS} views wait to be refined"):
        train(config)
    (store,) = open_episodes(config)
    assert RefinerOptions.from_dict(store.manifest.refiner_options) == config.pipeline.refiner
    store.set_refiner({"name": "flowedit"}, True)
    for name in VIEW_NAMES[1:]:
        store.write_refined(name, 1 - store.rendered_view(name).image)
    with pytest.raises(SystemExit, match=f"1 of its {VIEWS} views wait"):
        train(resume_config(config, "second"))
    store.write_refined(VIEW_NAMES[0], 1 - store.rendered_view(VIEW_NAMES[0]).image)
    resumed = resume_config(config, "third")
    resumed.max_num_iterations = 1 + EPISODE_STEPS
    train(resumed)
    (after,) = open_episodes(resumed)
    assert after.manifest.refiner == {"name": "flowedit"} and after.manifest.generative is True
    for name in VIEW_NAMES:
        assert after.image_path("refined", name).read_bytes() == store.image_path("refined", name).read_bytes()
