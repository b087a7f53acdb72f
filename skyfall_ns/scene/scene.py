"""The scene directory (`scene.json`, versioned): written by processing, read by training, exports and reports."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.cameras import AffineCamera, PinholeCamera, camera_from_dict
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.io.files import write_json
from skyfall_ns.io.json_files import read_json

SCENE_FILE = "scene.json"
FORMAT = "skyfall-scene"
VERSION = 2
MAX_IMAGE_PIXELS = 400_000_000  # of one image: processing writes at most 100 megapixels
DISPLAY_GAMMA = 2.2  # images are gamma-encoded: light = value ** DISPLAY_GAMMA


@dataclass(frozen=True)
class Tone:
    """Tone curve from digital numbers to 0..1, per band: clip((dn - low) / (high - low), 0, 1) ** (1 / gamma)."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    gamma: float = 2.2

    def apply_curve(self, dn: np.ndarray) -> np.ndarray:
        """Map digital numbers [..., bands] to float32 values in 0..1 of the same shape."""
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        return np.clip((dn.astype(np.float32) - low) / (high - low), 0.0, 1.0) ** np.float32(1.0 / self.gamma)


@dataclass(frozen=True)
class SceneImage:
    """One satellite image of a scene.

    Paths are relative to the scene directory. Pixels are (col, row), the center of the first is (0, 0). `rpc` is the
    dictionary of `geo.rpc.RPC`, so that reading a scene does not need rasterio."""

    name: str
    path: str
    width: int
    height: int
    camera: AffineCamera | PinholeCamera  # local meters -> pixels
    tone: Tone
    split: Literal["train", "test"] = "train"
    mask: str | None = None  # 8-bit PNG, 0 for pixels to ignore
    acquired: str | None = None  # ISO 8601
    sun_deg: tuple[float, float] | None = None  # azimuth from true north, elevation
    sun_direction: tuple[float, float, float] | None = None  # unit vector to the sun in the local frame
    rpc: Mapping[str, Any] | None = None  # adjusted, of the crop
    shift_px: tuple[float, float] = (0.0, 0.0)  # RPC bias: added by the adjustment to (SAMP_OFF, LINE_OFF)
    crop_px: tuple[int, int] = (0, 0)  # first column and row of the crop in the vendor's file
    source: str = ""  # name of the vendor's file


@dataclass(frozen=True)
class Scene:
    """A georeferenced scene.

    `box_m` is (min, max) in local meters. `surface` (ellipsoidal height in meters), `surface_confidence` (in 0..1),
    `surface_source` (0 unknown, 1 matched, 2 filled) and `surface_sigma` (standard deviation of heights in meters) are
    GeoTIFFs in the frame's CRS."""

    frame: LocalFrame
    box_m: np.ndarray  # [2, 3] float64
    images: tuple[SceneImage, ...]
    points: str | None = "points.ply"
    surface: str | None = None
    surface_confidence: str | None = None
    surface_source: str | None = None
    surface_sigma: str | None = None
    surface_grid: tuple[float, float, float] | None = (
        None  # x of the west edge, y of the north edge, cell: local meters
    )
    directory: Path = field(default=Path("."), compare=False)

    def image_by_name(self, name: str) -> SceneImage:
        """The image called `name`; SceneError that lists the names if there is none."""
        for image in self.images:
            if image.name == name:
                return image
        names = ", ".join(image.name for image in self.images)
        raise SceneError(f"{self.directory} has no image {name}. Choose one of: {names}.")

    def save_to(self, directory: Path) -> None:
        """Write `scene.json` into `directory` through a temporary file."""
        write_json(Path(directory) / SCENE_FILE, _scene_to_json(self))

    @classmethod
    def from_directory(cls, directory: Path) -> "Scene":
        """Read and validate a scene directory (or its scene.json).

        Raises SceneError if there is no scene, if it is damaged or of another version, or if one of its files is
        missing.
        """
        directory = Path(directory)
        directory = directory.parent if directory.name == SCENE_FILE else directory
        scene = _scene_from_json(_read_scene_json(directory / SCENE_FILE), directory)
        for relative in _referenced_files(scene):
            file = directory / relative
            if not file.is_file():
                raise SceneError(f"{file} is missing. Run skyfall-process again, or copy the whole scene.")
            if not file.resolve().is_relative_to(directory.resolve()):
                raise SceneError(f"{file} is a link out of the scene. Copy the file itself to its place.")
        return scene


def _referenced_files(scene: Scene) -> list[str]:
    """Relative paths of the files that scene.json names."""
    files = [
        scene.points,
        scene.surface,
        scene.surface_confidence,
        scene.surface_source,
        scene.surface_sigma,
        *(i.path for i in scene.images),
        *(i.mask for i in scene.images),
    ]
    return [f for f in files if f is not None]


def _read_scene_json(path: Path) -> dict[str, Any]:
    """Read scene.json; SceneError if it is missing, damaged, or of another format or version."""
    if not path.is_file():
        directory = path.parent
        remedy = "Make one with skyfall-process"
        if not directory.is_absolute():
            remedy += f", or call the command from the directory that contains {directory}"
        raise SceneError(f"There is no scene at {directory.resolve()} ({SCENE_FILE} not found). {remedy}.")
    try:
        data = read_json(path)
    except ValueError as error:
        raise SceneError(f"{path} is damaged ({error}). Run skyfall-process again.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise SceneError(f"{path} is not a skyfall scene. Make one with skyfall-process.")
    version = data.get("version")
    if version != VERSION:
        remedy = "Update skyfall-ns" if isinstance(version, int) and version > VERSION else "Run skyfall-process again"
        raise SceneError(f"{path} has version {version}, this program reads version {VERSION}. {remedy}.")
    return data


def _scene_to_json(scene: Scene) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "frame": scene.frame.to_dict(),
        "box_m": np.asarray(scene.box_m, float).tolist(),
        "points": scene.points,
        "surface": scene.surface,
        "surface_confidence": scene.surface_confidence,
        "surface_source": scene.surface_source,
        "surface_sigma": scene.surface_sigma,
        "surface_grid": scene.surface_grid,
        "images": [_image_to_json(image) for image in scene.images],
    }


def _image_to_json(image: SceneImage) -> dict[str, Any]:
    row = {key: getattr(image, key) for key in SceneImage.__dataclass_fields__}
    row["camera"] = image.camera.to_dict()
    row["rpc"] = None if image.rpc is None else dict(image.rpc)
    row["tone"] = {"low": list(image.tone.low), "high": list(image.tone.high), "gamma": image.tone.gamma}
    return row


def _scene_from_json(data: dict[str, Any], directory: Path) -> Scene:
    try:
        scene = Scene(
            frame=LocalFrame.from_dict(data["frame"]),
            box_m=np.asarray(data["box_m"], np.float64),
            images=tuple(_image_from_json(row) for row in data["images"]),
            points=_check_relative_path(data["points"]),
            surface=_check_relative_path(data["surface"]),
            surface_confidence=_check_relative_path(data["surface_confidence"]),
            surface_source=_check_relative_path(data["surface_source"]),
            surface_sigma=_check_relative_path(data["surface_sigma"]),
            surface_grid=_parse_surface_grid(data["surface_grid"]),
            directory=directory,
        )
        _validate_scene(scene)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SceneError(f"{directory / SCENE_FILE} is damaged ({reason}). Run skyfall-process again.") from error
    return scene


def _image_from_json(row: dict[str, Any]) -> SceneImage:
    tone = row["tone"]
    return SceneImage(
        name=str(row["name"]),
        path=str(_check_relative_path(row["path"])),
        width=int(row["width"]),
        height=int(row["height"]),
        camera=camera_from_dict(row["camera"]),
        tone=Tone(tuple(map(float, tone["low"])), tuple(map(float, tone["high"])), float(tone["gamma"])),
        split=row["split"],
        mask=_check_relative_path(row["mask"]),
        acquired=row["acquired"],
        sun_deg=None if row["sun_deg"] is None else (float(row["sun_deg"][0]), float(row["sun_deg"][1])),
        sun_direction=None if row["sun_direction"] is None else _unit_vector(row["sun_direction"]),
        rpc=row["rpc"],
        shift_px=(float(row["shift_px"][0]), float(row["shift_px"][1])),
        crop_px=(int(row["crop_px"][0]), int(row["crop_px"][1])),
        source=str(row["source"]),
    )


def _check_relative_path(path: str | None) -> str | None:
    """Return a relative path within the scene directory; ValueError for others, since scenes may be untrusted."""
    if path is None:
        return None
    if not isinstance(path, str) or Path(path).is_absolute() or {"..", ""} & set(re.split(r"[/\\\\]", path)):
        raise ValueError(f"path {path!r} leaves the scene directory")
    return path


def _unit_vector(values: Any) -> tuple[float, float, float]:
    """Three numbers as a direction; ValueError unless their norm is 1."""
    x, y, z = (float(v) for v in values)
    if not 0.99 < math.hypot(x, y, z) < 1.01:
        raise ValueError("sun_direction is not a unit vector")
    return x, y, z


def _parse_surface_grid(values: Any) -> tuple[float, float, float] | None:
    """(x of the west edge, y of the north edge, cell size) in local meters; ValueError for other values."""
    if values is None:
        return None
    x, y, cell = (float(v) for v in values)
    if not all(map(math.isfinite, (x, y, cell))) or cell <= 0:
        raise ValueError("surface_grid is not (x, y, cell) in meters")
    return x, y, cell


def _validate_scene(scene: Scene) -> None:
    """Raise ValueError for values that no scene has."""
    if scene.box_m.shape != (2, 3) or not np.isfinite(scene.box_m).all() or (scene.box_m[1] <= scene.box_m[0]).any():
        raise ValueError("box_m is not [[min x, y, z], [max x, y, z]] in meters")
    layers = scene.surface, scene.surface_confidence, scene.surface_source, scene.surface_sigma, scene.surface_grid
    if len({layer is None for layer in layers}) > 1:
        raise ValueError("surface, its confidence, source, sigma and surface_grid belong together")
    if not scene.images:
        raise ValueError("no images")
    names = [image.name for image in scene.images]
    if len(set(names)) != len(names):
        raise ValueError("two images have the same name")
    for image in scene.images:
        _validate_image(image)


def _validate_image(image: SceneImage) -> None:
    """Raise ValueError for values that no image has."""
    if image.split not in ("train", "test"):
        raise ValueError(f"split of {image.name} is neither train nor test")
    if image.width <= 0 or image.height <= 0:
        raise ValueError(f"size of {image.name} is not positive")
    if image.width * image.height > MAX_IMAGE_PIXELS:
        raise ValueError(f"{image.name} has more than {MAX_IMAGE_PIXELS / 1e6:.0f} megapixels")
    if not image.name or set(image.name) & set("/\\"):
        raise ValueError(f"name {image.name!r} is not a file name")
    if not (image.acquired is None or isinstance(image.acquired, str)):
        raise ValueError(f"date of {image.name} is not text")
    if not (image.rpc is None or isinstance(image.rpc, dict)):
        raise ValueError(f"rpc of {image.name} is not a dictionary")
    numbers = (*image.tone.low, *image.tone.high, image.tone.gamma, *image.shift_px, *(image.sun_deg or ()))
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{image.name} has NaN or infinity")
    if not image.tone.low or len(image.tone.low) != len(image.tone.high) or image.tone.gamma <= 0:
        raise ValueError(f"tone of {image.name} is incomplete")
    if any(high <= low for low, high in zip(image.tone.low, image.tone.high, strict=True)):
        raise ValueError(f"tone of {image.name} has high <= low")
