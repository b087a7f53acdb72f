"""Tie points between satellite images: SIFT features, matched between selected pairs of images and joined to tracks.

Pixels are (col, row) with (0, 0) at the centre of the first pixel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float64, Int, UInt8
from numpy import ndarray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.threads import thread_pool
from skyfall_ns.geo.tie_features import Features, detect_features
from skyfall_ns.geo.tie_matching import MIN_MATCHES, POINTING_PX, match_features
from skyfall_ns.geo.tie_pairs import Pair, further_pairs, pair_graph, select_pairs, tied_groups
from skyfall_ns.geo.tie_refinement import align_images, refine_tracks

Matches = dict[Pair, Int[ndarray, "n 2"]]


@dataclass(frozen=True)
class Ties:
    """Tracks of tie points, (col, row) in each of k images, NaN where a track is not seen; and the pairs (i < j) of
    images that were matched: two images of another pair share only the tracks that lead over others."""

    tracks: Float64[ndarray, "n k 2"]
    pairs: tuple[Pair, ...]


def find_ties(
    images: Sequence[UInt8[ndarray, "h w"]],
    rpcs: Sequence[RPC],
    height_range_m: tuple[float, float],
    masks: Sequence[Bool[ndarray, "h w"] | None] | None = None,
    names: Sequence[str] | None = None,
    acquired: Sequence[str | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Ties:
    """Find tie points between all images by matching selected pairs of them.

    `height_range_m` (ellipsoidal) may be as wide as the RPC's own range. `masks` are True where a pixel is usable;
    `acquired` are ISO 8601 dates, with which pairs of one season are preferred; `progress` (done, total) counts pairs
    of images. Pairs are added while an image hangs on few ties.
    Raises SkyfallError where images do not overlap or an image cannot be tied to the others.
    """
    names = names or [f"image {i + 1}" for i in range(len(images))]
    masks = masks or [None] * len(images)
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    graph = pair_graph(rpcs, sizes, height_range_m, acquired or [None] * len(images))
    _check_overlaps(graph.costs, names)
    matches: Matches = {}
    tracks = np.zeros((0, len(images), 2))
    with thread_pool() as pool:
        features = list(pool.map(detect_features, images, masks))
        aligned, maps = align_images(images, rpcs, float(np.mean(height_range_m)), pool)
        pairs = select_pairs(graph)
        while pairs:
            match = partial(_match_pair, features, rpcs, height_range_m)
            for pair, found in zip(pairs, pool.map(match, pairs), strict=True):
                matches[pair] = found
                if progress:
                    progress(len(matches), len(matches) + len(pairs) - pairs.index(pair) - 1)
            tracks = refine_tracks(aligned, maps, _join([f.colrow for f in features], matches), pool)
            pairs = further_pairs(graph, set(matches), np.isfinite(tracks[..., 0]))
    _check_connected(tracks, names)
    return Ties(tracks, tuple(matches))


def _match_pair(features: Sequence[Features], rpcs: Sequence[RPC], height_range_m, pair: Pair) -> Int[ndarray, "n 2"]:
    """Indices of the features of two images that match."""
    i, j = pair
    return match_features(features[i], features[j], rpcs[i], rpcs[j], height_range_m)


def _join(points: Sequence[Float64[ndarray, "n 2"]], matches: Matches) -> Float64[ndarray, "t k 2"]:
    """Matches joined over the images; a track that would hold two places of one image is inconsistent and dropped."""
    places, node_of = [], []
    start = 0
    for image_points in points:  # features of several orientations share one place
        unique, inverse = np.unique(np.round(image_points * 64).astype(np.int64), axis=0, return_inverse=True)
        places.append(unique / 64.0)
        node_of.append(inverse.ravel() + start)
        start += len(unique)
    links = [np.stack([node_of[i][m[:, 0]], node_of[j][m[:, 1]]], axis=1) for (i, j), m in matches.items()]
    links = np.concatenate(links) if links else np.zeros((0, 2), int)
    graph = coo_matrix((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(start, start))
    count, label = connected_components(graph, directed=False)
    image_of = np.repeat(np.arange(len(points)), [len(p) for p in places])
    seen = np.zeros((count, len(points)), int)
    np.add.at(seen, (label, image_of), 1)
    good = (seen.max(axis=1) == 1) & (seen.sum(axis=1) >= 2)
    observations = np.full((count, len(points), 2), np.nan)
    observations[label, image_of] = np.concatenate(places)
    return observations[good]


def _check_overlaps(costs: Float64[ndarray, "k k"], names: Sequence[str]) -> None:
    """Raise where some image overlaps no other."""
    for name, overlaps in zip(names, np.isfinite(costs).sum(axis=1), strict=True):
        if not overlaps:
            raise SkyfallError(
                f"{name} does not overlap any other image within {POINTING_PX:.0f} pixels of where its RPC points. "
                "Leave it out, or give images of one place."
            )


def _check_connected(tracks: Float64[ndarray, "t k 2"], names: Sequence[str]) -> None:
    """Raise where some image is not tied to the first one by enough tracks."""
    seen = np.isfinite(tracks[..., 0])
    group = tied_groups(seen, MIN_MATCHES)
    shared = seen.T.astype(int) @ seen
    for name, number, row in zip(names, group, shared - np.diag(np.diag(shared)), strict=True):
        if number != group[0]:
            raise SkyfallError(
                f"{name} shares at most {row.max()} tie points with another image, and {MIN_MATCHES} are needed. "
                "Leave it out of --images, or check that it shows the same place (and --height-range its heights)."
            )
