"""Synthetic views: the refined images of an episode as training data, with their cameras and weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from skyfall_ns.dataparsers.camera_metadata import GRADIENT_SCALE_KEY, IMAGE_KEY
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.scene.model_space import NormalizedScene
from skyfall_ns.view import view_from_pinhole


def nerfstudio_camera(
    camera: PinholeCamera, normalized: NormalizedScene, image: int, gradient_scale: float = 1.0
) -> Cameras:
    """Nerfstudio camera in model space of a local pinhole camera, with the appearance of training image `image`.
    `gradient_scale`: see `camera_metadata.geometry_gradient_scale`."""
    view = view_from_pinhole(camera, np.array(normalized.center_m), normalized.scale)
    pose = torch.linalg.inv(view.camera_from_model)
    pose[:, 1:3] *= -1  # OpenCV to OpenGL
    k = view.intrinsics
    return Cameras(
        camera_to_worlds=pose[None, :3].float(),
        fx=float(k[0, 0]),
        fy=float(k[1, 1]),
        cx=float(k[0, 2]),
        cy=float(k[1, 2]),
        width=view.width,
        height=view.height,
        camera_type=CameraType.PERSPECTIVE,
        metadata={IMAGE_KEY: torch.tensor([[image]]), GRADIENT_SCALE_KEY: torch.tensor([[gradient_scale]])},
    )


@dataclass(frozen=True)
class SyntheticViews:
    """Refined images of one episode in memory, with the values of the files."""

    cameras: tuple[Cameras, ...]
    images: UInt8[Tensor, "n h w 3"]
    weights: UInt8[Tensor, "n h w"]
    seed: int

    @classmethod
    def from_store(
        cls, store: EpisodeStore, normalized: NormalizedScene, image: int, weighted: bool, gradient_scale: float = 1.0
    ) -> "SyntheticViews":
        """Read the images of an episode, to be rendered in the appearance of training image `image`. Pixels have their
        weights, or weight 1 except for empty ones. `gradient_scale`: see `camera_metadata.geometry_gradient_scale`.

        Raises TrainingError if an image or its weights are missing or damaged."""

        def to_bytes(values: Float[Tensor, "*n"]) -> UInt8[Tensor, "*n"]:
            return (255 * values).round().to(torch.uint8)

        names = store.view_names
        return cls(
            tuple(nerfstudio_camera(store.view_camera(name), normalized, image, gradient_scale) for name in names),
            torch.stack([to_bytes(store.read_refined(name)) for name in names]),
            torch.stack(
                [to_bytes(store.read_weight(name) if weighted else store.valid_mask(name).float()) for name in names]
            ),
            store.episode.number,
        )

    def draw_view(self, draw_index: int) -> tuple[Cameras, dict[str, Any]]:
        """Camera and batch of draw number `draw_index`: all views in random order, then all again in another order."""
        cycle, position = divmod(draw_index, len(self.cameras))
        order = torch.randperm(len(self.cameras), generator=torch.Generator().manual_seed(1000 * self.seed + cycle))
        view = int(order[position])
        batch = {
            "image_idx": -1,
            "image": self.images[view].float() / 255,
            "mask": self.weights[view].float()[..., None] / 255,
            "held_out": False,
            "camera": self.cameras[view],
        }
        return self.cameras[view], batch
