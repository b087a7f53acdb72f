"""Which step belongs to which episode, and what it looks at: shares are exact, and spread evenly."""

from collections import Counter

import pytest

from skyfall_ns.idu.schedule import Round, EpisodeSchedule, episode_turn, synthetic_turn


def test_every_step_has_its_episode():
    rounds = EpisodeSchedule(10, (3, 1, 4))
    assert rounds.end == 18
    expected = [None] * 10 + [Round(1, 10, 3)] * 3 + [Round(2, 13, 1)] + [Round(3, 14, 4)] * 4 + [None] * 3
    assert [rounds.window_at(step) for step in range(21)] == expected
    assert EpisodeSchedule(0, (2,)).window_at(0) == Round(1, 0, 2)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.75, 0.9, 1.0])
def test_synthetic_views_have_exactly_their_share_of_the_steps_at_any_time(share):
    turns = [synthetic_turn(step, share) for step in range(200)]
    synthetic = [turn for turn in turns if turn is not None]
    assert synthetic == list(range(len(synthetic)))  # none is left out, none comes twice
    for step in range(1, 201):
        assert abs(sum(turn is not None for turn in turns[:step]) - step * share) < 1


def test_without_memory_all_views_are_the_present_episodes():
    assert {episode_turn(turn, 4, 0.0) for turn in range(300)} == {4}
    assert {episode_turn(turn, 1, kept) for turn in range(300) for kept in (0.0, 0.5, 1.0)} == {1}


@pytest.mark.parametrize(("kept", "shares"), [(0.5, (1 / 7, 2 / 7, 4 / 7)), (1.0, (1 / 3, 1 / 3, 1 / 3))])
def test_earlier_episodes_have_their_share_early_and_late(kept, shares):
    for first in (0, 77, 5000):
        counts = Counter(episode_turn(turn, 3, kept) for turn in range(first, first + 210))
        for episode, share in enumerate(shares, 1):
            assert counts[episode] == pytest.approx(210 * share, abs=4)
