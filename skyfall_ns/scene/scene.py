"""The scene folder: what processing writes and training, exports and people read (`scene.json`, versioned)."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.cameras import camera_from_dict

SCENE_FILE = "scene.json"
FORMAT = "skyfall-scene"
VERSION = 2
DISPLAY_GAMMA = 2.2  # pictures are display-coded: light = value ** DISPLAY_GAMMA


@dataclass(frozen=True)
class Tone:
    """From digital numbers to 0..1, per band: clip((dn - low) / (high - low), 0, 1) ** (1 / gamma)."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    gamma: float = 2.2

    def apply(self, dn: np.ndarray) -> np.ndarray:
        """Digital numbers [..., bands] to float32 values in 0..1 of the same shape."""
        low, high = np.asarray(self.low, np.float32), np.asarray(self.high, np.float32)
        return np.clip((dn.astype(np.float32) - low) / (high - low), 0.0, 1.0) ** np.float32(1.0 / self.gamma)


@dataclass(frozen=True)
class SceneImage:
    """One satellite image of a scene. Paths are relative to the scene folder; pixels are (col, row), centre of the
    first at (0, 0). `camera` and `rpc` are the dictionaries of `geo.cameras` and `geo.rpc`, so that reading a scene
    needs neither rasterio nor pyproj."""

    name: str
    path: str
    width: int
    height: int
    camera: Mapping[str, Any]  # local metres -> pixels; see geo.cameras.camera_from_dict
    tone: Tone
    split: Literal["train", "test"] = "train"
    mask: str | None = None  # 8-bit PNG, 0 = not to be used
    acquired: str | None = None  # ISO 8601
    sun_deg: tuple[float, float] | None = None  # azimuth from true north, elevation
    sun_direction: tuple[float, float, float] | None = None  # unit vector to the sun in the local frame
    rpc: Mapping[str, Any] | None = None  # adjusted, of the crop
    shift_px: tuple[float, float] = (0.0, 0.0)  # what the adjustment added to (SAMP_OFF, LINE_OFF)
    crop_px: tuple[int, int] = (0, 0)  # first column and row of the crop in the vendor's file
    source: str = ""  # the vendor's file name


@dataclass(frozen=True)
class Scene:
    """A georeferenced scene. `frame` is the dictionary of `geo.frame.LocalFrame`; `box_m` is (min, max) in local
    meters; `surface` (ellipsoidal height), `surface_confidence` (0..1), `surface_source` (0 unknown, 1 matched, 2
    filled) and `surface_sigma` (standard deviation of heights in meters) are GeoTIFFs in the frame's CRS."""

    frame: Mapping[str, Any]
    box_m: np.ndarray  # [2, 3] float64
    images: tuple[SceneImage, ...]
    points: str | None = "points.ply"
    surface: str | None = None
    surface_confidence: str | None = None
    surface_source: str | None = None
    surface_sigma: str | None = None
    surface_grid: tuple[float, float, float] | None = (
        None  # x of the west edge, y of the north edge, cell: local metres
    )
    folder: Path = field(default=Path("."), compare=False)

    def image(self, name: str) -> SceneImage:
        """The image called `name`; a SceneError that lists the names if there is none."""
        for image in self.images:
            if image.name == name:
                return image
        raise SceneError(f"{self.folder} has no image {name}. Choose one of: {', '.join(i.name for i in self.images)}.")

    def save(self, folder: Path) -> None:
        """Write `scene.json` into `folder` by way of a temporary file."""
        text = json.dumps(_to_json(self), indent=1)
        handle, temporary = tempfile.mkstemp(dir=folder, prefix=".scene-", suffix=".json")
        try:
            with os.fdopen(handle, "w") as file:
                file.write(text)
            os.chmod(temporary, 0o644)
            os.replace(temporary, Path(folder) / SCENE_FILE)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, folder: Path) -> "Scene":
        """Read and validate a scene folder (or its scene.json).

        Raises SceneError if there is no scene, if it is damaged or of another version, or if a file behind it is gone.
        """
        folder = Path(folder)
        folder = folder.parent if folder.name == SCENE_FILE else folder
        scene = _from_json(_read_json(folder / SCENE_FILE), folder)
        for relative in _files(scene):
            if not (folder / relative).is_file():
                raise SceneError(f"{folder / relative} is missing. Run skyfall-process again, or copy the whole scene.")
        return scene


def _files(scene: Scene) -> list[str]:
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


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        folder = path.parent
        mend = "Make one with skyfall-process"
        if not folder.is_absolute():
            mend += f", or call the command from where {folder} lies"
        raise SceneError(f"There is no scene at {folder.resolve()} ({SCENE_FILE} not found). {mend}.")
    try:
        data = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise SceneError(f"{path} is damaged ({error}). Run skyfall-process again.") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise SceneError(f"{path} is not a skyfall scene. Make one with skyfall-process.")
    version = data.get("version")
    if version != VERSION:
        mend = "Update skyfall-ns" if isinstance(version, int) and version > VERSION else "Run skyfall-process again"
        raise SceneError(f"{path} has version {version}, this program reads version {VERSION}. {mend}.")
    return data


def _to_json(scene: Scene) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "frame": dict(scene.frame),
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
    row["camera"] = dict(image.camera)
    row["rpc"] = None if image.rpc is None else dict(image.rpc)
    row["tone"] = {"low": list(image.tone.low), "high": list(image.tone.high), "gamma": image.tone.gamma}
    return row


def _from_json(data: dict[str, Any], folder: Path) -> Scene:
    try:
        scene = Scene(
            frame=dict(data["frame"]),
            box_m=np.asarray(data["box_m"], np.float64),
            images=tuple(_image_from_json(row) for row in data["images"]),
            points=_inside(data["points"]),
            surface=_inside(data["surface"]),
            surface_confidence=_inside(data["surface_confidence"]),
            surface_source=_inside(data["surface_source"]),
            surface_sigma=_inside(data["surface_sigma"]),
            surface_grid=_grid(data["surface_grid"]),
            folder=folder,
        )
        _validate(scene)
    except (LookupError, TypeError, ValueError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise SceneError(f"{folder / SCENE_FILE} is damaged ({reason}). Run skyfall-process again.") from error
    return scene


def _image_from_json(row: dict[str, Any]) -> SceneImage:
    tone = row["tone"]
    return SceneImage(
        name=str(row["name"]),
        path=str(_inside(row["path"])),
        width=int(row["width"]),
        height=int(row["height"]),
        camera=dict(row["camera"]),
        tone=Tone(tuple(map(float, tone["low"])), tuple(map(float, tone["high"])), float(tone["gamma"])),
        split=row["split"],
        mask=_inside(row["mask"]),
        acquired=row["acquired"],
        sun_deg=None if row["sun_deg"] is None else (float(row["sun_deg"][0]), float(row["sun_deg"][1])),
        sun_direction=None if row["sun_direction"] is None else _vector(row["sun_direction"]),
        rpc=row["rpc"],
        shift_px=(float(row["shift_px"][0]), float(row["shift_px"][1])),
        crop_px=(int(row["crop_px"][0]), int(row["crop_px"][1])),
        source=str(row["source"]),
    )


def _inside(path: str | None) -> str | None:
    """A relative path that stays in the scene folder; scenes come from others, so nothing else is followed."""
    if path is None:
        return None
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"path {path!r} leaves the scene folder")
    return path


def _vector(values: Any) -> tuple[float, float, float]:
    x, y, z = (float(v) for v in values)
    if not 0.99 < math.hypot(x, y, z) < 1.01:
        raise ValueError("sun_direction is not a unit vector")
    return x, y, z


def _grid(values: Any) -> tuple[float, float, float] | None:
    if values is None:
        return None
    x, y, cell = (float(v) for v in values)
    if not all(map(math.isfinite, (x, y, cell))) or cell <= 0:
        raise ValueError("surface_grid is not (x, y, cell) in metres")
    return x, y, cell


def _validate(scene: Scene) -> None:
    if scene.box_m.shape != (2, 3) or not np.isfinite(scene.box_m).all() or (scene.box_m[1] <= scene.box_m[0]).any():
        raise ValueError("box_m is not [[min x, y, z], [max x, y, z]] in metres")
    origin = scene.frame["origin"]
    if len(origin) != 3 or not all(math.isfinite(float(v)) for v in origin) or not isinstance(scene.frame["crs"], str):
        raise ValueError("frame needs a crs and an origin of three numbers")
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
    if image.split not in ("train", "test"):
        raise ValueError(f"split of {image.name} is neither train nor test")
    if image.width <= 0 or image.height <= 0:
        raise ValueError(f"size of {image.name} is not positive")
    if not image.name or set(image.name) & set("/\\"):
        raise ValueError(f"name {image.name!r} is no file name")
    camera_from_dict(image.camera)
    if not (image.acquired is None or isinstance(image.acquired, str)):
        raise ValueError(f"date of {image.name} is no text")
    if not (image.rpc is None or isinstance(image.rpc, dict)):
        raise ValueError(f"rpc of {image.name} is no dictionary")
    numbers = (*image.tone.low, *image.tone.high, image.tone.gamma, *image.shift_px, *(image.sun_deg or ()))
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"numbers of {image.name} are not finite")
    if not image.tone.low or len(image.tone.low) != len(image.tone.high) or image.tone.gamma <= 0:
        raise ValueError(f"tone of {image.name} is incomplete")
    if any(high <= low for low, high in zip(image.tone.low, image.tone.high, strict=True)):
        raise ValueError(f"tone of {image.name} has high <= low")
