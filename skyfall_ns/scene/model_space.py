"""The scene in model units, as used by the model and its views.

Model space is (local - center) * MODEL_PER_METER, without rotation. One unit is 100 m for every scene, so that learning
rates have the same meaning in meters; the center is the middle of the box at ground level (z = 0).
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.scene.height_grid import SurfaceLayers
from skyfall_ns.scene.scene import Scene, SceneImage

MODEL_PER_METER = 0.01
HALF_PIXEL = 0.5
DEPTH_OFFSET = 20.0  # model units (2 km): keeps satellite depths positive, and small enough for float32


@dataclass(frozen=True)
class NormalizedScene:
    """The scene with its transform to model space: what the model uses besides cameras and points."""

    scene: Scene
    center_m: tuple[float, float, float]
    scale: float  # model units per meter
    surface: SurfaceLayers | None
    image_names: tuple[str, ...]  # of the training images, in order
    sun_directions: tuple[tuple[float, float, float] | None, ...]  # of the training images, unit vectors, local frame
    point_spacing_m: float

    @property
    def model_box(self) -> Float[np.ndarray, "2 3"]:
        """Lower and upper corner of the scene's box in model units."""
        return (self.scene.box_m - np.array(self.center_m)) * self.scale

    @property
    def band_count(self) -> int:
        """Number of bands of the images: 1 for a panchromatic scene, else 3."""
        return len(self.scene.images[0].tone.low)


def normalized_camera(image: SceneImage, center_m: np.ndarray) -> AffineCamera:
    """The camera of an image in model space; `center_m` is the origin of model space in the local frame.

    Raises SceneError for a perspective camera."""
    if not isinstance(image.camera, AffineCamera):
        raise SceneError(f"{image.name} has a perspective camera. Process its RPC with skyfall-process images.")
    return image.camera.to_model_space(center_m, MODEL_PER_METER)


def satellite_rows(camera: AffineCamera) -> tuple[Float[np.ndarray, "12"], Float[np.ndarray, "12"]]:
    """Camera metadata of a satellite view in model space.

    Rows of a 3 x 4 matrix ([L | b + 1/2], then depth along the view direction) and the 2 x 6 quadratic term, flattened.
    """
    rows = np.zeros((3, 4))
    rows[:2] = camera.matrix
    rows[:2, 3] += HALF_PIXEL
    rows[2, :3], rows[2, 3] = -camera.view_direction(), DEPTH_OFFSET
    quadratic = np.zeros((2, 6)) if camera.quadratic is None else camera.quadratic
    return rows.reshape(-1), quadratic.reshape(-1)
