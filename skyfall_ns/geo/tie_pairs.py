"""Selection of the image pairs to match for tie points, by view direction, date and overlap.

The number of pairs grows with the number of images, not of all pairs. The cost of a pair is the negative logarithm of
its expected number of tie points, relative to the best pair. Matches of all 45 pairs of ten dates over a city
(WorldView-3, nine months) fall by a factor e with 35 degrees between the view directions, or 140 days of season (least
squares, R² 0.6); those of two dates seven years apart fall by e to e² (Pléiades).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from jaxtyping import Bool, Float64, Int
from numpy import ndarray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components, minimum_spanning_tree

from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.tie_matching import MAX_POINTING_ERROR_PX

Pair = tuple[int, int]

ANGLE_SCALE_DEG, SEASON_SCALE_DAYS, YEAR_SCALE = 35.0, 140.0, 5.0  # each reduces the tie points by a factor e
YEAR_DAYS = 365.25
MAX_PARTNERS = 6  # of an image, on average: with 4 to 8, offsets differ by 0.05 px (ten images of ten dates)
WIDE_ANGLE_DEG = 15.0  # pairs with smaller angles determine heights poorly
MIN_LINKING_TIE_POINTS = 100  # between an image or a group of images and the rest: with fewer, more pairs are matched


@dataclass(frozen=True)
class PairGraph:
    """Matching costs and angles of all pairs of images; `costs` is infinite without overlap and on the diagonal."""

    costs: Float64[ndarray, "k k"]
    angles_deg: Float64[ndarray, "k k"]


def pair_graph(
    rpcs: Sequence[RPC],
    sizes: Sequence[tuple[int, int]],
    height_range_m: tuple[float, float],
    acquired: Sequence[str | None],
) -> PairGraph:
    """Costs of all pairs from RPCs, sizes (width, height) and dates (ISO 8601; None has no cost)."""
    angles = _pairwise_angles_deg(_view_directions(rpcs, sizes, height_range_m))
    fractions = _overlap_fractions(rpcs, sizes, height_range_m)
    fractions = np.maximum(fractions, fractions.T)  # a small image can lie between the sampled pixels of a large one
    np.fill_diagonal(fractions, 0.0)
    with np.errstate(divide="ignore"):
        costs = angles / ANGLE_SCALE_DEG + _date_costs(acquired) - np.log(fractions)
    return PairGraph(costs, angles)


def select_tie_pairs(graph: PairGraph, partners: int = MAX_PARTNERS) -> list[Pair]:
    """Select the pairs to match first, in the order of their costs.

    They are two spanning trees without a common pair, one wide-angle pair per image, and the cheapest other pairs while
    both images have fewer than `partners`.
    """
    order = _sort_by_cost(graph.costs)
    chosen: set[Pair] = set()
    for _ in range(2):
        chosen |= _minimum_spanning_tree(graph.costs, chosen)
    for image in range(len(graph.costs)):
        wide = [p for p in order if image in p and graph.angles_deg[p] >= WIDE_ANGLE_DEG]
        if wide and not chosen.intersection(wide):
            chosen.add(wide[0])
    degree = np.bincount(np.array(list(chosen), int).ravel(), minlength=len(graph.costs))
    for pair in order:
        if pair not in chosen and max(degree[list(pair)]) < partners:
            chosen.add(pair)
            degree[list(pair)] += 1
    return [pair for pair in order if pair in chosen]


def select_further_pairs(
    graph: PairGraph, matched: set[Pair], observed: Bool[ndarray, "n k"], partners: int = MAX_PARTNERS
) -> list[Pair]:
    """Select more pairs for images with fewer than MIN_LINKING_TIE_POINTS to the rest: the cheapest not yet matched.

    `observed` is True for the images in which each tie point was found. The list is empty if all images are well
    connected, or if no pair is left.
    """
    group_of_image = tie_point_groups(observed, MIN_LINKING_TIE_POINTS)
    candidates = [
        p for p in _sort_by_cost(graph.costs) if p not in matched and group_of_image[p[0]] != group_of_image[p[1]]
    ]
    degree = np.zeros(len(graph.costs), int)
    chosen = []
    for pair in candidates:
        if min(degree[list(pair)]) < partners:
            chosen.append(pair)
            degree[list(pair)] += 1
    return chosen


def tie_point_groups(observed: Bool[ndarray, "n k"], min_shared: int) -> Int[ndarray, " k"]:
    """Group number of each image: groups are joined while at least `min_shared` tie points are observed in both."""
    group_of_image = np.arange(observed.shape[1])
    while True:
        members = np.eye(group_of_image.max() + 1, dtype=int)[group_of_image]
        observed_by_group = (observed.astype(int) @ members > 0).astype(int)
        joined_groups = connected_components(observed_by_group.T @ observed_by_group >= min_shared, directed=False)[1]
        if joined_groups.max() == group_of_image.max():
            return group_of_image
        group_of_image = joined_groups[group_of_image]


def _sort_by_cost(costs: Float64[ndarray, "k k"]) -> list[Pair]:
    """All pairs (i < j) of overlapping images, cheapest first."""
    first, second = np.nonzero(np.triu(np.isfinite(costs), 1))
    order = np.argsort(costs[first, second], kind="stable")
    return list(zip(first[order].tolist(), second[order].tolist(), strict=True))


def _minimum_spanning_tree(costs: Float64[ndarray, "k k"], excluded: set[Pair]) -> set[Pair]:
    """The cheapest pairs, other than `excluded`, that connect all images that can be connected."""
    pairs = np.array([p for p in _sort_by_cost(costs) if p not in excluded], int).reshape(-1, 2)
    weights = 1.0 + costs[pairs[:, 0], pairs[:, 1]] - np.min(costs)  # a weight of zero would not be an edge
    tree = minimum_spanning_tree(coo_matrix((weights, pairs.T), shape=costs.shape)).tocoo()
    return {(int(min(p)), int(max(p))) for p in zip(tree.row, tree.col, strict=True)}


def _view_directions(rpcs, sizes, height_range_m: tuple[float, float]) -> Float64[ndarray, "k 3"]:
    """Unit vectors (east, north, up) from the ground at each image's center to the satellite."""
    ends = np.array(
        [
            rpc.localize((np.array(size) - 1.0) / 2, np.array(height_range_m))
            for rpc, size in zip(rpcs, sizes, strict=True)
        ]
    )
    frame = LocalFrame.at_point(ends[0, 0])
    directions = np.diff(frame.from_geodetic(ends.reshape(-1, 3)).reshape(-1, 2, 3), axis=1)[:, 0]
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _pairwise_angles_deg(directions: Float64[ndarray, "k 3"]) -> Float64[ndarray, "k k"]:
    """Angles between all unit vectors, degrees."""
    return np.degrees(np.arccos(np.clip(directions @ directions.T, -1.0, 1.0)))


def _date_costs(acquired: Sequence[str | None]) -> Float64[ndarray, "k k"]:
    """Cost of the time between two images, from their seasons and years; zero if a date is unknown."""
    days = np.array([np.nan if a is None else datetime.fromisoformat(a).toordinal() for a in acquired], float)
    difference_days = np.abs(days[:, None] - days)
    season = np.minimum(difference_days % YEAR_DAYS, YEAR_DAYS - difference_days % YEAR_DAYS)
    return np.nan_to_num(season / SEASON_SCALE_DAYS + difference_days / YEAR_DAYS / YEAR_SCALE, nan=0.0)


def _overlap_fractions(rpcs, sizes, height_range_m: tuple[float, float]) -> Float64[ndarray, "k k"]:
    """Fraction [i, j] of the pixels of image i (a grid of 9 x 9) that image j can contain at a height of the range."""
    steps = np.linspace(0, 1, 129)[:, None, None]
    fractions = np.zeros((len(rpcs), len(rpcs)))
    for i, (rpc, (width, height)) in enumerate(zip(rpcs, sizes, strict=True)):
        grid = np.stack(np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 9)), -1).reshape(-1, 2)
        ends = [rpc.localize(grid, h) for h in height_range_m]
        for j, (other, size) in enumerate(zip(rpcs, sizes, strict=True)):
            low, high = (other.project(end) for end in ends)
            along = low * (1 - steps) + high * steps
            inside = ((along > -MAX_POINTING_ERROR_PX) & (along < np.array(size) + MAX_POINTING_ERROR_PX)).all(axis=-1)
            fractions[i, j] = inside.any(axis=0).mean()
    return fractions
