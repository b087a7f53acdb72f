"""The viewer's initial camera: it shows the whole scene from the south and above."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float64
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from nerfstudio.viewer.viewer_elements import ViewerControl
from numpy import ndarray

from skyfall_ns import nerfstudio_patches

ELEVATION_RAD = math.radians(40)


class InitialCamera(ViewerControl):
    """Places the camera of every browser page that is opened, and scales the frusta of the training images with the
    scene. Nerfstudio starts a few units from the center, which can be inside a building, and its frusta have a fixed
    size."""

    def __init__(self, box: Float64[ndarray, "2 3"]) -> None:
        """`box`: lowest and highest corner in model space."""
        self._box = VISER_NERFSTUDIO_SCALE_RATIO * box

    def _setup(self, viewer: Any) -> None:
        nerfstudio_patches.patch_viewer(viewer)
        viewer.config.camera_frustum_scale *= bounding_radius(self._box)
        viewer.viser_server.on_client_connect(self._place_camera)

    def _place_camera(self, client: Any) -> None:
        with client.atomic():
            client.camera.position, client.camera.look_at = initial_camera_pose(
                self._box, client.camera.fov, client.camera.aspect
            )


def initial_camera_pose(
    box: Float64[ndarray, "2 3"], fov_rad: float, aspect: float
) -> tuple[Float64[ndarray, "3"], Float64[ndarray, "3"]]:
    """Pose (position, target) at which the bounding sphere of a box fills the narrower side of the image; `fov_rad` is
    vertical."""
    half = min(fov_rad / 2, math.atan(aspect * math.tan(fov_rad / 2)))
    target, distance = box.mean(0), bounding_radius(box) / math.sin(half)
    return target + distance * np.array([0.0, -math.cos(ELEVATION_RAD), math.sin(ELEVATION_RAD)]), target


def bounding_radius(box: Float64[ndarray, "2 3"]) -> float:
    """Radius of the bounding sphere of a box."""
    return float(np.linalg.norm(box[1] - box[0]) / 2)
