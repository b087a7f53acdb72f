"""Semi-global aggregation against a plain reference."""

import numpy as np
import pytest

from skyfall_ns.geo.sgm import DIRECTIONS, aggregate


def reference(cost, p1, p2):
    """The recurrence as it is printed, cell by cell."""
    height, width, depth = cost.shape
    total = np.zeros(cost.shape, int)
    for row_step, column_step in DIRECTIONS:
        path = np.zeros(cost.shape, int)
        for row in range(height)[:: row_step or 1]:
            for column in range(width)[:: column_step or 1]:
                r, c = row - row_step, column - column_step
                path[row, column] = cost[row, column]
                if not (0 <= r < height and 0 <= c < width):
                    continue
                last = path[r, c]
                far = np.full(1, 10**6)
                below, above = np.concatenate([far, last[:-1]]) + p1, np.concatenate([last[1:], far]) + p1
                jump = np.full(depth, last.min() + p2[row, column])
                path[row, column] += np.min([last, below, above, jump], axis=0) - last.min()
        total += path
    return total


@pytest.mark.parametrize("shape", [(7, 9, 21), (5, 1, 40), (1, 6, 3)])
def test_equals_the_reference(shape):
    generator = np.random.default_rng(0)
    cost = generator.integers(0, 256, shape).astype(np.uint8)
    p2 = generator.integers(30, 400, shape[:2]).astype(np.int16)
    np.testing.assert_array_equal(aggregate(cost, 20, p2), reference(cost, 20, p2))


def test_the_largest_costs_do_not_overflow():
    cost = np.full((4, 4, 6), 255, np.uint8)
    cost[:, ::2, 0] = 0
    p2 = np.full((4, 4), 7744, np.int16)
    np.testing.assert_array_equal(aggregate(cost, 7744, p2), reference(cost, 7744, p2))


def test_penalties_that_would_overflow_are_refused():
    cost = np.zeros((2, 2, 2), np.uint8)
    for p1, p2 in ((5, 8000), (50, 20)):
        with pytest.raises(ValueError, match="p2 must lie between"):
            aggregate(cost, p1, np.full((2, 2), p2, np.int16))


def test_noise_gives_way_to_a_slope():
    columns, depth = np.arange(60), 40
    truth = np.broadcast_to(5 + columns // 2, (40, 60))
    generator = np.random.default_rng(1)
    cost = generator.integers(60, 140, (40, 60, depth)).astype(np.uint8)
    informative = generator.uniform(size=truth.shape) < 0.4
    cost[informative, truth[informative]] = 20
    found = aggregate(cost, 5, np.full(truth.shape, 120, np.int16)).argmin(axis=2)
    assert (np.abs(found - truth) <= 2).mean() > 0.95
    assert (np.abs(cost.argmin(axis=2) - truth) <= 2).mean() < 0.6
