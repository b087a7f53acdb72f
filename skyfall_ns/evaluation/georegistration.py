"""Georegistration error of a scene, from its cameras and the true ones where those are known."""

import json
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

from skyfall_ns.errors import SceneError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.scene.scene import Scene

GRID_POINTS = 5  # along each side of the box
MIN_IMAGES = 2  # one camera does not determine heights


def fit_shift_to_true_rpcs(scene: Scene, directory: Path) -> tuple[float, float, float] | None:
    """Fit the shift (meters east, north, up) that moves a scene so that its cameras agree with the true RPCs, by least
    squares over points of its box. Unlike a shift between two DSMs it does not depend on a run.

    `directory` holds the RPCs of the whole vendor images, `NAME.json`. Returns None if it has fewer than two of the
    scene's images. Raises SceneError for a damaged file.
    """
    frame, box = scene.frame, np.asarray(scene.box_m)
    points = np.stack(np.meshgrid(*np.linspace(box[0], box[1], GRID_POINTS).T), -1).reshape(-1, 3)
    lonlath = frame.to_geodetic(points)
    observations = [
        (image.camera, _read_rpc(directory / f"{image.name}.json").project(lonlath) - np.array(image.crop_px))
        for image in scene.images
        if (directory / f"{image.name}.json").is_file()
    ]
    if len(observations) < MIN_IMAGES:
        return None

    def residuals_px(offset_m: np.ndarray) -> np.ndarray:
        return np.concatenate([(camera.project(points + offset_m) - pixels).ravel() for camera, pixels in observations])

    east, north, up = -least_squares(residuals_px, np.zeros(3)).x
    return float(east), float(north), float(up)


def _read_rpc(path: Path) -> RPC:
    try:
        return RPC.from_dict(json.loads(path.read_text()))
    except (LookupError, TypeError, ValueError) as error:
        raise SceneError(f"{path} is damaged ({type(error).__name__}: {error}). Make the truth again.") from error
