"""The look of an image that was not trained on: fitted to a part of it, while the splats stay as they are."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.appearance.lighting import Look
from skyfall_ns.models.losses import photometric_loss

STEPS, RATE = 60, 0.03


def fit_look(
    draw: Callable[[Look], Float[Tensor, "h w 3"]],
    start: Look,
    target: Float[Tensor, "h w 3"],
    mask: Float[Tensor, "h w 1"],
) -> Look:
    """The look, from `start`, with which `draw` comes closest to the target where the mask is 1 (Adam, photometric
    loss). `start.sun` is kept."""
    values = {name: value.detach().clone().requires_grad_() for name, value in start.tensors().items()}
    adam = torch.optim.Adam(values.values(), lr=RATE)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(adam, STEPS)
    with torch.enable_grad():
        for _ in range(STEPS):
            adam.zero_grad()
            photometric_loss(draw(replace(start, **values)), target, mask).backward()
            adam.step()
            rate.step()
    return replace(start, **{name: value.detach() for name, value in values.items()})
