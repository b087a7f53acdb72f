"""The scene in model units, as the model and its views see it.

Model space is (local - center) * MODEL_PER_METRE: one unit is 100 m whatever the scene's size, so that learning rates
mean meters everywhere; the center is the middle of the box at ground level (z = 0). Never a rotation.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.cameras import AffineCamera, camera_from_dict
from skyfall_ns.scene.scene import Scene, SceneImage

MODEL_PER_METRE = 0.01
HALF_PIXEL = 0.5
DEPTH_OFFSET = 20.0  # model units (2 km): satellite depths stay positive, and small enough for float32


@dataclass(frozen=True)
class ModelSurface:
    """The scene's dense surface over a north-up grid: heights in local meters (NaN: unknown), confidence in 0..1,
    source (0 unknown, 1 matched, 2 filled) and sigma of the heights in meters (NaN: unknown)."""

    height_m: Float32[np.ndarray, "h w"]
    confidence: Float32[np.ndarray, "h w"]
    source: UInt8[np.ndarray, "h w"]
    sigma_m: Float32[np.ndarray, "h w"]
    x_min_m: float
    y_max_m: float
    resolution_m: float


@dataclass(frozen=True)
class SceneOnModel:
    """What the model needs to know of the scene beyond cameras and points."""

    scene: Scene
    centre_m: tuple[float, float, float]
    scale: float  # model units per metre
    surface: ModelSurface | None
    image_names: tuple[str, ...]  # of the training images, in order
    suns: tuple[tuple[float, float, float] | None, ...]  # directions to the sun of the training images, local frame
    point_spacing_m: float

    @property
    def bands(self) -> int:
        """1 for a panchromatic scene, else 3."""
        return len(self.scene.images[0].tone.low)


def read_surface(scene: Scene) -> ModelSurface | None:
    """The dense surface in local metres; None for scenes without one. SceneError if the file is damaged."""
    if scene.surface_grid is None:
        return None
    height, confidence, source, sigma = (
        _read_band(scene.folder / str(path), kind)
        for path, kind in (
            (scene.surface, np.float32),
            (scene.surface_confidence, np.float32),
            (scene.surface_source, np.uint8),
            (scene.surface_sigma, np.float32),
        )
    )
    if len({layer.shape for layer in (height, confidence, source, sigma)}) > 1:
        raise SceneError(
            f"{scene.folder / str(scene.surface)} and its confidence, source and sigma differ in size. "
            "Run skyfall-process again."
        )
    return ModelSurface(height - np.float32(scene.frame["origin"][2]), confidence, source, sigma, *scene.surface_grid)


def _read_band(path: Path, kind: type) -> np.ndarray:
    band = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if band is None or band.ndim != 2 or band.dtype != kind:
        raise SceneError(f"{path} cannot be read as a layer of the surface. Run skyfall-process again.")
    return band


def normalized_camera(image: SceneImage, centre: np.ndarray) -> AffineCamera:
    camera = camera_from_dict(image.camera)
    if not isinstance(camera, AffineCamera):
        raise SceneError(f"{image.name} has a perspective camera. Process its RPC with skyfall-process images.")
    return camera.after(centre, MODEL_PER_METRE)


def satellite_rows(camera: AffineCamera) -> tuple[Float[np.ndarray, "12"], Float[np.ndarray, "12"]]:
    """Camera metadata of a satellite view in model space: three rows [L | b + 1/2] and depth, and the quadratic."""
    rows = np.zeros((3, 4))
    rows[:2] = camera.matrix
    rows[:2, 3] += HALF_PIXEL
    rows[2, :3], rows[2, 3] = -camera.view_direction(), DEPTH_OFFSET
    quadratic = np.zeros((2, 6)) if camera.quadratic is None else camera.quadratic
    return rows.reshape(-1), quadratic.reshape(-1)
