"""Fit the appearance of an image that was held out of training; the Gaussians stay fixed."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.appearance.lighting import ImageAppearance
from skyfall_ns.models.losses import photometric_loss

NUM_STEPS, LEARNING_RATE = 60, 0.03


def fit_appearance(
    render: Callable[[ImageAppearance], Float[Tensor, "h w 3"]],
    initial: ImageAppearance,
    target: Float[Tensor, "h w 3"],
    mask: Float[Tensor, "h w 1"],
) -> ImageAppearance:
    """The appearance with which `render` matches the target best where the mask is 1.

    Adam on the photometric loss, starting at `initial`, whose sun is kept."""
    values = {name: value.detach().clone().requires_grad_() for name, value in initial.learnable_tensors().items()}
    optimizer = torch.optim.Adam(values.values(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, NUM_STEPS)
    with torch.enable_grad():
        for _ in range(NUM_STEPS):
            optimizer.zero_grad()
            photometric_loss(render(replace(initial, **values)), target, mask).backward()
            optimizer.step()
            schedule.step()
    return replace(initial, **{name: value.detach() for name, value in values.items()})
