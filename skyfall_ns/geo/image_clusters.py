"""Clusters of images with similar content, from the number of tie points that they share.

Images of another season or after a disaster share few tie points with the rest. Matching them with the rest would mix
two surfaces into one that never existed.
"""

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray
from scipy.sparse.csgraph import connected_components

# Of the tie points that either image of a pair shares with its best partner in the area of the other. Measured: 0.05 to
# 0.18 over an earthquake and seven years, at least 0.39 to an image of another season in a city.
MIN_SHARED_FRACTION = 0.25


def cluster_images(observed: Bool[ndarray, "n v"], within: Bool[ndarray, "n v"]) -> tuple[int, ...]:
    """Number of the cluster of each image: images are in one cluster if a chain of similar images connects them.

    `observed` is True where a tie point (of n) was found in an image (of v), `within` where it lies inside the image:
    an image of only a part of the area is compared by the tie points there. An image without tie points is a cluster of
    its own.
    """
    shared = observed.T.astype(int) @ observed
    np.fill_diagonal(shared, 0)
    best_counts = _best_partner_counts(observed, within)
    linked = (shared > 0) & (shared >= MIN_SHARED_FRACTION * np.maximum(best_counts, best_counts.T))
    return tuple(int(cluster) for cluster in connected_components(linked, directed=False)[1])


def _best_partner_counts(observed: Bool[ndarray, "n v"], within: Bool[ndarray, "n v"]) -> Int[ndarray, "v v"]:
    """Number [i, j] of the tie points inside image j that image i shares with its best partner."""
    best_counts = np.zeros((observed.shape[1],) * 2, int)
    for image, is_observed in enumerate(observed.T):
        shared = within[is_observed].T.astype(int) @ observed[is_observed]
        shared[:, image] = 0
        best_counts[image] = shared.max(1)
    return best_counts
