"""Which images look alike: those of another season or after a disaster share few tie points with the rest, and matching
them with each other would mix two surfaces into one that never was."""

import numpy as np
from jaxtyping import Bool
from numpy import ndarray
from scipy.sparse.csgraph import connected_components

ALIKE = 0.3  # of the ties that the poorer image of a pair shares with its best partner
# measured: 0.07 to 0.18 over an earthquake and seven years, at least 0.46 to some other image in a city over two years


def look_alike(seen: Bool[ndarray, "n v"]) -> tuple[int, ...]:
    """A group number per image, from which images show each of n tie points: images are in one group if a chain of
    look-alikes joins them. An image without ties is alone."""
    ties = seen.T.astype(int) @ seen
    np.fill_diagonal(ties, 0)
    best = ties.max(0)
    alike = (ties > 0) & (ties >= ALIKE * np.minimum(best[:, None], best[None, :]))
    return tuple(int(g) for g in connected_components(alike, directed=False)[1])


def matched_groups(seen: Bool[ndarray, "n v"]) -> tuple[int, ...]:
    """The groups of `look_alike` if each has two images or more, so that heights can come from each alone; otherwise
    one group of all."""
    groups = look_alike(seen)
    return groups if np.bincount(groups).min() >= 2 else (0,) * len(groups)
