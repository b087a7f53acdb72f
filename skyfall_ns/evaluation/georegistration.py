"""How far a scene is from where it is on Earth, told by its cameras where the true ones are known."""

import json
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.cameras import camera_from_dict
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.scene.scene import Scene

GRID = 5  # points along each side of the box
TOO_FEW = 2  # images: one camera does not tell heights


def shift_of_cameras(scene: Scene, folder: Path) -> tuple[float, float, float] | None:
    """Metres east, north and up to add to a scene so that its images are where the true RPCs `NAME.json` of a folder
    (of whole vendor images) see them: least squares over points of its box. None with fewer than two of its images
    there; SceneError for a damaged file. Unlike a shift between two DSMs it depends on no run."""
    frame, box = LocalFrame.from_dict(scene.frame), np.asarray(scene.box_m)
    points = np.stack(np.meshgrid(*np.linspace(box[0], box[1], GRID).T), -1).reshape(-1, 3)
    places = frame.to_geodetic(points)
    seen = [
        (camera_from_dict(image.camera), _read(folder / f"{image.name}.json").project(places) - np.array(image.crop_px))
        for image in scene.images
        if (folder / f"{image.name}.json").is_file()
    ]
    if len(seen) < TOO_FEW:
        return None

    def residuals(offset_m: np.ndarray) -> np.ndarray:
        return np.concatenate([(camera.project(points + offset_m) - pixels).ravel() for camera, pixels in seen])

    east, north, up = -least_squares(residuals, np.zeros(3)).x
    return float(east), float(north), float(up)


def _read(path: Path) -> RPC:
    try:
        return RPC.from_dict(json.loads(path.read_text()))
    except (LookupError, TypeError, ValueError) as error:
        raise SceneError(f"{path} is damaged ({type(error).__name__}: {error}). Make the truth again.") from error
