"""Training of stage 2: the planned steps, the images of each step, and the files that a run leaves."""

import copy
from collections import Counter
from unittest.mock import patch

import pytest
from helpers.idu_runs import (
    END_STEP,
    EPISODE_STEPS,
    STAGE1_STEPS,
    TINY,
    VIEW_NAMES,
    make_config,
    open_episodes,
    read_checkpoint,
    set_up_trainer,
    train,
)

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.synthetic_views import SyntheticViews
from skyfall_ns.pipelines.depth_supervision import DepthSupervision
from skyfall_ns.pipelines.idu_pipeline import IduPipeline
from skyfall_ns.priors.pseudo_cameras import PseudoSchedule
from skyfall_ns.scene.scene import Scene


@pytest.mark.slow
def test_run_ends_at_planned_step_with_all_episodes(city_scene, tmp_path):
    config = make_config(city_scene, tmp_path, "plain", synthetic_share=0.75, replay_decay=0.0)
    with patch.object(SyntheticViews, "draw_view", autospec=True, side_effect=SyntheticViews.draw_view) as draw_view:
        trainer = train(config)
    assert read_checkpoint(config)["step"] == END_STEP - 1 == trainer.step
    assert Counter(call.args[0].seed for call in draw_view.call_args_list) == {1: 6, 2: 6}  # three of four steps
    highest = max(sun for _, _, sun in trainer.pipeline.model.normalized.sun_directions)
    assert trainer.pipeline.model.normalized.sun_directions[trainer.pipeline._appearance_image][2] == highest
    episodes = open_episodes(config)
    assert [episode.path.name for episode in episodes] == ["episode_01", "episode_02"]
    for store, elevation in zip(episodes, TINY.elevations_deg, strict=True):
        assert store.view_names == VIEW_NAMES and store.episode.elevation_deg == elevation
        assert not (store.missing_renders() or store.missing_refined() or store.missing_weights())
        assert store.manifest.refiner == {"name": "identity"} and store.manifest.generative is False
        assert store.placement_summary() == "4 of 4 views"
        assert {"raw", "refined"} <= store.manifest.consistency.keys()
        assert {"render", "refine", "weights"} <= store.manifest.phases.keys()
        for name in VIEW_NAMES:
            assert store.image_path("refined", name).read_bytes() == store.image_path("render", name).read_bytes()
            assert store.rendered_view(name).valid.float().mean() > 0.3
    resumed = copy.deepcopy(config)
    resumed.load_dir, resumed.timestamp = config.get_checkpoint_dir(), "longer"
    with pytest.raises(TrainingError, match=rf"has already done {END_STEP} of {END_STEP} steps"):
        set_up_trainer(resumed)


def test_run_ends_earlier_with_fewer_iterations(city_scene, tmp_path):
    config = make_config(city_scene, tmp_path, "short")
    config.max_num_iterations = STAGE1_STEPS + 3
    train(config)
    assert read_checkpoint(config)["step"] == STAGE1_STEPS + 2 and len(open_episodes(config)) == 1


def test_earlier_episodes_are_replayed_by_replay_decay(city_scene, tmp_path):
    config = make_config(city_scene, tmp_path, "replay", replay_decay=1.0, synthetic_share=1.0, stage1_steps=1)
    with patch.object(SyntheticViews, "draw_view", autospec=True, side_effect=SyntheticViews.draw_view) as draw_view:
        train(config)
    sources = [call.args[0].seed for call in draw_view.call_args_list]
    assert sources[:EPISODE_STEPS] == [1] * EPISODE_STEPS
    assert sources[EPISODE_STEPS:].count(1) == pytest.approx(EPISODE_STEPS / 2, abs=1)


def test_depth_supervision_ends_with_stage_1(city_scene, tmp_path):
    config = make_config(city_scene, tmp_path, "depth")
    config.pipeline.depth.prior = "surface"
    config.pipeline.depth.schedule = PseudoSchedule(start=0, end=500, interval=1, ramp=0, size_px=32, stack=2)
    step_losses = DepthSupervision.step_losses
    with patch.object(DepthSupervision, "step_losses", autospec=True, side_effect=step_losses) as mock:
        trainer = train(config)
    assert [call.args[2] for call in mock.call_args_list] == list(range(STAGE1_STEPS))
    assert trainer.pipeline.depth_supervision is None  # its memory is free


def test_shadow_maps_of_renders_are_not_reused_in_training(city_scene, tmp_path):
    """A resumed run does not have them."""
    cached_maps, get_losses = [], IduPipeline.get_train_loss_dict

    def count_cached_maps(pipeline, step):
        cached_maps.append(len(pipeline.model.renderer.shadow_maps._maps))
        return get_losses(pipeline, step)

    with patch.object(IduPipeline, "get_train_loss_dict", count_cached_maps):
        train(make_config(city_scene, tmp_path, "shadows"))
    starts = [STAGE1_STEPS, STAGE1_STEPS + EPISODE_STEPS]
    assert [step for step in range(1, END_STEP) if not cached_maps[step]] == starts


@pytest.mark.parametrize("excluded", [0, 1])
def test_renders_have_the_appearance_of_the_highest_sun_of_the_reference_images(city_scene, tmp_path, excluded):
    images = [image for image in Scene.from_directory(city_scene).images if image.split == "train"]
    lowest_first = sorted(images, key=lambda image: image.sun_direction[2])
    reference = [image.name for image in lowest_first[: len(images) - excluded]]
    config = make_config(city_scene, tmp_path, "appearance")
    if excluded:
        config.pipeline.model.reference_images = tuple(reference)
    pipeline = set_up_trainer(config).pipeline
    assert pipeline.model.normalized.image_names[pipeline._appearance_image] == reference[-1]
