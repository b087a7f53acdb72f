"""Which images look alike: those of another season or after a disaster share few tie points with the rest, and matching
them with each other would mix two surfaces into one that never was."""

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray
from scipy.sparse.csgraph import connected_components

ALIKE = 0.25  # of the ties that either image of a pair shares with its best partner, where both look
# measured: 0.05 to 0.18 over an earthquake and seven years, at least 0.39 to an image of another season in a city


def look_alike(seen: Bool[ndarray, "n v"], shown: Bool[ndarray, "n v"]) -> tuple[int, ...]:
    """A group number per image: images are in one group if a chain of look-alikes joins them.

    `seen` tells which images each of n tie points was found in, `shown` which images it lies within: an image of only
    a part of the area is judged by the ties there. An image without ties is alone.
    """
    shared = seen.T.astype(int) @ seen
    np.fill_diagonal(shared, 0)
    richest = _richest(seen, shown)
    alike = (shared > 0) & (shared >= ALIKE * np.maximum(richest, richest.T))
    return tuple(int(g) for g in connected_components(alike, directed=False)[1])


def _richest(seen: Bool[ndarray, "n v"], shown: Bool[ndarray, "n v"]) -> Int[ndarray, "v v"]:
    """The ties [i, j] that image i shares with its best partner, whoever that is, of those that image j shows."""
    richest = np.zeros((seen.shape[1],) * 2, int)
    for image, found in enumerate(seen.T):
        shared = shown[found].T.astype(int) @ seen[found]
        shared[:, image] = 0
        richest[image] = shared.max(1)
    return richest
