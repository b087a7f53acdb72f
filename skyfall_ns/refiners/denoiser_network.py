"""A small U-Net that begins as the identity: pictures in 0..1 to pictures."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def _layer(inputs: int, outputs: int) -> nn.Sequential:
    """Without normalisation, whose statistics would differ between crops and whole pictures."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.SiLU())


class Denoiser(nn.Module):
    """Three sizes, two layers each on the way down, one on the way up; what it says is added to the picture."""

    def __init__(self, width: int, seed: int = 0) -> None:
        """`width`: channels at full size. Weights depend on the seed alone; other random numbers stay as they are."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.fine = nn.Sequential(_layer(3, width), _layer(width, width))
            self.middle = nn.Sequential(_layer(width, 2 * width), _layer(2 * width, 2 * width))
            self.coarse = nn.Sequential(_layer(2 * width, 2 * width), _layer(2 * width, 2 * width))
            self.middle_up, self.fine_up = _layer(4 * width, 2 * width), _layer(3 * width, width)
            self.answer = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.answer.weight)
        assert self.answer.bias is not None
        nn.init.zeros_(self.answer.bias)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Height and width are multiples of 4."""
        fine = self.fine(image - 0.5)
        middle = self.middle(functional.avg_pool2d(fine, 2))
        coarse = self.coarse(functional.avg_pool2d(middle, 2))
        middle = self.middle_up(torch.cat([functional.interpolate(coarse, scale_factor=2.0), middle], 1))
        fine = self.fine_up(torch.cat([functional.interpolate(middle, scale_factor=2.0), fine], 1))
        return image + self.answer(fine)
