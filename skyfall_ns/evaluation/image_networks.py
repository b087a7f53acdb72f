"""Networks of image metrics, from caches on this machine only: LPIPS (torchmetrics) and CLIP (transformers)."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy import ndarray
from torch import Tensor, nn
from torch.nn.functional import interpolate

from skyfall_ns.errors import MissingExtraError

FID_MODEL, CMMD_MODEL = "openai/clip-vit-base-patch32", "openai/clip-vit-large-patch14-336"
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
BATCH = 32


def load_lpips() -> Callable[[Tensor, Tensor], float]:
    """LPIPS with AlexNet of two images "h w 3" in 0..1. Raises MissingExtraError if its weights are not on this
    machine."""
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    from torchvision.models import AlexNet_Weights

    checkpoints = torch.hub.get_dir() + "/checkpoints/" + AlexNet_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[1]
    try:
        with open(checkpoints, "rb"):
            pass
        metric = LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True)
    except (OSError, ImportError) as error:
        raise MissingExtraError(
            f"LPIPS needs the weights of AlexNet, and {checkpoints} is missing. Copy the file there."
        ) from error

    def distance(pred: Tensor, target: Tensor) -> float:
        with torch.no_grad():
            return float(metric(*(image.float().clamp(0, 1).permute(2, 0, 1)[None] for image in (pred, target))))

    return distance


def load_clip(model: str, metric: str) -> nn.Module:
    """The image encoder of CLIP from a directory or from the cache of the hub. Raises MissingExtraError if the package
    or the weights are not on this machine."""
    try:
        from transformers import CLIPVisionModelWithProjection

        return CLIPVisionModelWithProjection.from_pretrained(model, local_files_only=True).eval()
    except (ImportError, OSError, ValueError) as error:
        raise MissingExtraError(
            f"{metric} needs {model}, which is not on this machine. Run hf download {model}, or pass a directory."
        ) from error


@torch.no_grad()
def clip_embeddings(network: nn.Module, patches: Iterable[Float[Tensor, "h w 3"]]) -> Float64[ndarray, "n d"]:
    """Image embeddings of patches in 0..1, resized bicubically to the size of the network."""
    size = int(network.config.image_size)  # type: ignore[union-attr]
    mean, std = (torch.tensor(values)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    batch, embeddings = [], []

    def embed_batch() -> None:
        pixels = torch.cat(batch)
        embeddings.append(network(pixel_values=pixels).image_embeds.double().numpy())
        batch.clear()

    for patch in patches:
        resized = interpolate(
            patch.float().permute(2, 0, 1)[None], (size, size), mode="bicubic", antialias=True, align_corners=False
        )
        batch.append((resized.clamp(0, 1) - mean) / std)
        if len(batch) == BATCH:
            embed_batch()
    if batch:
        embed_batch()
    return np.concatenate(embeddings) if embeddings else np.zeros((0, 1))
