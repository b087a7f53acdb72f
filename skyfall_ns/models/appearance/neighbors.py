"""Nearest neighbors of Gaussians: colors that few images determine follow those of their neighbors.

The loss is weak: where images determine a color, their gradients are many times larger. Where no image does, it is the
only gradient, and Adam, whose step size is independent of the size of a gradient, follows it.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from numba import prange
from scipy.spatial import KDTree
from torch import Tensor, nn

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.appearance.lighting import normals_from_quats
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.losses import excess_over_white

NUM_NEIGHBORS = 4
EMBEDDING_WEIGHT = 0.1  # of the difference of embeddings, which have about ten times as many values as a color
NORMAL_DISTANCE_M = 2.0  # distance per unit of the difference of normals: walls follow walls, not the street below
UPDATE_EVERY = 100  # steps between two searches, unless the number of Gaussians changes
_BLOCK = 1024  # Gaussians per task
TERMS_EVERY = 4  # steps between two evaluations of the terms, which then have this factor on their weights


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
        self, means: Float[Tensor, "n 3"], quats: Float[Tensor, "n 4"], step: int
    ) -> Int64[Tensor, "n k"]:
        """Indices of each Gaussian's neighbors; searched again when the number of Gaussians changes, or after
        UPDATE_EVERY steps."""
        if self._indices is None or len(self._indices) != len(means) or step >= self._step + UPDATE_EVERY:
            normals = normals_from_quats(quats.detach())
            self._indices, self._step = find_nearest_neighbors(means.detach() / self.scale, normals), step
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


def neighbor_loss(values: Float[Tensor, "n c"], neighbors: Int64[Tensor, "n k"]) -> Tensor:
    """Mean squared difference from the mean of the neighbors. Neighbors have no gradient, so that a visible Gaussian
    does not follow invisible ones."""
    if values.device.type == "cpu":
        return _NeighborLoss.apply(values, neighbors)  # type: ignore[no-any-return]
    with torch.no_grad():
        mean = torch.nn.functional.embedding_bag(neighbors, values, mode="mean")
    return (values - mean).square().mean()


@njit(parallel=True, cache=True, fastmath={"contract", "reassoc", "nsz"})
def _neighbor_differences(values, neighbors, differences, row_sums):
    """Differences of values from the mean of their neighbors, and sums of their squares per block of Gaussians."""
    n, channels = values.shape
    count = neighbors.shape[1]
    share = np.float32(1.0) / np.float32(count)
    for block in prange(len(row_sums)):
        total = 0.0
        for i in range(block * _BLOCK, min((block + 1) * _BLOCK, n)):
            difference = differences[i]
            for c in range(channels):
                difference[c] = values[i, c]
            for k in range(count):
                other = values[neighbors[i, k]]
                for c in range(channels):
                    difference[c] -= share * other[c]
            for c in range(channels):
                total += difference[c] * difference[c]
        row_sums[block] = total


class _NeighborLoss(torch.autograd.Function):
    """The loss on the CPU, with one pass over the neighbors."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, neighbors: Tensor) -> Tensor:
        array = values.detach().to(torch.float32).contiguous().numpy()
        differences, sums = np.empty_like(array), np.empty(-(-len(array) // _BLOCK))
        _neighbor_differences(array, neighbors.numpy(), differences, sums)
        ctx.kept = differences
        return values.new_tensor(sums.sum() / max(array.size, 1))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        factor = 2 * float(upstream[0]) / max(ctx.kept.size, 1)
        return torch.from_numpy(ctx.kept).mul(factor).to(upstream[0].dtype), None


def color_losses(
    gaussians: nn.ParameterDict,
    albedo: Callable[[], Float[Tensor, "n c"]],
    neighbors: NeighborGraph,
    options: SkyfallModelOptions,
    step: int,
) -> dict[str, Tensor]:
    """Loss terms of colors that images do not determine; empty if their weights are 0."""
    loss: dict[str, Tensor] = {}
    if step % TERMS_EVERY or not (options.bright_weight or options.neighbor_weight):
        return loss
    colors = albedo()
    if options.bright_weight:
        loss["bright"] = TERMS_EVERY * options.bright_weight * excess_over_white(colors)
    if options.neighbor_weight:
        indices = neighbors.neighbor_indices(gaussians["means"], gaussians["quats"], step)
        difference = neighbor_loss(colors, indices)
        if "embeddings" in gaussians:
            difference = difference + EMBEDDING_WEIGHT * neighbor_loss(gaussians["embeddings"], indices)
        loss["neighbors"] = TERMS_EVERY * options.neighbor_weight * difference
    return loss
