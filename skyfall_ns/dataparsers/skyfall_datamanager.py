"""Satellite images for training: read with their full bit depth, toned, masked, as float32."""

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
from skyfall_ns.scene.scene import SceneImage


def read_toned(folder: Path, image: SceneImage) -> Float32[np.ndarray, "h w 3"]:
    """An image's values in 0..1 after its tone curve; one band is shown as gray. SceneError if the file is damaged."""
    path = folder / image.path
    dn = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if dn is None or dn.shape[:2] != (image.height, image.width):
        raise SceneError(f"{path} is damaged or of another size than scene.json says. Run skyfall-process again.")
    dn = dn[..., None] if dn.ndim == 2 else dn[..., ::-1]  # OpenCV reads blue first
    if dn.shape[2] != len(image.tone.low):
        raise SceneError(f"{path} has {dn.shape[2]} bands, scene.json says otherwise. Run skyfall-process again.")
    if not np.isfinite(dn).all():
        raise SceneError(f"{path} holds values that are no numbers. Process the vendor's file again.")
    values = image.tone.apply(dn)
    return np.repeat(values, 3, axis=2) if values.shape[2] == 1 else values


def read_mask(folder: Path, image: SceneImage) -> Float32[np.ndarray, "h w 1"]:
    """1 where a pixel may be used, else 0. SceneError if the file is damaged or masks everything."""
    if image.mask is None:
        return np.ones((image.height, image.width, 1), np.float32)
    path = folder / image.mask
    mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
    if mask is None or mask.shape != (image.height, image.width):
        raise SceneError(f"{path} is damaged or of another size than its image. Run skyfall-process again.")
    if not mask.any():
        raise SceneError(f"{path} masks the whole image. Leave {image.name} out with --images, or mend the mask.")
    return (mask > 0).astype(np.float32)[..., None]


class SkyfallDataset(InputDataset):
    """Images of a scene folder."""

    def get_data(self, image_idx: int, image_type: Literal["uint8", "float32"] = "float32") -> dict[str, Any]:
        """{"image_idx", "image" [h, w, 3] in 0..1, "mask" [h, w, 1], "held_out", "camera"}; always float32."""
        on_model, images = self.metadata["scene_on_model"], self.metadata["scene_images"]
        folder, image = on_model.scene.folder, images[image_idx]
        return {
            "image_idx": image_idx,
            "image": torch.from_numpy(read_toned(folder, image)),
            "mask": torch.from_numpy(read_mask(folder, image)),
            "held_out": image.name not in on_model.image_names,
            "camera": self.cameras[image_idx : image_idx + 1],
        }


@dataclass
class SkyfallDatamanagerConfig(FullImageDatamanagerConfig):
    """Full satellite images, one per step."""

    _target: type = field(default_factory=lambda: SkyfallDatamanager)
    dataparser: SkyfallDataParserConfig = field(default_factory=SkyfallDataParserConfig)
    """Where the scene is, and which of its images to use."""


class SkyfallDatamanager(FullImageDatamanager[SkyfallDataset]):
    """Hands out whole images with their exact cameras."""

    def read_all(self) -> None:
        """Read every image, held-out ones too, so that a bad one ends a run before it begins. SceneError for it."""
        _ = self.cached_train, self.cached_eval
