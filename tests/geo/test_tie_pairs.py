"""Pairs of images to match: few, connected twice over, near in direction and season, more where an image is weak."""

import numpy as np
import pytest
from helpers.plane_views import linear_rpc
from scipy.sparse.csgraph import connected_components

from skyfall_ns.geo.tie_pairs import (
    FEW_TIES,
    PARTNERS,
    WIDE_DEG,
    PairGraph,
    further_pairs,
    pair_graph,
    select_pairs,
    tied_groups,
)


def graph_of(count: int, seed: int) -> PairGraph:
    """Random view directions within 30 degrees of the zenith, and days of a year."""
    g = np.random.default_rng(seed)
    leans = g.uniform(-1.2, 1.2, (count, 2))
    days = [f"20{g.integers(14, 17)}-{g.integers(1, 13):02d}-{g.integers(1, 29):02d}" for _ in range(count)]
    return pair_graph([linear_rpc(tuple(lean)) for lean in leans], [(600, 600)] * count, (100.0, 140.0), days)


def connected(pairs, count: int) -> bool:
    links = np.zeros((count, count))
    for i, j in pairs:
        links[i, j] = 1
    return connected_components(links, directed=False)[0] == 1


@pytest.mark.parametrize("count", [9, 19, 40])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pairs_grow_with_images_and_stay_connected_without_any_one_of_them(count, seed):
    graph = graph_of(count, seed)
    pairs = select_pairs(graph)
    assert len(set(pairs)) == len(pairs) and all(i < j for i, j in pairs)
    assert len(pairs) <= 0.55 * PARTNERS * count
    degree = np.bincount(np.ravel(pairs), minlength=count)
    assert degree.min() >= 2 and degree.max() <= PARTNERS + 3
    for left_out in pairs:
        assert connected([p for p in pairs if p != left_out], count)
    for image in range(count):  # heights need angles
        wide = [p for p in pairs if image in p and graph.angles_deg[p] >= WIDE_DEG]
        assert wide or graph.angles_deg[image].max() < WIDE_DEG
    share = {9: 1.0, 19: 0.75, 40: 0.6}[count]  # the more there are to choose from, the cheaper
    assert np.mean([graph.costs[p] for p in pairs]) < share * graph.costs[np.isfinite(graph.costs)].mean()


def test_few_images_are_all_matched_with_each_other():
    pairs = select_pairs(graph_of(PARTNERS + 1, 3))
    assert len(pairs) == PARTNERS * (PARTNERS + 1) // 2


def test_near_directions_and_seasons_are_preferred():
    rpcs = [linear_rpc(lean) for lean in ((0.0, 0.0), (0.1, 0.0), (1.0, 0.0), (0.0, 0.0), (0.0, 0.0))]
    days = ["2015-06-01", "2015-06-11T10:00:00", "2015-06-01", "2015-12-01", "2016-06-02"]
    costs = pair_graph(rpcs, [(600, 600)] * 5, (100.0, 140.0), days).costs
    near, wide, winter, next_year = costs[0, 1:]
    assert near < next_year < wide and near < next_year < winter
    np.testing.assert_allclose(costs, costs.T)
    unknown = pair_graph(rpcs, [(600, 600)] * 5, (100.0, 140.0), [None, *days[1:]]).costs
    assert unknown[0, 3] == pytest.approx(0.0, abs=1e-6)  # a date that is unknown costs nothing


def test_overlap_counts_the_smaller_image_and_none_is_no_pair():
    rpc = linear_rpc((0.0, 0.0))
    tiny = rpc.cropped(310, 310)  # between the pixels that are sampled of the large one
    sizes = [(600, 600), (40, 40), (600, 600), (600, 600)]
    rpcs = [rpc, tiny, rpc.cropped(300, 0), rpc.cropped(5000, 0)]
    costs = pair_graph(rpcs, sizes, (100.0, 140.0), [None] * 4).costs
    assert costs[0, 1] == pytest.approx(0.0, abs=1e-6) and 0.3 < costs[0, 2] < 0.7
    assert np.isinf(costs[3]).all() and np.isinf(np.diag(costs)).all()
    pairs = select_pairs(pair_graph(rpcs, sizes, (100.0, 140.0), [None] * 4))
    assert sorted(pairs) == [(0, 1), (0, 2), (1, 2)]


def test_an_image_on_few_ties_gets_further_pairs_until_none_is_left():
    graph = graph_of(12, 4)
    tried = set(select_pairs(graph))
    seen = np.ones((3 * FEW_TIES, 12), bool)
    assert further_pairs(graph, tried, seen) == []
    seen[FEW_TIES - 1 :, 7] = False
    more = further_pairs(graph, tried, seen, partners=2)
    assert len(more) >= 2 and all(7 in pair for pair in more) and not tried.intersection(more)
    cheapest = min((p for p in np.ndindex(12, 12) if p[0] < p[1] and 7 in p and p not in tried), key=graph.costs.item)
    assert more[0] == cheapest
    while more:
        tried |= set(more)
        more = further_pairs(graph, tried, seen, partners=2)
    assert {p for p in tried if 7 in p} == {tuple(sorted((7, k))) for k in range(12) if k != 7}


def test_two_halves_on_few_ties_are_tried_with_each_other_only():
    graph = graph_of(10, 5)
    tried = set(select_pairs(graph))
    seen = np.zeros((400, 10), bool)
    seen[:200, :5], seen[200:, 5:] = True, True
    seen[:50] = True
    more = further_pairs(graph, tried, seen)
    assert more and all(i < 5 <= j for i, j in more)


def test_ties_of_a_group_count_together():
    seen = np.zeros((60, 3), bool)
    seen[:, 2] = True
    seen[:30, 0], seen[30:, 1] = True, True
    seen[:15, 1] = True
    assert len(set(tied_groups(seen, 40))) == 2  # 30, 45 and 15 shared ties: 1 and 2 first
    assert len(set(tied_groups(seen, 30))) == 1
    seen[:, 2], seen[:40, :2] = [True] * 30 + [False] * 30, True
    seen[40:, 0] = seen[40:, 1] = False
    assert len(set(tied_groups(seen, 41))) == 3
