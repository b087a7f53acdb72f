"""Synthetic views: the refined images of an episode as training data, each with its pinhole and its weights."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from skyfall_ns.dataparsers.camera_metadata import IMAGE_KEY, MOVES_KEY
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.models.geometry.view import model_view
from skyfall_ns.scene.model_space import SceneOnModel


def host_camera(camera: PinholeCamera, on_model: SceneOnModel, image: int, moves: float = 1.0) -> Cameras:
    """A local pinhole as the host's camera in model space, that asks for the look of a training image; `moves`: see
    `models.view.moves_of`."""
    view = model_view(camera, np.array(on_model.centre_m), on_model.scale)
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
        metadata={IMAGE_KEY: torch.tensor([[image]]), MOVES_KEY: torch.tensor([[moves]])},
    )


@dataclass(frozen=True)
class SyntheticViews:
    """One episode's refined images, in memory as the files have them."""

    cameras: tuple[Cameras, ...]
    images: UInt8[Tensor, "n h w 3"]
    weights: UInt8[Tensor, "n h w"]
    seed: int

    @classmethod
    def of(
        cls, folder: EpisodeFolder, on_model: SceneOnModel, image: int, weighted: bool, moves: float = 1.0
    ) -> "SyntheticViews":
        """In the look of a training image; all that is not void counts alike, or by its weight; `moves`: see
        `models.view.moves_of`.

        TrainingError if an image or its weights are missing or damaged."""

        def bytes_of(values: Float[Tensor, "*n"]) -> UInt8[Tensor, "*n"]:
            return (255 * values).round().to(torch.uint8)

        names = folder.names
        return cls(
            tuple(host_camera(folder.camera(name), on_model, image, moves) for name in names),
            torch.stack([bytes_of(folder.refined(name)) for name in names]),
            torch.stack([bytes_of(folder.weight(name) if weighted else folder.valid(name).float()) for name in names]),
            folder.episode.number,
        )

    def at(self, turn: int) -> tuple[Cameras, dict[str, Any]]:
        """The camera and the batch of the `turn`-th draw: all views in a random order, then all again in another."""
        lap, place = divmod(turn, len(self.cameras))
        order = torch.randperm(len(self.cameras), generator=torch.Generator().manual_seed(1000 * self.seed + lap))
        index = int(order[place])
        batch = {
            "image_idx": -1,
            "image": self.images[index].float() / 255,
            "mask": self.weights[index].float()[..., None] / 255,
            "held_out": False,
            "camera": self.cameras[index],
        }
        return self.cameras[index], batch
