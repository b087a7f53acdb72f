"""Selection of image pairs: few, doubly connected, similar in direction and season, more for weakly tied images."""

import numpy as np
import pytest
from helpers.plane_views import linear_rpc
from scipy.sparse.csgraph import connected_components

from skyfall_ns.geo.tie_pairs import (
    MAX_PARTNERS,
    MIN_LINKING_TIE_POINTS,
    WIDE_ANGLE_DEG,
    PairGraph,
    pair_graph,
    select_further_pairs,
    select_tie_pairs,
    tie_point_groups,
)


def random_graph(count: int, seed: int) -> PairGraph:
    """Random view directions within 30 degrees of the zenith, and days of a year."""
    rng = np.random.default_rng(seed)
    leans = rng.uniform(-1.2, 1.2, (count, 2))
    days = [f"20{rng.integers(14, 17)}-{rng.integers(1, 13):02d}-{rng.integers(1, 29):02d}" for _ in range(count)]
    return pair_graph([linear_rpc(tuple(lean)) for lean in leans], [(600, 600)] * count, (100.0, 140.0), days)


def is_connected(pairs, count: int) -> bool:
    links = np.zeros((count, count))
    for i, j in pairs:
        links[i, j] = 1
    return connected_components(links, directed=False)[0] == 1


@pytest.mark.parametrize("count", [9, 19, 40])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pairs_grow_with_images_and_stay_connected_without_any_one_pair(count, seed):
    graph = random_graph(count, seed)
    pairs = select_tie_pairs(graph)
    assert len(set(pairs)) == len(pairs) and all(i < j for i, j in pairs)
    assert len(pairs) <= 0.55 * MAX_PARTNERS * count
    degree = np.bincount(np.ravel(pairs), minlength=count)
    assert degree.min() >= 2 and degree.max() <= MAX_PARTNERS + 3
    for removed in pairs:
        assert is_connected([p for p in pairs if p != removed], count)
    for image in range(count):  # heights need angles
        wide = [p for p in pairs if image in p and graph.angles_deg[p] >= WIDE_ANGLE_DEG]
        assert wide or graph.angles_deg[image].max() < WIDE_ANGLE_DEG
    share = {9: 1.0, 19: 0.75, 40: 0.6}[count]  # the more pairs to choose from, the cheaper the selected ones
    assert np.mean([graph.costs[p] for p in pairs]) < share * graph.costs[np.isfinite(graph.costs)].mean()


def test_few_images_are_all_matched_with_each_other():
    pairs = select_tie_pairs(random_graph(MAX_PARTNERS + 1, 3))
    assert len(pairs) == MAX_PARTNERS * (MAX_PARTNERS + 1) // 2


def test_similar_directions_and_seasons_are_preferred():
    rpcs = [linear_rpc(lean) for lean in ((0.0, 0.0), (0.1, 0.0), (1.0, 0.0), (0.0, 0.0), (0.0, 0.0))]
    days = ["2015-06-01", "2015-06-11T10:00:00", "2015-06-01", "2015-12-01", "2016-06-02"]
    costs = pair_graph(rpcs, [(600, 600)] * 5, (100.0, 140.0), days).costs
    near, wide, winter, next_year = costs[0, 1:]
    assert near < next_year < wide and near < next_year < winter
    np.testing.assert_allclose(costs, costs.T)
    unknown = pair_graph(rpcs, [(600, 600)] * 5, (100.0, 140.0), [None, *days[1:]]).costs
    assert unknown[0, 3] == pytest.approx(0.0, abs=1e-6)  # an unknown date has no cost


def test_overlap_is_relative_to_the_smaller_image_and_images_without_overlap_are_not_paired():
    rpc = linear_rpc((0.0, 0.0))
    tiny = rpc.for_crop(310, 310)  # between the sampled pixels of the large one
    sizes = [(600, 600), (40, 40), (600, 600), (600, 600)]
    rpcs = [rpc, tiny, rpc.for_crop(300, 0), rpc.for_crop(5000, 0)]
    costs = pair_graph(rpcs, sizes, (100.0, 140.0), [None] * 4).costs
    assert costs[0, 1] == pytest.approx(0.0, abs=1e-6) and 0.3 < costs[0, 2] < 0.7
    assert np.isinf(costs[3]).all() and np.isinf(np.diag(costs)).all()
    pairs = select_tie_pairs(pair_graph(rpcs, sizes, (100.0, 140.0), [None] * 4))
    assert sorted(pairs) == [(0, 1), (0, 2), (1, 2)]


def test_an_image_with_few_tie_points_gets_further_pairs_until_none_is_left():
    graph = random_graph(12, 4)
    matched = set(select_tie_pairs(graph))
    observed = np.ones((3 * MIN_LINKING_TIE_POINTS, 12), bool)
    assert select_further_pairs(graph, matched, observed) == []
    observed[MIN_LINKING_TIE_POINTS - 1 :, 7] = False
    further = select_further_pairs(graph, matched, observed, partners=2)
    assert len(further) >= 2 and all(7 in pair for pair in further) and not matched.intersection(further)
    cheapest = min((p for p in np.ndindex(12, 12) if p[0] < p[1] and 7 in p and p not in matched), key=graph.costs.item)
    assert further[0] == cheapest
    while further:
        matched |= set(further)
        further = select_further_pairs(graph, matched, observed, partners=2)
    assert {p for p in matched if 7 in p} == {tuple(sorted((7, k))) for k in range(12) if k != 7}


def test_two_weakly_connected_halves_are_only_matched_with_each_other():
    graph = random_graph(10, 5)
    matched = set(select_tie_pairs(graph))
    observed = np.zeros((400, 10), bool)
    observed[:200, :5], observed[200:, 5:] = True, True
    observed[:50] = True
    further = select_further_pairs(graph, matched, observed)
    assert further and all(i < 5 <= j for i, j in further)


def test_tie_points_of_a_group_are_counted_together():
    observed = np.zeros((60, 3), bool)
    observed[:, 2] = True
    observed[:30, 0], observed[30:, 1] = True, True
    observed[:15, 1] = True
    assert len(set(tie_point_groups(observed, 40))) == 2  # 30, 45 and 15 shared tie points: 1 and 2 first
    assert len(set(tie_point_groups(observed, 30))) == 1
    observed[:, 2], observed[:40, :2] = [True] * 30 + [False] * 30, True
    observed[40:, 0] = observed[40:, 1] = False
    assert len(set(tie_point_groups(observed, 41))) == 3
