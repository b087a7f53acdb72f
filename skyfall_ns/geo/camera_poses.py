"""Cameras that look at a place: look-at poses, orbits, and the camera-path JSON that ns-render reads.

Poses are camera_to_local in OpenGL axes (x right, y up, z backwards), in whatever unit the positions have.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray


def look_at(eye: Sequence[float] | ndarray, target: Sequence[float] | ndarray) -> Float64[ndarray, "4 4"]:
    """A level camera at `eye` with `target` in the middle; where it looks straight down, north (y) is at the top."""
    eye, target = np.asarray(eye, np.float64), np.asarray(target, np.float64)
    back = (eye - target) / np.linalg.norm(eye - target)
    up = np.array([0.0, 0.0, 1.0]) if np.hypot(back[0], back[1]) > 1e-9 else np.array([0.0, 1.0, 0.0])
    right = np.cross(up, back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.column_stack([right, np.cross(back, right), back, eye])
    return pose


def orbit(target: Sequence[float] | ndarray, radius: float, elevation_deg: float, n: int) -> Float64[ndarray, "n 4 4"]:
    """`n` cameras around `target` at one distance and one elevation above the horizon, clockwise seen from above,
    beginning in the south."""
    azimuth = np.pi + 2 * np.pi * np.arange(n) / n
    elevation = np.radians(elevation_deg)
    flat = radius * np.cos(elevation)
    offsets = np.stack([flat * np.sin(azimuth), flat * np.cos(azimuth), np.full(n, radius * np.sin(elevation))], -1)
    return np.stack([look_at(np.asarray(target, np.float64) + offset, target) for offset in offsets])


def camera_path(poses: Float64[ndarray, "n 4 4"], fov_deg: float, size: tuple[int, int], fps: float) -> dict[str, Any]:
    """The dictionary that `ns-render camera-path` reads; `fov_deg` is vertical, `size` is (width, height)."""
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
