"""Scene folders as Nerfstudio datasets: proxy pinholes for people to look at, exact satellite rows for training."""

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
from skyfall_ns.io.ply import Cloud, read_ply
from skyfall_ns.scene.model_space import MODEL_PER_METRE, SceneOnModel, normalized_camera, read_surface, satellite_rows
from skyfall_ns.scene.scene import Scene, SceneImage

PROXY_DISTANCE = 4.0  # half widths of the scene, from its centre to a frustum


@dataclass
class SkyfallDataParserConfig(DataParserConfig):
    """A scene folder made by skyfall-process."""

    _target: type = field(default_factory=lambda: SkyfallDataParser)
    data: Path = Path()
    """Scene folder."""
    images: tuple[str, ...] = ("*",)
    """Names or globs of the images to use, such as 'pre*' for one date; held-out images among them stay held out."""
    eval_images: tuple[str, ...] = ()
    """Names or globs of further images to hold out."""


@dataclass
class SkyfallDataParser(DataParser):
    """Reads a scene folder; needs neither rasterio nor pyproj."""

    config: SkyfallDataParserConfig

    def _generate_dataparser_outputs(self, split: str = "train", **_: object) -> DataparserOutputs:
        scene = Scene.load(self.config.data)
        train, held_out = self._split(scene)
        # Without held-out images, evaluation looks at the training images: a score of fit, not of prediction.
        chosen = train if split == "train" else (held_out or train)
        centre = np.array([*scene.box_m[:, :2].mean(0), 0.0])
        cloud = read_ply(scene.folder / scene.points) if scene.points else None
        if cloud is None or not len(cloud.xyz_m):
            raise SceneError(f"{scene.folder} has no points to start from. Run skyfall-process again.")
        half = MODEL_PER_METRE * (scene.box_m[1] - scene.box_m[0]).max() / 2
        on_model = SceneOnModel(
            scene=scene,
            centre_m=(float(centre[0]), float(centre[1]), 0.0),
            scale=MODEL_PER_METRE,
            surface=read_surface(scene),
            image_names=tuple(image.name for image in train),
            suns=tuple(image.sun_direction for image in train),
            point_spacing_m=_spacing(cloud),
        )
        transform = torch.eye(4)[:3]
        transform[:, 3] = torch.from_numpy(-centre)
        return DataparserOutputs(
            image_filenames=[scene.folder / image.path for image in chosen],
            mask_filenames=None,
            cameras=_cameras(chosen, [image.name for image in train], centre, float(half)),
            scene_box=SceneBox(aabb=torch.from_numpy((scene.box_m - centre) * MODEL_PER_METRE).float()),
            dataparser_transform=transform,
            dataparser_scale=MODEL_PER_METRE,
            metadata={
                "points3D_xyz": torch.from_numpy((cloud.xyz_m - centre) * MODEL_PER_METRE).float(),
                "points3D_rgb": torch.from_numpy(cloud.rgb),
                "points3D_normals": torch.from_numpy(cloud.normals).float(),
                "scene_images": tuple(chosen),
                "scene_on_model": on_model,
            },
        )

    def _split(self, scene: Scene) -> tuple[list[SceneImage], list[SceneImage]]:
        """Training and held-out images, in the scene's order."""
        names = [image.name for image in scene.images]
        wanted = matching(names, self.config.images, "--images", scene)
        held = matching(names, self.config.eval_images, "--eval-images", scene)
        chosen = [image for image in scene.images if image.name in wanted]
        train = [image for image in chosen if image.split == "train" and image.name not in held]
        if not train:
            raise SceneError(
                f"No image of {scene.folder} is left to train on. "
                f"Widen --images or hold out fewer; the scene has {', '.join(names)}."
            )
        return train, [image for image in chosen if image not in train]


def matching(names: Sequence[str], globs: Sequence[str], flag: str, scene: Scene) -> set[str]:
    """The names that any glob of a flag matches; SceneError for a glob that matches none."""
    found: set[str] = set()
    for glob in globs:
        matches = fnmatch.filter(names, glob)
        if not matches:
            raise SceneError(f"{flag} {glob} matches no image of {scene.folder}. It has: {', '.join(names)}.")
        found.update(matches)
    return found


def _spacing(cloud: Cloud) -> float:
    """Typical distance between neighbouring points, from the area that they cover."""
    width, depth = np.ptp(cloud.xyz_m[:, :2], axis=0)
    level = np.abs(cloud.normals[:, 2]) > 0.5 if cloud.normals.any() else np.ones(len(cloud.xyz_m), bool)
    return float(np.sqrt(width * depth / max(int(level.sum()), 1)))


def _cameras(images: list[SceneImage], train_names: list[str], centre: np.ndarray, half: float) -> Cameras:
    poses, focals, rows, quadratics, suns, indices = [], [], [], [], [], []
    for image in images:
        camera = normalized_camera(image, centre)
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
    """Where a pinhole would stand to look at the scene from the satellite's direction (OpenGL camera-to-model)."""
    back = camera.view_direction()
    right = camera.matrix[0, :3] - (camera.matrix[0, :3] @ back) * back
    right /= np.linalg.norm(right)
    return np.column_stack([right, np.cross(back, right), back, distance * back]).astype(np.float32)
