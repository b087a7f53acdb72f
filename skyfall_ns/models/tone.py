"""Per-image gain and bias: what haze, sun and sensor do to a whole image, until appearance embeddings take over."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class ImageTone(nn.Module):
    """Three gains and three biases per training image; the canonical look is their mean."""

    def __init__(self, num_images: int) -> None:
        super().__init__()
        self.log_gain = nn.Parameter(torch.zeros(num_images, 3))
        self.bias = nn.Parameter(torch.zeros(num_images, 3))

    def forward(self, colors: Float[Tensor, "n 3"], image: int | None) -> Float[Tensor, "n 3"]:
        """Colours as image number `image` would see them; None: the canonical look."""
        if image is None:
            gain, bias = self.log_gain.mean(0).exp(), self.bias.mean(0)
        else:
            gain, bias = self.log_gain[image].exp(), self.bias[image]
        return gain * colors + bias


def fit_gain_bias(
    pred: Float[Tensor, "h w 3"], target: Float[Tensor, "h w 3"], mask: Float[Tensor, "h w 1"]
) -> tuple[Float[Tensor, "3"], Float[Tensor, "3"]]:
    """Least-squares gain and bias per channel that bring `pred` to `target` where the mask is 1."""
    total = mask.sum().clamp_min(1)
    mean_p, mean_t = (pred * mask).sum((0, 1)) / total, (target * mask).sum((0, 1)) / total
    p, t = (pred - mean_p) * mask, (target - mean_t) * mask
    gain = (p * t).sum((0, 1)) / p.square().sum((0, 1)).clamp_min(1e-9)
    return gain, mean_t - gain * mean_p
