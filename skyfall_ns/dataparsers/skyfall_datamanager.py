"""Satellite images for training: read with their full bit depth, tone-mapped, masked, as float32."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from jaxtyping import Float32
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset

from skyfall_ns.dataparsers.skyfall_dataparser import SkyfallDataParserConfig
from skyfall_ns.errors import SceneError
from skyfall_ns.option_checks import Unused
from skyfall_ns.scene.scene import SceneImage


def read_tone_mapped(directory: Path, image: SceneImage) -> Float32[np.ndarray, "h w 3"]:
    """Read an image of a scene directory as values in 0..1 after its tone curve; one band becomes gray.

    Raises SceneError if the file is damaged."""
    path = directory / image.path
    dn = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if dn is None or dn.shape[:2] != (image.height, image.width):
        raise SceneError(f"{path} is damaged or has another size than in scene.json. Run skyfall-process again.")
    dn = dn[..., None] if dn.ndim == 2 else dn[..., ::-1]  # OpenCV reads blue first
    bands = len(image.tone.low)
    if dn.shape[2] != bands:
        raise SceneError(f"{path} has {dn.shape[2]} bands, scene.json has {bands}. Run skyfall-process again.")
    if not np.isfinite(dn).all():
        raise SceneError(f"{path} contains NaN or infinity. Process the vendor's file again.")
    values = image.tone.apply_curve(dn)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values


def read_mask(directory: Path, image: SceneImage) -> Float32[np.ndarray, "h w 1"]:
    """Read the mask of an image of a scene directory: 1 for valid pixels, else 0.

    Raises SceneError if the file is damaged or masks all pixels."""
    if image.mask is None:
        return np.ones((image.height, image.width, 1), np.float32)
    path = directory / image.mask
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None or mask.shape != (image.height, image.width):
        raise SceneError(f"{path} is damaged or has another size than its image. Run skyfall-process again.")
    if not mask.any():
        raise SceneError(
            f"{path} masks the whole image. Leave {image.name} out with --pipeline.datamanager.dataparser.images, "
            "or fix the mask."
        )
    return (mask > 0).astype(np.float32)[..., None]


class SkyfallDataset(InputDataset):
    """Images of a scene directory."""

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """Read {"image_idx", "image" [h, w, 3] in 0..1, "mask" [h, w, 1], "held_out", "camera"}; always float32."""
        normalized, images = self.metadata["normalized_scene"], self.metadata["scene_images"]
        directory, image = normalized.scene.directory, images[image_idx]
        return {
            "image_idx": image_idx,
            "image": torch.from_numpy(read_tone_mapped(directory, image)),
            "mask": torch.from_numpy(read_mask(directory, image)),
            "held_out": image.name not in normalized.image_names,
            "camera": self.cameras[image_idx : image_idx + 1],
        }


@dataclass
class SkyfallDatamanagerConfig(FullImageDatamanagerConfig):
    """Full satellite images, one per step."""

    _target: type = field(default_factory=lambda: SkyfallDatamanager)
    dataparser: SkyfallDataParserConfig = field(default_factory=SkyfallDataParserConfig)
    """The scene directory, and which of its images to use."""
    camera_res_scale_factor: Unused[float] = 1.0
    eval_num_images_to_sample_from: Unused[int] = -1
    eval_num_times_to_repeat_images: Unused[int] = -1
    eval_image_indices: Unused[tuple[int, ...] | None] = (0,)
    cache_images_type: Unused[Literal["uint8", "float32"]] = "float32"
    max_thread_workers: Unused[int | None] = None


class SkyfallDatamanager(FullImageDatamanager[SkyfallDataset]):
    """Provides whole images with their exact cameras."""

    def read_all_images(self) -> None:
        """Read every image, held-out ones too, so that a damaged one is reported before training starts.

        Raises SceneError for a damaged image."""
        _ = self.cached_train, self.cached_eval
