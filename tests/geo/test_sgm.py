"""Semi-global aggregation compared with a direct implementation."""

import numpy as np
import pytest

from skyfall_ns.geo.sgm import DIRECTIONS, aggregate_costs


def aggregate_reference(cost, small_step_penalty, large_step_penalty):
    """The recurrence of the paper, cell by cell."""
    height, width, depth = cost.shape
    aggregated_cost = np.zeros(cost.shape, int)
    for row_step, column_step in DIRECTIONS:
        path = np.zeros(cost.shape, int)
        for row in range(height)[:: row_step or 1]:
            for column in range(width)[:: column_step or 1]:
                r, c = row - row_step, column - column_step
                path[row, column] = cost[row, column]
                if not (0 <= r < height and 0 <= c < width):
                    continue
                previous = path[r, c]
                infinite = np.full(1, 10**6)
                below, above = (
                    np.concatenate([infinite, previous[:-1]]) + small_step_penalty,
                    np.concatenate([previous[1:], infinite]) + small_step_penalty,
                )
                jump = np.full(depth, previous.min() + large_step_penalty[row, column])
                path[row, column] += np.min([previous, below, above, jump], axis=0) - previous.min()
        aggregated_cost += path
    return aggregated_cost


@pytest.mark.parametrize("shape", [(7, 9, 21), (5, 1, 40), (1, 6, 3)])
def test_aggregation_equals_the_reference(shape):
    generator = np.random.default_rng(0)
    cost = generator.integers(0, 256, shape).astype(np.uint8)
    large_step_penalty = generator.integers(30, 400, shape[:2]).astype(np.int16)
    np.testing.assert_array_equal(
        aggregate_costs(cost, 20, large_step_penalty), aggregate_reference(cost, 20, large_step_penalty)
    )


def test_maximum_costs_do_not_overflow():
    cost = np.full((4, 4, 6), 255, np.uint8)
    cost[:, ::2, 0] = 0
    large_step_penalty = np.full((4, 4), 7744, np.int16)
    np.testing.assert_array_equal(
        aggregate_costs(cost, 7744, large_step_penalty), aggregate_reference(cost, 7744, large_step_penalty)
    )


def test_penalties_that_could_overflow_are_rejected():
    cost = np.zeros((2, 2, 2), np.uint8)
    for small_step_penalty, large_step_penalty in ((5, 8000), (50, 20)):
        with pytest.raises(ValueError, match="large_step_penalty must lie between"):
            aggregate_costs(cost, small_step_penalty, np.full((2, 2), large_step_penalty, np.int16))


def test_a_slope_is_recovered_from_noise():
    columns, depth = np.arange(60), 40
    truth = np.broadcast_to(5 + columns // 2, (40, 60))
    generator = np.random.default_rng(1)
    cost = generator.integers(60, 140, (40, 60, depth)).astype(np.uint8)
    informative = generator.uniform(size=truth.shape) < 0.4
    cost[informative, truth[informative]] = 20
    found = aggregate_costs(cost, 5, np.full(truth.shape, 120, np.int16)).argmin(axis=2)
    assert (np.abs(found - truth) <= 2).mean() > 0.95
    assert (np.abs(cost.argmin(axis=2) - truth) <= 2).mean() < 0.6
