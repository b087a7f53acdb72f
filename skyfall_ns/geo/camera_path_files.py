"""Camera paths as files: of ns-render with a georeference, of Skyfall-GS, GeoJSON lines, and KML tours."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.camera_poses import camera_path
from skyfall_ns.geo.frame import LocalFrame

GEOREFERENCE = "skyfall_georeference"


@dataclass(frozen=True)
class PathCameras:
    """Cameras of a path, camera_to_world in OpenGL axes; `fov_deg` is vertical. `frame`, `scale` and `offset_m` relate
    the world of the file to local meters, world = (local + offset_m) * scale; frame is None if the file does not say
    where it is."""

    poses: Float64[ndarray, "n 4 4"]
    fov_deg: tuple[float, ...]
    size: tuple[int, int]
    fps: float
    frame: LocalFrame | None = None
    scale: float = 1.0
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def local_poses(self) -> Float64[ndarray, "n 4 4"]:
        """The poses in local meters."""
        poses = self.poses.copy()
        poses[:, :3, 3] = poses[:, :3, 3] / self.scale - np.array(self.offset_m)
        return poses


def path_with_georeference(
    poses: Float64[ndarray, "n 4 4"],
    fov_deg: float,
    size: tuple[int, int],
    fps: float,
    frame: LocalFrame,
    scale: float,
    offset_m: Float64[ndarray, "3"],
    is_cycle: bool,
) -> dict[str, Any]:
    """Dictionary of `ns-render camera-path` with the transform to local meters beside it; poses are in model space."""
    georeference = {"frame": frame.to_dict(), "scale": scale, "offset_m": list(map(float, offset_m))}
    return camera_path(poses, fov_deg, size, fps) | {"is_cycle": is_cycle, GEOREFERENCE: georeference}


def read_camera_path(path: Path) -> PathCameras:
    """Read a camera path of ns-render, its viewer or Skyfall-GS.

    Raises SkyfallError if the file is damaged or has no frames, as paths that the viewer saved with fewer than two
    keyframes.
    """
    data = _read_json(path)
    keyframes = data.get("keyframes")
    if isinstance(keyframes, list) and len(keyframes) < 2:
        raise SkyfallError(
            f"{path} has {len(keyframes) or 'no'} keyframe, and a path needs two. Add more in the viewer, and save it."
        )
    try:
        frames = data["camera_path"]
        poses = np.array([frame["camera_to_world"] for frame in frames], np.float64).reshape(-1, 4, 4)
        fov = tuple(float(frame["fov"]) for frame in frames)
        size = int(data["render_width"]), int(data["render_height"])
        place = data.get(GEOREFERENCE)
        frame = None if place is None else LocalFrame.from_dict(place["frame"])
        scale = 1.0 if place is None else float(place["scale"])
        offset = (0.0, 0.0, 0.0) if place is None else tuple(map(float, place["offset_m"]))
        fps = float(data.get("fps", 24.0))
    except (LookupError, TypeError, ValueError) as error:
        raise SkyfallError(f"{path} is not a camera path ({error!r}). Make one with skyfall-path.") from error
    if not len(poses) or not np.isfinite(poses).all() or min(size) < 1:
        raise SkyfallError(f"{path} has no frames, or NaN in them. Make a path with skyfall-path.")
    return PathCameras(poses, fov, size, fps, frame, scale, offset)  # type: ignore[arg-type]


def read_geojson_line(path: Path) -> list[list[float]]:
    """Positions (lon, lat, and a height if there is one) of the first LineString of a GeoJSON file. Raises SkyfallError
    if there is none of at least two positions."""
    data = _read_json(path)
    features = data.get("features", [data])
    for feature in features if isinstance(features, list) else []:
        geometry = feature.get("geometry", feature) if isinstance(feature, Mapping) else {}
        if geometry.get("type") == "LineString" and len(geometry.get("coordinates", ())) >= 2:
            return [list(map(float, position)) for position in geometry["coordinates"]]
    raise SkyfallError(f"{path} has no LineString of at least two positions. Draw a line in lon, lat.")


def skyfall_gs_path(
    enu_poses: Float64[ndarray, "n 4 4"], target: ndarray, fov_deg: float, size: tuple[int, int], fps: float
) -> dict[str, Any]:
    """Dictionary in the format of Skyfall-GS' camera_paths: meters east, north and up of an observer."""
    offset = enu_poses[0, :3, 3] - target
    radius = float(np.linalg.norm(offset))
    path = camera_path(enu_poses, fov_deg, size, fps)
    return {
        "_target": target.tolist(),
        "_radius": radius,
        "_elevation": float(np.degrees(np.arcsin(offset[2] / radius))),
        **path,
    }


def kml_tour(local_poses: Float64[ndarray, "n 4 4"], frame: LocalFrame, seconds: float, name: str) -> str:
    """KML tour of cameras in local meters. Altitudes are meters above the ground, which is z = 0 of the frame, because
    those of KML would be above a geoid."""
    lonlath = frame.to_geodetic(local_poses[:, :3, 3])
    convergence = frame.convergence_deg()
    items = []
    for (lon, lat, _), pose in zip(lonlath, local_poses, strict=True):
        forward = -pose[:3, 2]
        up = pose[:3, 1]
        level = forward if np.hypot(*forward[:2]) > 1e-6 else up
        heading = (np.degrees(np.arctan2(level[0], level[1])) + convergence) % 360.0
        tilt = float(np.degrees(np.arccos(np.clip(-forward[2], -1.0, 1.0))))  # 0: straight down
        camera = (
            f"<Camera><longitude>{lon:.9f}</longitude><latitude>{lat:.9f}</latitude>"
            f"<altitude>{pose[2, 3]:.3f}</altitude><heading>{heading:.4f}</heading><tilt>{tilt:.4f}</tilt>"
            "<altitudeMode>relativeToGround</altitudeMode></Camera>"
        )
        duration = seconds / len(local_poses)
        items.append(
            f"<gx:FlyTo><gx:duration>{duration:.4f}</gx:duration><gx:flyToMode>smooth</gx:flyToMode>{camera}</gx:FlyTo>"
        )
    return (
        '<?xml version="1.0" encoding="UTF-8"?>\n<kml xmlns="http://www.opengis.net/kml/2.2" '
        'xmlns:gx="http://www.google.com/kml/ext/2.2"><Document>'
        f"<gx:Tour><name>{escape(name)}</name><gx:Playlist>{''.join(items)}</gx:Playlist></gx:Tour></Document></kml>\n"
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not Path(path).is_file():
        raise SkyfallError(f"{path} does not exist. Pass a JSON file.")
    try:
        data = json.loads(Path(path).read_text())
    except (ValueError, UnicodeDecodeError) as error:
        raise SkyfallError(f"{path} is not JSON ({error}). Export it again.") from error
    if not isinstance(data, dict):
        raise SkyfallError(f"{path} holds no JSON object. Export it again.")
    return data
