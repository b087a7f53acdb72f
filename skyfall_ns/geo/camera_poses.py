"""Poses of perspective cameras: look-at poses, orbits, and the camera-path JSON of ns-render.

Poses are camera_to_local in OpenGL axes (x right, y up, z backward), in the unit of the positions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray


def look_at(eye: Sequence[float] | ndarray, target: Sequence[float] | ndarray) -> Float64[ndarray, "4 4"]:
    """Pose of a level camera at `eye` with `target` at the image center; straight down, north (y) is at the top."""
    eye, target = np.asarray(eye, np.float64), np.asarray(target, np.float64)
    backward = (eye - target) / np.linalg.norm(eye - target)
    up = np.array([0.0, 0.0, 1.0]) if np.hypot(backward[0], backward[1]) > 1e-9 else np.array([0.0, 1.0, 0.0])
    right = np.cross(up, backward)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.column_stack([right, np.cross(backward, right), backward, eye])
    return pose


def look_at_opencv(eye: Sequence[float] | ndarray, target: Sequence[float] | ndarray) -> Float64[ndarray, "4 4"]:
    """Rigid transform from local coordinates to the OpenCV axes of the camera of `look_at`."""
    pose = look_at(eye, target) @ np.diag([1.0, -1.0, -1.0, 1.0])
    matrix = np.eye(4)
    matrix[:3, :3] = pose[:3, :3].T
    matrix[:3, 3] = -matrix[:3, :3] @ pose[:3, 3]
    return matrix


def orbit_poses(
    target: Sequence[float] | ndarray, radius: float, elevation_deg: float, count: int
) -> Float64[ndarray, "n 4 4"]:
    """Poses of `count` cameras on a circle around `target` at one distance and one elevation above the horizon.

    They are clockwise as seen from above and begin in the south.
    """
    azimuth = np.pi + 2 * np.pi * np.arange(count) / count
    elevation = np.radians(elevation_deg)
    horizontal = radius * np.cos(elevation)
    offsets = np.stack(
        [horizontal * np.sin(azimuth), horizontal * np.cos(azimuth), np.full(count, radius * np.sin(elevation))], -1
    )
    return np.stack([look_at(np.asarray(target, np.float64) + offset, target) for offset in offsets])


def camera_path(poses: Float64[ndarray, "n 4 4"], fov_deg: float, size: tuple[int, int], fps: float) -> dict[str, Any]:
    """Dictionary in the format of `ns-render camera-path`; `fov_deg` is vertical, `size` is (width, height)."""
    width, height = size
    frames = [
        {"camera_to_world": pose.reshape(-1).tolist(), "fov": fov_deg, "aspect": width / height} for pose in poses
    ]
    return {
        "camera_type": "perspective",
        "render_width": width,
        "render_height": height,
        "fps": fps,
        "seconds": len(frames) / fps,
        "is_cycle": True,
        "camera_path": frames,
    }
