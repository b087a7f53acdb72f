"""Padding of images for models that need multiples of 16 pixels."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

MULTIPLE_PX = 16  # 8 by the autoencoder times 2 by the patches, in all adapted models


def padded_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) rounded up to multiples of `MULTIPLE_PX`."""
    return height + -height % MULTIPLE_PX, width + -width % MULTIPLE_PX


def pad_to_multiple(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 y x"]:
    """Pad below and to the right by reflection, or by the edge pixels where the image is smaller than the padding."""
    height, width = image.shape[-2:]
    below, right = -height % MULTIPLE_PX, -width % MULTIPLE_PX
    if not below and not right:
        return image
    mode = "reflect" if below < height and right < width else "replicate"
    return pad(image, (0, right, 0, below), mode=mode)
