"""A small U-Net that begins as the identity: pictures in 0..1 to pictures."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

GROUPS = 4


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.GroupNorm(GROUPS, outputs), nn.SiLU())


class Denoiser(nn.Module):
    """Three sizes, two layers each on the way down, one on the way up; what it says is added to the picture."""

    def __init__(self, width: int, seed: int = 0) -> None:
        """`width`: channels at full size. Weights depend on the seed alone; other random numbers stay as they are."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.full = nn.Sequential(_layer(3, width), _layer(width, width))
            self.half = nn.Sequential(_layer(width, 2 * width), _layer(2 * width, 2 * width))
            self.quarter = nn.Sequential(_layer(2 * width, 2 * width), _layer(2 * width, 2 * width))
            self.half_up, self.full_up = _layer(4 * width, 2 * width), _layer(3 * width, width)
            self.answer = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.answer.weight)
        assert self.answer.bias is not None
        nn.init.zeros_(self.answer.bias)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Height and width are multiples of 4."""
        full = self.full(image - 0.5)
        half = self.half(functional.avg_pool2d(full, 2))
        quarter = self.quarter(functional.avg_pool2d(half, 2))
        half = self.half_up(torch.cat([functional.interpolate(quarter, scale_factor=2.0), half], 1))
        full = self.full_up(torch.cat([functional.interpolate(half, scale_factor=2.0), full], 1))
        return image + self.answer(full)
