"""Nearest neighbors of Gaussians: colors that few images determine follow those of their neighbors.

The loss is weak: where images determine a color, their gradients are many times larger. Where no image does, it is the
only gradient, and Adam, whose step size is independent of the size of a gradient, follows it.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.spatial import KDTree
from torch import Tensor, nn

from skyfall_ns.models.appearance.lighting import normals_from_quats
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.losses import excess_over_white

NUM_NEIGHBORS = 4
EMBEDDING_WEIGHT = 0.1  # of the difference of embeddings, which have about ten times as many values as a color
NORMAL_DISTANCE_M = 2.0  # distance per unit of the difference of normals: walls follow walls, not the street below
UPDATE_EVERY = 100  # steps between two searches, unless the number of Gaussians changes
SAMPLE_STRIDE = 4  # a step compares every fourth Gaussian


class NeighborGraph:
    """Nearest neighbors of a model's Gaussians, cached between steps and in no checkpoint."""

    def __init__(self, scale: float) -> None:
        self.scale = scale  # model units per meter
        self._indices: Int64[Tensor, "n k"] | None = None
        self._step = 0

    def clear_cache(self) -> None:
        """Drop the graph."""
        self._indices = None

    def neighbor_indices(
        self, means: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"], step: int
    ) -> Int64[Tensor, "n k"]:
        """Indices of each Gaussian's neighbors; searched again when the number of Gaussians changes, or after
        UPDATE_EVERY steps."""
        if self._indices is None or len(self._indices) != len(means) or step >= self._step + UPDATE_EVERY:
            self._indices, self._step = find_nearest_neighbors(means / self.scale, normals), step
        return self._indices


@torch.no_grad()
def find_nearest_neighbors(means_m: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Int64[Tensor, "n k"]:
    """Indices of the NUM_NEIGHBORS other Gaussians that are nearest in position and normal."""
    features = torch.cat([means_m, NORMAL_DISTANCE_M * normals], -1).cpu().numpy()
    count = min(NUM_NEIGHBORS, len(features) - 1)
    indices = KDTree(features, balanced_tree=False).query(features, count + 1, workers=-1)[1]
    return torch.from_numpy(_drop_self(np.asarray(indices))).to(means_m.device)


def _drop_self(indices: np.ndarray) -> np.ndarray:
    """Remove each Gaussian from its own neighbors; it need not be the first one where Gaussians coincide."""
    own = indices == np.arange(len(indices))[:, None]
    own[~own.any(1), -1] = True
    return indices[~own].reshape(len(indices), -1).astype(np.int64)


def neighbor_loss(values: Float[Tensor, "n c"], neighbors: Int64[Tensor, "n k"], step: int) -> Tensor:
    """Mean squared difference from the mean of the neighbors, over the Gaussians that are compared at a step. Neighbors
    have no gradient, so that a visible Gaussian does not follow invisible ones."""
    sample = slice(step % SAMPLE_STRIDE, None, SAMPLE_STRIDE)
    with torch.no_grad():
        mean = torch.nn.functional.embedding_bag(neighbors[sample], values, mode="mean")
    return (values[sample] - mean).square().mean()


def color_losses(
    gaussians: nn.ParameterDict,
    albedo: Float[Tensor, "n c"],
    neighbors: NeighborGraph,
    options: SkyfallModelOptions,
    step: int,
) -> dict[str, Tensor]:
    """Loss terms of colors that images do not determine; empty if their weights are 0."""
    loss = {}
    if options.bright_weight:
        loss["bright"] = options.bright_weight * excess_over_white(albedo)
    if options.neighbor_weight:
        indices = neighbors.neighbor_indices(gaussians["means"], normals_from_quats(gaussians["quats"]), step)
        difference = neighbor_loss(albedo, indices, step)
        if "embeddings" in gaussians:
            difference = difference + EMBEDDING_WEIGHT * neighbor_loss(gaussians["embeddings"], indices, step)
        loss["neighbors"] = options.neighbor_weight * difference
    return loss
