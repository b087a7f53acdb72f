"""Feature matching between two satellite images, guided by what their RPCs say about where a match can lie.

Vendor RPCs may point several pixels wrong, so the distance of a match across its epipolar line is not small at first,
but it is the same for all true matches of a pair: the mode of its histogram is the pointing error, and the gate is set
around the mode. The search is exact: features are sorted across the epipolar lines, and each block of them is compared
by one matrix product with those that its band can hold, which is an eighth of all.
"""

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int
from numpy import ndarray
from scipy.ndimage import gaussian_filter1d
from scipy.spatial import cKDTree

from skyfall_ns.geo.epipolar import epipolar_segments, segment_directions, transverse_px
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.tie_features import Features

RATIO = 0.8  # Lowe's ratio test
POINTING_PX = 40.0  # the largest pointing error between two images that is searched for
GATE_PX = 2.0  # half width of the epipolar band once the pointing error is known
MIN_MATCHES = 12  # fewer than this around the mode are chance
BLOCK = 256  # features of image a that are compared at once


def match_features(
    a: Features, b: Features, rpc_a: RPC, rpc_b: RPC, height_range_m: tuple[float, float]
) -> Int[ndarray, "n 2"]:
    """Indices of matching features: nearest within the largest pointing error, then gated around its mode."""
    if min(len(a.colrow), len(b.colrow)) < 2:
        return np.zeros((0, 2), int)
    segments = epipolar_segments(rpc_a, rpc_b, a.colrow, height_range_m)
    pairs = mutual_matches(a.descriptors, b.descriptors, segments, b.colrow)
    across, _ = transverse_px(segments[pairs[:, 0]], b.colrow[pairs[:, 1]])
    mode = _mode(across)
    return pairs[np.abs(across - mode) < GATE_PX] if mode is not None else pairs[:0]


def mutual_matches(
    descriptors_a: Float32[ndarray, "n d"],
    descriptors_b: Float32[ndarray, "m d"],
    segments: Float64[ndarray, "n 2 2"],
    points_b: Float64[ndarray, "m 2"],
) -> Int[ndarray, "k 2"]:
    """Mutual nearest neighbors that pass the ratio test among the features within POINTING_PX of their segments.

    The ratio is against all rivals within POINTING_PX, not only those near the line: fewer rivals let chance through
    (measured: 15 % more matches between dates, of which 65 % were false).
    """
    normal = _common_normal(segments)
    low, high = _band_limits(segments, normal)
    order_a, order_b = np.argsort(low + high, kind="stable"), np.argsort(points_b @ normal, kind="stable")
    points_b, descriptors_b = points_b[order_b], descriptors_b[order_b]
    position_b, twins = points_b @ normal, _twins(points_b)
    forward, distinct = np.zeros(len(segments), int), np.zeros(len(segments), bool)
    backward, best = np.full(len(points_b), -1), np.full(len(points_b), -np.inf)
    for block in np.array_split(order_a, -(-len(order_a) // BLOCK)):
        start, stop = np.searchsorted(position_b, (low[block].min(), high[block].max()))
        if start == stop:
            continue
        candidates = slice(start, stop)
        similarity = descriptors_a[block] @ descriptors_b[candidates].T
        similarity[~_allowed(segments[block], points_b[candidates])] = -1.0
        strongest = similarity.argmax(axis=0)
        value = similarity[strongest, np.arange(stop - start)]
        better = value > best[candidates]
        best[candidates][better], backward[candidates][better] = value[better], block[strongest[better]]

        rows, nearest = np.arange(len(block)), similarity.argmax(axis=1)
        first = similarity[rows, nearest]
        same_place = twins[nearest + start] - start
        same_place = np.where((same_place >= 0) & (same_place < stop - start), same_place, nearest[:, None])
        similarity[rows[:, None], same_place] = -1.0
        second = similarity.max(axis=1)
        forward[block] = nearest + start
        distinct[block] = (first > 0) & (1 - first < RATIO**2 * (1 - second))  # squared distances are 2 - 2 s
    pairs = np.stack([np.arange(len(forward)), forward], axis=1)[distinct]
    pairs = pairs[backward[pairs[:, 1]] == pairs[:, 0]]
    return np.stack([pairs[:, 0], order_b[pairs[:, 1]]], axis=1)


def _common_normal(segments: Float64[ndarray, "n 2 2"]) -> Float64[ndarray, " 2"]:
    """Unit vector across the mean direction of the segments, which are nearly parallel."""
    direction = segment_directions(segments).mean(axis=0)
    length = np.linalg.norm(direction)
    direction = direction / length if length > 1e-6 else np.array([1.0, 0.0])
    return np.array([-direction[1], direction[0]])


def _band_limits(segments, normal) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """Least and greatest coordinate along the normal of what lies within POINTING_PX of each segment."""
    along = segment_directions(segments)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    reach = POINTING_PX * (np.abs(across @ normal) + np.abs(along @ normal)) + 0.01  # _allowed rounds to float32
    ends = segments @ normal
    return ends.min(axis=1) - reach, ends.max(axis=1) + reach


def _allowed(segments: Float64[ndarray, "n 2 2"], points_b: Float64[ndarray, "m 2"]) -> Bool[ndarray, "n m"]:
    """Which features of image b lie within POINTING_PX of the segments."""
    middle, half = segments.mean(axis=1), np.linalg.norm(segments[:, 1] - segments[:, 0], axis=1) / 2
    along = segment_directions(segments)
    across = np.stack([-along[:, 1], along[:, 0]], axis=1)
    inside = []
    for axis, limit in ((across, np.full(len(half), POINTING_PX)), (along, half + POINTING_PX)):
        offset = axis.astype(np.float32) @ points_b.T.astype(np.float32)
        offset -= (axis * middle).sum(axis=1, keepdims=True).astype(np.float32)
        inside.append(np.abs(offset, out=offset) < limit[:, None].astype(np.float32))
    return inside[0] & inside[1]


def _twins(points: Float64[ndarray, "n 2"], count: int = 4) -> Int[ndarray, "n count"]:
    """The features within a pixel of each one, itself first: one place often carries several orientations, which are
    no rivals of each other in the ratio test."""
    distance, index = cKDTree(points).query(points, k=min(count, len(points)))
    return np.where(distance < 1.0, index, index[:, :1])


def _mode(across: Float64[ndarray, " n"]) -> float | None:
    """The pointing error across the epipolar lines: the highest bin of the smoothed histogram, refined by a median;
    None where the peak does not stand out from chance."""
    if len(across) < MIN_MATCHES:
        return None
    counts, edges = np.histogram(across, bins=np.arange(-POINTING_PX, POINTING_PX + 0.25, 0.25))
    smooth = gaussian_filter1d(counts.astype(float), 2.0)
    center = float((edges[:-1] + edges[1:])[np.argmax(smooth)] / 2)
    for _ in range(3):
        near = across[np.abs(across - center) < GATE_PX]
        center = float(np.median(near)) if len(near) else center
    by_chance = (len(across) - len(near)) * GATE_PX / POINTING_PX
    return center if len(near) >= max(MIN_MATCHES, 2.0 * by_chance) else None
