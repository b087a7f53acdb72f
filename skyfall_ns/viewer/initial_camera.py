"""Where a person begins to look: from the south and above, at the whole scene."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float64
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO
from nerfstudio.viewer.viewer_elements import ViewerControl
from numpy import ndarray

from skyfall_ns import nerfstudio_patches

ELEVATION = math.radians(40)


class HomeView(ViewerControl):
    """Sets the camera of every page that is opened, and the size of the training images' frusta by that of the scene;
    the host begins a few of its units from the middle, which is inside of a house, and draws all frusta alike."""

    def __init__(self, box: Float64[ndarray, "2 3"]) -> None:
        """`box`: lowest and highest corner, model space."""
        self._box = VISER_NERFSTUDIO_SCALE_RATIO * box

    def _setup(self, viewer: Any) -> None:
        nerfstudio_patches.cure_viewer(viewer)
        viewer.config.camera_frustum_scale *= radius(self._box)
        viewer.viser_server.on_client_connect(self._begin)

    def _begin(self, client: Any) -> None:
        with client.atomic():
            client.camera.position, client.camera.look_at = home(self._box, client.camera.fov, client.camera.aspect)


def home(
    box: Float64[ndarray, "2 3"], fov_rad: float, aspect: float
) -> tuple[Float64[ndarray, "3"], Float64[ndarray, "3"]]:
    """(eye, target) from which the sphere around a box fills the narrower side of a picture; `fov_rad` is vertical."""
    half = min(fov_rad / 2, math.atan(aspect * math.tan(fov_rad / 2)))
    target, distance = box.mean(0), radius(box) / math.sin(half)
    return target + distance * np.array([0.0, -math.cos(ELEVATION), math.sin(ELEVATION)]), target


def radius(box: Float64[ndarray, "2 3"]) -> float:
    """Of the sphere around a box."""
    return float(np.linalg.norm(box[1] - box[0]) / 2)
