"""Episode and training view of each step: shares are exact and evenly spread."""

from collections import Counter

import pytest

from skyfall_ns.idu.schedule import EpisodeSchedule, EpisodeWindow, source_episode, synthetic_index


def test_every_step_of_stage_2_has_a_window():
    schedule = EpisodeSchedule(10, (3, 1, 4))
    assert schedule.end_step == 18
    expected = (
        [None] * 10
        + [EpisodeWindow(1, 10, 3)] * 3
        + [EpisodeWindow(2, 13, 1)]
        + [EpisodeWindow(3, 14, 4)] * 4
        + [None] * 3
    )
    assert [schedule.window_at(step) for step in range(21)] == expected
    assert EpisodeSchedule(0, (2,)).window_at(0) == EpisodeWindow(1, 0, 2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9, 1.0])
def test_synthetic_views_have_their_exact_share_at_any_step(share):
    indices = [synthetic_index(step, share) for step in range(200)]
    synthetic = [index for index in indices if index is not None]
    assert synthetic == list(range(len(synthetic)))  # none is omitted or repeated
    for step in range(1, 201):
        assert abs(sum(index is not None for index in indices[:step]) - step * share) < 1


def test_decay_0_uses_the_present_episode_only():
    assert {source_episode(index, 4, 0.0) for index in range(300)} == {4}
    assert {source_episode(index, 1, decay) for index in range(300) for decay in (0.0, 0.5, 1.0)} == {1}


@pytest.mark.parametrize(("decay", "shares"), [(0.5, (1 / 7, 2 / 7, 4 / 7)), (1.0, (1 / 3, 1 / 3, 1 / 3))])
def test_earlier_episodes_have_their_share_at_any_time(decay, shares):
    for first in (0, 77, 5000):
        counts = Counter(source_episode(index, 3, decay) for index in range(first, first + 210))
        for episode, share in enumerate(shares, 1):
            assert counts[episode] == pytest.approx(210 * share, abs=4)
