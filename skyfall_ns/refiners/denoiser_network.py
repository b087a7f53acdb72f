"""A small residual U-Net for images in 0..1, initialized as the identity."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


def _conv_layer(inputs: int, outputs: int) -> nn.Sequential:
    """Convolution and SiLU, without normalization, whose statistics would differ between crops and whole images."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.SiLU())


class Denoiser(nn.Module):
    """U-Net of three resolutions, two layers each in the encoder and one in the decoder; predicts a residual."""

    def __init__(self, width: int, seed: int = 0) -> None:
        """`width`: channels at full resolution. Weights depend on the seed alone; the global random state is kept."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.fine = nn.Sequential(_conv_layer(3, width), _conv_layer(width, width))
            self.middle = nn.Sequential(_conv_layer(width, 2 * width), _conv_layer(2 * width, 2 * width))
            self.coarse = nn.Sequential(_conv_layer(2 * width, 2 * width), _conv_layer(2 * width, 2 * width))
            self.middle_up, self.fine_up = _conv_layer(4 * width, 2 * width), _conv_layer(3 * width, width)
            self.residual = nn.Conv2d(width, 3, 3, padding=1)
        nn.init.zeros_(self.residual.weight)
        assert self.residual.bias is not None
        nn.init.zeros_(self.residual.bias)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
        """Denoise images in 0..1; height and width must be multiples of 4."""
        fine = self.fine(image - 0.5)
        middle = self.middle(functional.avg_pool2d(fine, 2))
        coarse = self.coarse(functional.avg_pool2d(middle, 2))
        middle = self.middle_up(torch.cat([functional.interpolate(coarse, scale_factor=2.0), middle], 1))
        fine = self.fine_up(torch.cat([functional.interpolate(middle, scale_factor=2.0), fine], 1))
        return image + self.residual(fine)
