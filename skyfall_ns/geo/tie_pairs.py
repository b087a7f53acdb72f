"""Which pairs of images to match: as many as images, not as pairs, by view direction, date and overlap.

A pair's cost is the negative logarithm of how many ties it promises, in parts of the best. Matches of all 45 pairs of
ten dates over a city (WorldView-3, nine months) fall by a factor e with 35 degrees between the view directions, or 140
days of season (least squares, R² 0.6); of two dates seven years apart, by e to e² (Pléiades).
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
from skyfall_ns.geo.tie_matching import POINTING_PX

Pair = tuple[int, int]

ANGLE_DEG, SEASON_DAYS, YEARS = 35.0, 140.0, 5.0  # each costs a factor e of the ties
YEAR_DAYS = 365.25
PARTNERS = 6  # of an image, on average at most: with 4 to 8, shifts differ by 0.05 px (ten images of ten dates)
WIDE_DEG = 15.0  # pairs of nearer views say little about heights
FEW_TIES = 100  # that join an image, or a group of them, to the rest: with fewer, further pairs are matched


@dataclass(frozen=True)
class PairGraph:
    """What each pair of images promises: `costs` is infinite where images do not overlap, and on the diagonal."""

    costs: Float64[ndarray, "k k"]
    angles_deg: Float64[ndarray, "k k"]


def pair_graph(
    rpcs: Sequence[RPC],
    sizes: Sequence[tuple[int, int]],
    height_range_m: tuple[float, float],
    acquired: Sequence[str | None],
) -> PairGraph:
    """Costs of all pairs from RPCs, sizes (width, height) and dates (ISO 8601; None costs nothing)."""
    angles = _angles_deg(_view_directions(rpcs, sizes, height_range_m))
    shares = _overlap_shares(rpcs, sizes, height_range_m)
    shares = np.maximum(shares, shares.T)  # a small image can lie between the pixels sampled of a large one
    np.fill_diagonal(shares, 0.0)
    with np.errstate(divide="ignore"):
        costs = angles / ANGLE_DEG + _date_costs(acquired) - np.log(shares)
    return PairGraph(costs, angles)


def select_pairs(graph: PairGraph, partners: int = PARTNERS) -> list[Pair]:
    """The pairs to match first, cheapest first: two spanning trees without a common pair, a wide pair per image, and
    the cheapest of the rest while both images have fewer than `partners`."""
    order = _cheapest_first(graph.costs)
    chosen: set[Pair] = set()
    for _ in range(2):
        chosen |= _spanning_tree(graph.costs, chosen)
    for image in range(len(graph.costs)):
        wide = [p for p in order if image in p and graph.angles_deg[p] >= WIDE_DEG]
        if wide and not chosen.intersection(wide):
            chosen.add(wide[0])
    degree = np.bincount(np.array(list(chosen), int).ravel(), minlength=len(graph.costs))
    for pair in order:
        if pair not in chosen and max(degree[list(pair)]) < partners:
            chosen.add(pair)
            degree[list(pair)] += 1
    return [pair for pair in order if pair in chosen]


def further_pairs(
    graph: PairGraph, tried: set[Pair], seen: Bool[ndarray, "n k"], partners: int = PARTNERS
) -> list[Pair]:
    """Pairs that may tie what hangs on fewer than FEW_TIES ties to the rest: per image the cheapest not yet tried.

    `seen` marks the images in which each tie was found. Empty where all is tied well, or nothing is left to try.
    """
    group = tied_groups(seen, FEW_TIES)
    left = [p for p in _cheapest_first(graph.costs) if p not in tried and group[p[0]] != group[p[1]]]
    degree = np.zeros(len(graph.costs), int)
    chosen = []
    for pair in left:
        if min(degree[list(pair)]) < partners:
            chosen.append(pair)
            degree[list(pair)] += 1
    return chosen


def tied_groups(seen: Bool[ndarray, "n k"], ties: int) -> Int[ndarray, " k"]:
    """A group number per image: groups are joined while at least so many ties are seen in both."""
    group = np.arange(seen.shape[1])
    while True:
        members = np.eye(group.max() + 1, dtype=int)[group]
        in_group = (seen.astype(int) @ members > 0).astype(int)
        joined = connected_components(in_group.T @ in_group >= ties, directed=False)[1]
        if joined.max() == group.max():
            return group
        group = joined[group]


def _cheapest_first(costs: Float64[ndarray, "k k"]) -> list[Pair]:
    """All pairs (i < j) of images that overlap."""
    first, second = np.nonzero(np.triu(np.isfinite(costs), 1))
    order = np.argsort(costs[first, second], kind="stable")
    return list(zip(first[order].tolist(), second[order].tolist(), strict=True))


def _spanning_tree(costs: Float64[ndarray, "k k"], without: set[Pair]) -> set[Pair]:
    """The cheapest pairs that connect what can be connected, without given ones."""
    pairs = np.array([p for p in _cheapest_first(costs) if p not in without], int).reshape(-1, 2)
    weights = 1.0 + costs[pairs[:, 0], pairs[:, 1]] - np.min(costs)  # a weight of zero would be no edge
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
    frame = LocalFrame.at(ends[0, 0])
    directions = np.diff(frame.from_geodetic(ends.reshape(-1, 3)).reshape(-1, 2, 3), axis=1)[:, 0]
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _angles_deg(directions: Float64[ndarray, "k 3"]) -> Float64[ndarray, "k k"]:
    """Angles between unit vectors, in degrees."""
    return np.degrees(np.arccos(np.clip(directions @ directions.T, -1.0, 1.0)))


def _date_costs(acquired: Sequence[str | None]) -> Float64[ndarray, "k k"]:
    """What the time between two images costs: their seasons and their years; nothing where a date is unknown."""
    days = np.array([np.nan if a is None else datetime.fromisoformat(a).toordinal() for a in acquired], float)
    apart = np.abs(days[:, None] - days)
    season = np.minimum(apart % YEAR_DAYS, YEAR_DAYS - apart % YEAR_DAYS)
    return np.nan_to_num(season / SEASON_DAYS + apart / YEAR_DAYS / YEARS, nan=0.0)


def _overlap_shares(rpcs, sizes, height_range_m: tuple[float, float]) -> Float64[ndarray, "k k"]:
    """Share of image i's pixels (a grid of 9 x 9) that can appear in image j at a height of the range."""
    steps = np.linspace(0, 1, 129)[:, None, None]
    shares = np.zeros((len(rpcs), len(rpcs)))
    for i, (rpc, (width, height)) in enumerate(zip(rpcs, sizes, strict=True)):
        grid = np.stack(np.meshgrid(np.linspace(0, width - 1, 9), np.linspace(0, height - 1, 9)), -1).reshape(-1, 2)
        ends = [rpc.localize(grid, h) for h in height_range_m]
        for j, (other, size) in enumerate(zip(rpcs, sizes, strict=True)):
            low, high = (other.project(end) for end in ends)
            along = low * (1 - steps) + high * steps
            inside = ((along > -POINTING_PX) & (along < np.array(size) + POINTING_PX)).all(axis=-1)
            shares[i, j] = inside.any(axis=0).mean()
    return shares
