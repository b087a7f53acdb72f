"""Pictures of any size for models that want multiples of 16: padded by their mirror image, and cropped back."""

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

MULTIPLE_PX = 16  # eight by the autoencoder, two by the patches, in every family here


def padded_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the next multiples."""
    return height + -height % MULTIPLE_PX, width + -width % MULTIPLE_PX


def pad_to_multiple(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 y x"]:
    """Mirrored below and to the right; repeated at the edge where a picture is smaller than what it lacks."""
    height, width = image.shape[-2:]
    below, right = -height % MULTIPLE_PX, -width % MULTIPLE_PX
    if not below and not right:
        return image
    mode = "reflect" if below < height and right < width else "replicate"
    return pad(image, (0, right, 0, below), mode=mode)
