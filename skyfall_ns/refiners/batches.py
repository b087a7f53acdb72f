"""Conversion of views to image batches for networks, and back."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.refiners.base import RenderedView


def stack_images(views: Sequence[RenderedView]) -> Float[Tensor, "b 3 h w"]:
    """Stack the images of views of one size into a float32 batch."""
    return torch.stack([view.image for view in views]).permute(0, 3, 1, 2).float()


def split_images(images: Float[Tensor, "b 3 y x"], height: int, width: int) -> list[Float[Tensor, "h w 3"]]:
    """Split a batch into the images that a refiner returns: without padding, float32, on the CPU."""
    return list(images[..., :height, :width].permute(0, 2, 3, 1).float().cpu())
