"""Scene directories as Nerfstudio datasets: proxy pinholes for the viewer, exact satellite rows for training."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.data.scene_box import SceneBox

from skyfall_ns.dataparsers.camera_metadata import IMAGE_KEY, QUADRATIC_KEY, ROWS_KEY, SUN_KEY
from skyfall_ns.errors import SceneError
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.io.ply import PlyPoints, read_ply
from skyfall_ns.scene.height_grid import read_surface_layers
from skyfall_ns.scene.model_space import (
    MODEL_PER_METER,
    NormalizedScene,
    normalized_camera,
    satellite_rows,
)
from skyfall_ns.scene.scene import Scene, SceneImage

PROXY_DISTANCE = 4.0  # from the scene's center to a frustum, in half widths of the scene

FLAG = "--pipeline.datamanager.dataparser."


@dataclass
class SkyfallDataParserConfig(DataParserConfig):
    """A scene directory made by skyfall-process."""

    _target: type = field(default_factory=lambda: SkyfallDataParser)
    data: Path = Path()
    """Scene directory."""
    images: tuple[str, ...] = ("*",)
    """Names or globs of the images to use, such as 'pre*' for one date; held-out images among them stay held out."""
    eval_images: tuple[str, ...] = ()
    """Names or globs of further images to hold out."""


@dataclass
class SkyfallDataParser(DataParser):
    """Reads a scene directory; needs neither rasterio nor pyproj."""

    config: SkyfallDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **_: object) -> DataparserOutputs:
        scene = Scene.from_directory(self.config.data)
        train, held_out = self._split_images(scene)
        # Without held-out images, evaluation uses the training images: a score of fit, not of prediction.
        chosen = train if split == "train" else (held_out or train)
        center = np.array([*scene.box_m[:, :2].mean(0), 0.0])
        points = read_ply(scene.directory / scene.points) if scene.points else None
        if points is None or not len(points.xyz_m):
            raise SceneError(f"{scene.directory} has no points for initialization. Run skyfall-process again.")
        half = MODEL_PER_METER * (scene.box_m[1] - scene.box_m[0]).max() / 2
        normalized = NormalizedScene(
            scene=scene,
            center_m=(float(center[0]), float(center[1]), 0.0),
            scale=MODEL_PER_METER,
            surface=read_surface_layers(scene),
            image_names=tuple(image.name for image in train),
            sun_directions=tuple(image.sun_direction for image in train),
            point_spacing_m=_point_spacing_m(points),
        )
        transform = torch.eye(4)[:3]
        transform[:, 3] = torch.from_numpy(-center)
        return DataparserOutputs(
            image_filenames=[scene.directory / image.path for image in chosen],
            mask_filenames=None,
            cameras=_make_cameras(chosen, [image.name for image in train], center, float(half)),
            scene_box=SceneBox(aabb=torch.from_numpy((scene.box_m - center) * MODEL_PER_METER).float()),
            dataparser_transform=transform,
            dataparser_scale=MODEL_PER_METER,
            metadata={
                "points3D_xyz": torch.from_numpy((points.xyz_m - center) * MODEL_PER_METER).float(),
                "points3D_rgb": torch.from_numpy(points.rgb),
                "points3D_normals": torch.from_numpy(points.normals).float(),
                "scene_images": tuple(chosen),
                "normalized_scene": normalized,
            },
        )

    def _split_images(self, scene: Scene) -> tuple[list[SceneImage], list[SceneImage]]:
        """Training and held-out images, in the scene's order."""
        names = [image.name for image in scene.images]
        selected = match_image_names(names, self.config.images, f"{FLAG}images", scene)
        held_out = match_image_names(names, self.config.eval_images, f"{FLAG}eval-images", scene)
        chosen = [image for image in scene.images if image.name in selected]
        train = [image for image in chosen if image.split == "train" and image.name not in held_out]
        if not train:
            raise SceneError(
                f"No image of {scene.directory} is left to train on. "
                f"Widen {FLAG}images or hold out fewer; the scene has {', '.join(names)}."
            )
        train_names = {image.name for image in train}
        return train, [image for image in chosen if image.name not in train_names]


def match_image_names(names: Sequence[str], globs: Sequence[str], flag: str, scene: Scene) -> set[str]:
    """Names that match any of a flag's globs; SceneError for a glob without a match."""
    found: set[str] = set()
    for glob in globs:
        matches = fnmatch.filter(names, glob)
        if not matches:
            raise SceneError(f"{flag} {glob} matches no image of {scene.directory}. It has: {', '.join(names)}.")
        found.update(matches)
    return found


def _point_spacing_m(points: PlyPoints) -> float:
    """Typical distance between neighboring points: the square root of the area per point that faces up."""
    width, depth = np.ptp(points.xyz_m[:, :2], axis=0)
    level = np.abs(points.normals[:, 2]) > 0.5 if points.normals.any() else np.ones(len(points.xyz_m), bool)
    return float(np.sqrt(width * depth / max(int(level.sum()), 1)))


def _make_cameras(images: list[SceneImage], train_names: list[str], center: np.ndarray, half: float) -> Cameras:
    """Proxy pinholes with the exact satellite cameras as metadata; `half` is half the scene's width in model units."""
    poses, focals, rows, quadratics, suns, indices = [], [], [], [], [], []
    for image in images:
        camera = normalized_camera(image, center)
        row, quadratic = satellite_rows(camera)
        rows.append(row)
        quadratics.append(quadratic)
        poses.append(_proxy_pose(camera, PROXY_DISTANCE * half))
        focals.append(0.5 * max(image.width, image.height) * PROXY_DISTANCE)
        suns.append(image.sun_direction or (0.0, 0.0, 0.0))
        indices.append(train_names.index(image.name) if image.name in train_names else -1)
    widths, heights = (torch.tensor([getattr(image, n) for image in images]) for n in ("width", "height"))
    return Cameras(
        camera_to_worlds=torch.from_numpy(np.stack(poses)).float(),
        fx=torch.tensor(focals).float(),
        fy=torch.tensor(focals).float(),
        cx=widths.float() / 2,
        cy=heights.float() / 2,
        width=widths,
        height=heights,
        camera_type=CameraType.PERSPECTIVE,
        metadata={
            ROWS_KEY: torch.from_numpy(np.stack(rows)),
            QUADRATIC_KEY: torch.from_numpy(np.stack(quadratics)),
            SUN_KEY: torch.tensor(suns, dtype=torch.float64),
            IMAGE_KEY: torch.tensor(indices)[:, None],
        },
    )


def _proxy_pose(camera: AffineCamera, distance: float) -> Float32[np.ndarray, "3 4"]:
    """Pose of a pinhole that views the scene from the satellite's direction (OpenGL camera-to-model)."""
    back = camera.view_direction()
    right = camera.matrix[0, :3] - (camera.matrix[0, :3] @ back) * back
    right /= np.linalg.norm(right)
    return np.column_stack([right, np.cross(back, right), back, distance * back]).astype(np.float32)
