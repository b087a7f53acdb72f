"""Views as the batches that networks take, and back."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.refiners.base import RenderedView


def stacked(views: Sequence[RenderedView]) -> Float[Tensor, "b 3 h w"]:
    """Pictures of views of one size."""
    return torch.stack([view.image for view in views]).permute(0, 3, 1, 2).float()


def unstacked(images: Float[Tensor, "b 3 y x"], height: int, width: int) -> list[Float[Tensor, "h w 3"]]:
    """Pictures as refiners answer: without what was padded, float32, on the CPU."""
    return list(images[..., :height, :width].permute(0, 2, 3, 1).float().cpu())
