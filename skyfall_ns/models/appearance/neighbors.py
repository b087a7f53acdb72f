"""Nearest neighbors of Gaussians, so that colors which few images determine follow those around them.

The loss is weak: where images determine a color, their gradients are many times larger. Where no image does, it is the
only gradient, and Adam, whose steps do not depend on a gradient's size, follows it alone.
"""

import numpy as np
import torch
from jaxtyping import Float, Int64
from scipy.spatial import KDTree
from torch import Tensor, nn

from skyfall_ns.models.appearance.lighting import normals_of
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.losses import excess

COUNT = 4
EMBEDDING_SHARE = 0.1  # weight of the difference of embeddings, whose numbers are ten times as many
NORMAL_M = 2.0  # opposite normals are as far apart as twice this: walls follow walls, not the street below
EVERY = 100  # steps for which neighbors stay the same, unless Gaussians come or go
STRIDE = 4  # a step compares every so-manieth Gaussian


class Neighbors:
    """The graph of a model's Gaussians, kept between steps and in no checkpoint."""

    def __init__(self, scale: float) -> None:
        self.scale = scale  # model units per meter
        self._indices: Int64[Tensor, "n k"] | None = None
        self._step = 0

    def forget(self) -> None:
        """Drop the graph."""
        self._indices = None

    def of(self, means: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"], step: int) -> Int64[Tensor, "n k"]:
        """Indices of each Gaussian's neighbors; found again when their number changes, or after EVERY steps."""
        if self._indices is None or len(self._indices) != len(means) or step >= self._step + EVERY:
            self._indices, self._step = nearest(means / self.scale, normals), step
        return self._indices


@torch.no_grad()
def nearest(means_m: Float[Tensor, "n 3"], normals: Float[Tensor, "n 3"]) -> Int64[Tensor, "n k"]:
    """Indices of the COUNT Gaussians that are nearest in place and normal, itself not among them."""
    places = torch.cat([means_m, NORMAL_M * normals], -1).cpu().numpy()
    count = min(COUNT, len(places) - 1)
    found = KDTree(places, balanced_tree=False).query(places, count + 1, workers=-1)[1]
    return torch.from_numpy(_without_self(found)).to(means_m.device)


def _without_self(found: np.ndarray) -> np.ndarray:
    """The columns of others: all but oneself, which need not come first among Gaussians in one place."""
    own = found == np.arange(len(found))[:, None]
    own[~own.any(1), -1] = True
    return found[~own].reshape(len(found), -1).astype(np.int64)


def roughness(values: Float[Tensor, "n c"], neighbors: Int64[Tensor, "n k"], step: int) -> Tensor:
    """Mean squared difference from the mean of the neighbors, over the Gaussians whose turn it is at a step. It moves
    them, not their neighbors: what is seen is not drawn towards what is not."""
    turn = slice(step % STRIDE, None, STRIDE)
    with torch.no_grad():
        around = torch.nn.functional.embedding_bag(neighbors[turn], values, mode="mean")
    return (values[turn] - around).square().mean()


def color_losses(
    gaussians: nn.ParameterDict,
    colors: Float[Tensor, "n c"],
    neighbors: Neighbors,
    config: SkyfallModelOptions,
    step: int,
) -> dict[str, Tensor]:
    """What keeps base colors plain where images do not determine them; empty where the weights are 0."""
    loss = {}
    if config.bright_weight:
        loss["bright"] = config.bright_weight * excess(colors)
    if config.neighbor_weight:
        graph = neighbors.of(gaussians["means"], normals_of(gaussians["quats"]), step)
        rough = roughness(colors, graph, step)
        if "embeddings" in gaussians:
            rough = rough + EMBEDDING_SHARE * roughness(gaussians["embeddings"], graph, step)
        loss["neighbors"] = config.neighbor_weight * rough
    return loss
