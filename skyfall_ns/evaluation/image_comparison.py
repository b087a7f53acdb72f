"""Comparison of methods by their images: scores per frame and on the whole."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray
from torch import Tensor, nn

from skyfall_ns.errors import SkyfallError
from skyfall_ns.evaluation.image_metrics import (
    frechet_distance,
    luma_ssim,
    maximum_mean_discrepancy,
    patch_corners,
    psnr_db,
)
from skyfall_ns.evaluation.image_networks import clip_embeddings
from skyfall_ns.evaluation.image_sets import resize_image

Images = list[UInt8[ndarray, "h w 3"]]


@dataclass(frozen=True)
class ImageNetworks:
    """Networks that are on this machine; a metric whose network is None is left out."""

    lpips: Callable[[Tensor, Tensor], float] | None
    clip_fid: nn.Module | None
    cmmd: nn.Module | None


@dataclass(frozen=True)
class PatchProtocol:
    """Patches of CLIP metrics, and the size to which images are brought (None: that of the truth)."""

    patch_px: int
    overlapping: bool
    size: tuple[int, int] | None


def compare_images(
    methods: Mapping[str, Images], truth: Images, networks: ImageNetworks, protocol: PatchProtocol
) -> dict[str, Any]:
    """Scores of each method: {"methods": {name: {"mean": {...}, "frames": [...]}}}.

    Raises SkyfallError for a method with another number of images than the truth, and for images that are smaller than
    a patch.
    """
    for name, images in methods.items():
        if len(images) != len(truth):
            raise SkyfallError(
                f"{name} has {len(images)} images and the truth {len(truth)}. Pass as many, or choose --frames."
            )
    targets = [resize_image(image, protocol.size or image.shape[1::-1]) for image in truth]
    truth_embeddings = _embed_all(targets, networks, protocol)
    report = {}
    for name, images in methods.items():
        sizes = [(target.shape[1], target.shape[0]) for target in targets]
        preds = [resize_image(image, size) for image, size in zip(images, sizes, strict=True)]
        frames = [_frame_scores(pred, target, networks) for pred, target in zip(preds, targets, strict=True)]
        mean = {key: float(np.mean([frame[key] for frame in frames])) for key in frames[0]}
        embeddings = _embed_all(preds, networks, protocol)
        if "clip_fid" in embeddings:
            mean["clip_fid"] = frechet_distance(embeddings["clip_fid"], truth_embeddings["clip_fid"])
        if "cmmd" in embeddings:
            mean["cmmd"] = maximum_mean_discrepancy(embeddings["cmmd"], truth_embeddings["cmmd"])
        report[name] = {"mean": mean, "frames": frames}
    return {"methods": report, "images": len(truth), "patch_px": protocol.patch_px}


def _frame_scores(pred: Tensor, target: Tensor, networks: ImageNetworks) -> dict[str, float]:
    scores = {"psnr": psnr_db(pred, target), "ssim": luma_ssim(pred, target)}
    return scores if networks.lpips is None else scores | {"lpips": networks.lpips(pred, target)}


def _embed_all(
    images: list[Float[Tensor, "h w 3"]], networks: ImageNetworks, protocol: PatchProtocol
) -> dict[str, ndarray]:
    """Embeddings of all patches by metric."""
    return {
        name: clip_embeddings(network, _patches(images, protocol))
        for name, network in (("clip_fid", networks.clip_fid), ("cmmd", networks.cmmd))
        if network is not None
    }


def _patches(images: list[Float[Tensor, "h w 3"]], protocol: PatchProtocol) -> Iterator[Float[Tensor, "p p 3"]]:
    side = protocol.patch_px
    for image in images:
        corners = patch_corners(image.shape[0], image.shape[1], side, protocol.overlapping)
        if not corners:
            raise SkyfallError(
                f"Images of {image.shape[1]} x {image.shape[0]} pixels are smaller than --patch {side}. Give a smaller "
                "patch."
            )
        for row, column in corners:
            yield image[row : row + side, column : column + side]
