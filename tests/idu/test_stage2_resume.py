"""Resuming of stage 2: a run that was killed in any phase ends as an uninterrupted one, and refines no image twice."""

from collections import Counter

import pytest
from helpers.checkpoints import assert_identical
from helpers.idu_runs import (
    EACH_IMAGE_ONCE,
    END_STEP,
    EPISODE_STEPS,
    STAGE1_STEPS,
    VIEWS,
    CountingRefiner,
    SimulatedKill,
    kill_at,
    kill_in_second_episode,
    make_densifying_config,
    open_episodes,
    read_checkpoint,
    read_run_episodes,
    resume_config,
    train,
    use_refiner,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def uninterrupted(city_scene, tmp_path_factory):
    """Last checkpoint and episodes of an uninterrupted run."""
    config = make_densifying_config(city_scene, tmp_path_factory.mktemp("runs"), "uninterrupted")
    refiner = CountingRefiner()
    with use_refiner(refiner):
        trainer = train(config)
    assert refiner.calls == EACH_IMAGE_ONCE
    count, initial_count = trainer.pipeline.model.num_points, trainer.pipeline.model.regularization.initial_count
    assert count > initial_count  # densification has state to lose
    return read_checkpoint(config), read_run_episodes(config)


KILLS = [
    ("step", STAGE1_STEPS - 1), ("checkpoint", 1), ("render", 1), ("depth", VIEWS + 2), ("refined", VIEWS),
    ("manifest", 4 * VIEWS + 4), ("manifest", 4 * VIEWS + 9), ("weight", 1), ("swap", 1), ("step", STAGE1_STEPS),
    ("step", STAGE1_STEPS + 5), ("step", STAGE1_STEPS + EPISODE_STEPS), ("step", END_STEP - 2),
]  # fmt: skip


@pytest.mark.parametrize(("event", "count"), KILLS)
def test_killed_run_resumes_exactly(uninterrupted, city_scene, tmp_path, event, count):
    """To the last bit, and without refining an image again that is complete."""
    expected, expected_episodes = uninterrupted
    config, refiner = make_densifying_config(city_scene, tmp_path, "killed"), CountingRefiner()
    with use_refiner(refiner), pytest.raises(SimulatedKill), kill_at(event, count):
        train(config)
    if event not in ("step", "checkpoint"):  # the Gaussians that were rendered are in the checkpoint
        assert read_checkpoint(config)["step"] + 1 in (STAGE1_STEPS, STAGE1_STEPS + EPISODE_STEPS)
    complete = {
        (store.path.name, name)
        for store in open_episodes(config)
        for name in store.view_names
        if name not in store.missing_refined()
    }
    resumed = resume_config(config, "resumed")
    calls_before = Counter(refiner.calls)
    with use_refiner(refiner):
        train(resumed, seed=5)
    assert read_run_episodes(resumed) == expected_episodes
    assert_identical(read_checkpoint(resumed), expected)
    assert all(refiner.calls[image] == calls_before[image] for image in complete)
    assert set(refiner.calls) == set(EACH_IMAGE_ONCE)
    assert sum(refiner.calls.values()) <= len(EACH_IMAGE_ONCE) + 1  # the one that was not written yet


def test_missing_and_truncated_images_are_made_again(uninterrupted, city_scene, tmp_path):
    expected, expected_episodes = uninterrupted
    config, refiner = kill_in_second_episode(city_scene, tmp_path, CountingRefiner()), CountingRefiner()
    idu = tmp_path / "city/skyfall-idu/killed/idu"
    (idu / "episode_02/refined/001.png").unlink()
    truncated = idu / "episode_02/refined/003.png"
    truncated.write_bytes(truncated.read_bytes()[:100])
    (idu / "episode_01/weight/000.png").write_bytes(b"")
    resumed = resume_config(config, "resumed")
    with use_refiner(refiner):
        train(resumed, seed=5)
    assert refiner.calls == {("episode_02", "001"): 1, ("episode_02", "003"): 1}
    assert read_run_episodes(resumed) == expected_episodes
    assert_identical(read_checkpoint(resumed), expected)


def test_load_checkpoint_resumes_like_load_dir(uninterrupted, city_scene, tmp_path):
    expected, expected_episodes = uninterrupted
    config, refiner = kill_in_second_episode(city_scene, tmp_path, CountingRefiner()), CountingRefiner()
    resumed = resume_config(config, "resumed")
    (resumed.load_checkpoint,), resumed.load_dir = resumed.load_dir.glob("*.ckpt"), None
    with use_refiner(refiner):
        train(resumed, seed=5)
    assert not refiner.calls and read_run_episodes(resumed) == expected_episodes
    assert_identical(read_checkpoint(resumed), expected)
