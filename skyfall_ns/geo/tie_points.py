"""Tie points between satellite images: SIFT features matched between selected pairs of images and joined to tracks.

Pixels are (col, row) with (0, 0) at the center of the first pixel.
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
from skyfall_ns.geo.tie_features import Features
from skyfall_ns.geo.tie_matching import MAX_POINTING_ERROR_PX, MIN_MATCHES, match_features
from skyfall_ns.geo.tie_pairs import Pair, pair_graph, select_further_pairs, select_tie_pairs, tie_point_groups
from skyfall_ns.geo.tie_refinement import align_images, detect_aligned_features, refine_tracks

Matches = dict[Pair, Int[ndarray, "n 2"]]


@dataclass(frozen=True)
class TiePoints:
    """Tracks of tie points: (col, row) in each of k images, NaN where a track is not observed; and the pairs (i < j) of
    images that were matched. Other pairs share only tracks that pass through further images."""

    tracks: Float64[ndarray, "n k 2"]
    pairs: tuple[Pair, ...]


def find_tie_points(
    images: Sequence[UInt8[ndarray, "h w"]],
    rpcs: Sequence[RPC],
    height_range_m: tuple[float, float],
    masks: Sequence[Bool[ndarray, "h w"] | None] | None = None,
    names: Sequence[str] | None = None,
    acquired: Sequence[str | None] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TiePoints:
    """Find tie points between all images by matching selected pairs of them.

    `height_range_m` (ellipsoidal) may be as wide as the RPC's own range. `masks` are True where a pixel is usable.
    `acquired` are ISO 8601 dates, used to prefer pairs of one season. `progress` (done, total) counts pairs of images.
    Pairs are added while an image has few tie points to the rest.
    Raises SkyfallError if an image overlaps no other, or has too few tie points with the others.
    """
    names = names or [f"image {i + 1}" for i in range(len(images))]
    masks = masks or [None] * len(images)
    sizes = [(image.shape[1], image.shape[0]) for image in images]
    graph = pair_graph(rpcs, sizes, height_range_m, acquired or [None] * len(images))
    _check_overlaps(graph.costs, names)
    matches: Matches = {}
    tracks = np.zeros((0, len(images), 2))
    with thread_pool() as pool:
        aligned, maps = align_images(images, rpcs, float(np.mean(height_range_m)), pool)
        features = list(pool.map(detect_aligned_features, images, masks, maps))
        pairs = select_tie_pairs(graph)
        while pairs:
            match = partial(_match_pair, features, rpcs, height_range_m)
            for pair, found in zip(pairs, pool.map(match, pairs), strict=True):
                matches[pair] = found
                if progress:
                    progress(len(matches), len(matches) + len(pairs) - pairs.index(pair) - 1)
            tracks = refine_tracks(aligned, maps, _join_tracks([f.colrow for f in features], matches), pool)
            pairs = select_further_pairs(graph, set(matches), np.isfinite(tracks[..., 0]))
    _check_connected(tracks, names)
    return TiePoints(tracks, tuple(matches))


def _match_pair(features: Sequence[Features], rpcs: Sequence[RPC], height_range_m, pair: Pair) -> Int[ndarray, "n 2"]:
    """Indices of the features of two images that match."""
    i, j = pair
    return match_features(features[i], features[j], rpcs[i], rpcs[j], height_range_m)


def _join_tracks(points: Sequence[Float64[ndarray, "n 2"]], matches: Matches) -> Float64[ndarray, "t k 2"]:
    """Join matches to tracks over all images; a track with two positions in one image is inconsistent and dropped."""
    positions, node_of_feature = [], []
    node_count = 0
    for image_points in points:  # features of several orientations share one position
        unique, inverse = np.unique(np.round(image_points * 64).astype(np.int64), axis=0, return_inverse=True)
        positions.append(unique / 64.0)
        node_of_feature.append(inverse.ravel() + node_count)
        node_count += len(unique)
    node_links = [
        np.stack([node_of_feature[i][m[:, 0]], node_of_feature[j][m[:, 1]]], axis=1) for (i, j), m in matches.items()
    ]
    node_links = np.concatenate(node_links) if node_links else np.zeros((0, 2), int)
    graph = coo_matrix((np.ones(len(node_links)), (node_links[:, 0], node_links[:, 1])), shape=(node_count, node_count))
    count, label = connected_components(graph, directed=False)
    image_of = np.repeat(np.arange(len(points)), [len(p) for p in positions])
    observed = np.zeros((count, len(points)), int)
    np.add.at(observed, (label, image_of), 1)
    consistent = (observed.max(axis=1) == 1) & (observed.sum(axis=1) >= 2)
    tracks = np.full((count, len(points), 2), np.nan)
    tracks[label, image_of] = np.concatenate(positions)
    return tracks[consistent]


def _check_overlaps(costs: Float64[ndarray, "k k"], names: Sequence[str]) -> None:
    """Raise SkyfallError if an image overlaps no other."""
    for name, overlaps in zip(names, np.isfinite(costs).sum(axis=1), strict=True):
        if not overlaps:
            raise SkyfallError(
                f"{name} does not overlap any other image within an RPC error of {MAX_POINTING_ERROR_PX:.0f} pixels. "
                "Leave it out, or pass images of one place."
            )


def _check_connected(tracks: Float64[ndarray, "t k 2"], names: Sequence[str]) -> None:
    """Raise SkyfallError if an image is not connected to the first one by enough tracks."""
    observed = np.isfinite(tracks[..., 0])
    group_of_image = tie_point_groups(observed, MIN_MATCHES)
    shared = observed.T.astype(int) @ observed
    for name, group, row in zip(names, group_of_image, shared - np.diag(np.diag(shared)), strict=True):
        if group != group_of_image[0]:
            raise SkyfallError(
                f"{name} shares at most {row.max()} tie points with another image, and {MIN_MATCHES} are needed. "
                "Leave it out of --images, or check that it shows the same place (and --height-range its heights)."
            )
