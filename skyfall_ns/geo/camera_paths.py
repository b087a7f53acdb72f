"""Paths of perspective cameras in local meters: circles, spirals, grids, flights, and the published orbits.

Poses are those of `camera_poses`: camera_to_local in OpenGL axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from skyfall_ns.geo.camera_poses import look_at

PUBLISHED_ORBITS = {
    "r612_e78": (125.0, 600.0),
    "r488_e50": (313.0, 375.0),
    "r352_e27": (313.0, 162.0),
    "r328_e17": (313.0, 100.0),
}
"""Orbits of Skyfall-GS (camera_paths/JAX): horizontal radius and altitude above the target, meters."""
PUBLISHED_FOV_DEG, PUBLISHED_FRAMES, PUBLISHED_SIZE = 20.0, 300, (1024, 1024)


@dataclass(frozen=True)
class CircleSample:
    """Cameras around a target: azimuths clockwise from north, elevations above the horizon, distances in meters."""

    azimuth_deg: Float64[ndarray, " n"]
    elevation_deg: Float64[ndarray, " n"]
    distance_m: Float64[ndarray, " n"]


def poses_around(target: Sequence[float] | ndarray, samples: CircleSample) -> Float64[ndarray, "n 4 4"]:
    """Poses that look at a target."""
    azimuth, elevation = np.radians(samples.azimuth_deg), np.radians(samples.elevation_deg)
    horizontal = samples.distance_m * np.cos(elevation)
    offsets = np.stack(
        [horizontal * np.sin(azimuth), horizontal * np.cos(azimuth), samples.distance_m * np.sin(elevation)], -1
    )
    return np.stack([look_at(np.asarray(target, np.float64) + offset, target) for offset in offsets])


def spiral_samples(
    distances_m: tuple[float, float], elevations_deg: tuple[float, float], turns: float, count: int
) -> CircleSample:
    """A spiral from the first distance and elevation to the second; clockwise, beginning in the south."""
    progress = np.linspace(0.0, 1.0, count)
    return CircleSample(
        180.0 + 360.0 * turns * progress,
        elevations_deg[0] + (elevations_deg[1] - elevations_deg[0]) * progress,
        distances_m[0] + (distances_m[1] - distances_m[0]) * progress,
    )


def published_samples(name: str, count: int = PUBLISHED_FRAMES) -> CircleSample:
    """One of PUBLISHED_ORBITS: counterclockwise from above, beginning in the east."""
    radius, altitude = PUBLISHED_ORBITS[name]
    elevation = float(np.degrees(np.arctan2(altitude, radius)))
    azimuth = 90.0 - 360.0 * np.arange(count) / count
    return CircleSample(azimuth, np.full(count, elevation), np.full(count, float(np.hypot(radius, altitude))))


def grid_poses(
    box_m: Float64[ndarray, "2 3"], spacing_m: float, height_m: float, pitch_deg: float
) -> Float64[ndarray, "n 4 4"]:
    """Cameras above the nodes of a grid over a box, row by row in alternating directions, at a height above z = 0; they
    look north, `pitch_deg` below the horizon (90: straight down)."""
    low, high = np.asarray(box_m, np.float64)[:, :2]
    columns, rows = (max(1, int(np.floor((high[axis] - low[axis]) / spacing_m)) + 1) for axis in (0, 1))
    middle = (low + high) / 2
    poses = []
    for row in range(rows):
        order = range(columns) if row % 2 == 0 else reversed(range(columns))
        for column in order:
            offset = (np.array([column, row]) - np.array([columns - 1, rows - 1]) / 2) * spacing_m
            poses.append(pitched_pose(np.array([*(middle + offset), height_m]), np.array([0.0, 1.0]), pitch_deg))
    return np.stack(poses)


def pitched_pose(eye: ndarray, heading: ndarray, pitch_deg: float) -> Float64[ndarray, "4 4"]:
    """Level camera that looks along a horizontal heading, `pitch_deg` below the horizon."""
    pitch = np.radians(pitch_deg)
    heading = heading / np.linalg.norm(heading)
    pose = look_at(eye, eye + np.array([*(heading * max(np.cos(pitch), 1e-6)), -np.sin(pitch)]))
    return pose


def flight_poses(
    waypoints: Float64[ndarray, "w 3"], count: int, pitch_deg: float, target_m: ndarray | None = None
) -> Float64[ndarray, "n 4 4"]:
    """Cameras at equal distances along a line of waypoints, looking ahead and `pitch_deg` down, or at a target."""
    waypoints = np.asarray(waypoints, np.float64)
    steps = np.linalg.norm(np.diff(waypoints, axis=0), axis=1)
    distance = np.concatenate([[0.0], np.cumsum(steps)])
    at = np.linspace(0.0, distance[-1], count)
    eyes = np.stack([np.interp(at, distance, waypoints[:, axis]) for axis in range(3)], -1)
    if target_m is not None:
        return np.stack([look_at(eye, target_m) for eye in eyes])
    segment = np.clip(np.searchsorted(distance, at, side="right") - 1, 0, len(steps) - 1)
    headings = np.diff(waypoints[:, :2], axis=0)[segment]
    return np.stack([pitched_pose(eye, heading, pitch_deg) for eye, heading in zip(eyes, headings, strict=True)])


def frames_that_see(
    poses: Float64[ndarray, "n 4 4"], fov_deg: float, aspect: float, box_m: Float64[ndarray, "2 3"]
) -> Bool[ndarray, " n"]:
    """Which cameras have a part of a box in their image; tested at a grid of points of the box."""
    axes = [np.linspace(low, high, 9) for low, high in np.asarray(box_m, np.float64).T]
    points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
    slope = np.tan(np.radians(fov_deg) / 2)
    seen = []
    for pose in poses:
        x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).T
        front = -z > 1e-6
        seen.append(bool((front & (np.abs(y) <= slope * -z) & (np.abs(x) <= aspect * slope * -z)).any()))
    return np.array(seen)
