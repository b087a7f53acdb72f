"""The curriculum of stage 2: cameras of each episode, at elevations that decrease from episode to episode."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.errors import TrainingError
from skyfall_ns.geo.camera_poses import look_at
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.option_checks import COUNT, InRange, check_options

FLAG = "--pipeline.curriculum."
FOOTPRINT_RATIO = 1.35
"""Half the footprint of a view over the spacing of look-at points, for fitted radii; that of the published JAX runs."""

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Episode:
    """One cycle of rendering, refining and training; `number` counts from 1."""

    number: int
    elevation_deg: float
    radius_m: float
    fov_deg: float
    steps: int


@dataclass(frozen=True)
class Curriculum:
    """Views of each episode: azimuths around every look-at point of a grid, at the episode's elevation and distance."""

    elevations_deg: Annotated[tuple[float, ...], InRange(0, 90, above=True)] = (60.0, 40.0, 20.0)
    """Elevation of the cameras above the horizon in degrees, one per episode."""
    radii_m: Annotated[tuple[float, ...] | None, InRange(0, 1e6, above=True)] = None
    """Distance from camera to look-at point in meters, one value or one per episode; None: fitted, so that the views of
    neighboring look-at points overlap and cover the scene."""
    fov_deg: Annotated[tuple[float, ...], InRange(1, 120)] = (30.0,)
    """Field of view of both axes in degrees, one value or one per episode."""
    steps: Annotated[tuple[int, ...], COUNT] = (200,)
    """Training steps with the refined views, one value or one per episode."""
    grid: Annotated[int, InRange(1, 100)] = 3
    """Look-at points per side: the interior points of linspace(-W/2, W/2, grid + 2), on the ground."""
    grid_extent_m: Annotated[float | None, InRange(0, 1e6, above=True)] = None
    """W, the side of the square that the grid divides, meters; None: the scene's box."""
    azimuths: Annotated[int, InRange(1, 360)] = 12
    """Number of evenly spaced directions around each look-at point."""
    azimuth_step: Annotated[float, InRange()] = 0.382
    """Rotation of all directions from one episode to the next, relative to their spacing; with the golden section
    directions hardly ever repeat. 0: the same directions in every episode, as in Skyfall-GS."""
    samples_per_view: Annotated[int, InRange(1, 100)] = 1
    """Views per direction, each refined independently."""
    sample_jitter_deg: Annotated[float, InRange(0, 10)] = 1.0
    """Maximum deviation of azimuth and elevation of the second and further samples of a view, degrees; 0: identical
    views, as in Skyfall-GS."""
    size_px: Annotated[int, InRange(16, 8192)] = 384
    """Width and height of the views."""

    def check_lengths(self) -> None:
        """Raise TrainingError, with the flag, for a list that has neither one value nor one per episode."""
        for name in ("elevations-deg", "radii-m", "fov-deg", "steps"):
            values, count = getattr(self, name.replace("-", "_")), len(self.elevations_deg)
            if values is not None and len(values) not in ({1, count} - {0}):
                raise TrainingError(
                    f"{FLAG}{name} has {len(values)} values, and {FLAG}elevations-deg has {count}. "
                    "Pass one value for all episodes, or one per episode."
                )

    def plan_episodes(self, box_m: Float64[ndarray, "2 3"]) -> tuple[Episode, ...]:
        """Episodes for a scene's box ([min, max], local meters). Raises TrainingError for options out of range."""
        check_options(self, FLAG)
        self.check_lengths()
        n = len(self.elevations_deg)
        fovs, steps = _per_episode(self.fov_deg, n), _per_episode(self.steps, n)
        if self.radii_m is None:
            spacing = float(self._extent_m(box_m).max()) / (self.grid + 1)
            radii = tuple(FOOTPRINT_RATIO * spacing / math.tan(math.radians(fov) / 2) for fov in fovs)
        else:
            radii = _per_episode(self.radii_m, n)
        rows = zip(self.elevations_deg, radii, fovs, steps, strict=True)
        return tuple(Episode(number, *row) for number, row in enumerate(rows, 1))

    def look_at_points(self, box_m: Float64[ndarray, "2 3"]) -> Float64[ndarray, "n 2"]:
        """Look-at points (x, y) around the center of the box, local meters: rows from south to north, each from west to
        east."""
        middle, (width, depth) = np.asarray(box_m)[:, :2].mean(0), self._extent_m(box_m)
        x, y = (np.linspace(-w / 2, w / 2, self.grid + 2)[1:-1] for w in (width, depth))
        return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2) + middle

    def _extent_m(self, box_m: ndarray) -> Float64[ndarray, "2"]:
        if self.grid_extent_m is not None:
            return np.full(2, self.grid_extent_m)
        return np.ptp(np.asarray(box_m, np.float64)[:, :2], axis=0)


REFERENCE_JAX = Curriculum(
    elevations_deg=(85.0, 75.0, 65.0, 55.0, 45.0), radii_m=(300.0, 275.0, 275.0, 250.0, 250.0), fov_deg=(60.0,),
    steps=(10_000,), grid=3, grid_extent_m=512.0, azimuths=6, azimuth_step=0.0, samples_per_view=2,
    sample_jitter_deg=0.0, size_px=1024,
)  # fmt: skip
"""Values of Skyfall-GS' `jax_v1`."""
REFERENCE_NYC = replace(
    REFERENCE_JAX, elevations_deg=(85.0, 75.0, 65.0, 55.0, 45.0, 25.0), radii_m=(600.0,) * 6, fov_deg=(20.0,), grid=4
)
"""Values of Skyfall-GS' `nyc_v1`, with its last episode, which Skyfall-GS skips because a list is one value short."""


@dataclass(frozen=True)
class Pose:
    """A camera of an episode and its look-at point, local meters. The azimuth is the direction from look-at point to
    camera, clockwise from north."""

    name: str
    eye_m: Point
    target_m: Point
    elevation_deg: float
    azimuth_deg: float
    target: int
    """Index of the look-at point."""
    view: int
    """Index of the pair of look-at point and direction; all samples of a view have the same."""
    sample: int
    """Index of the sample within its view."""
    seed: int


def pose_camera(pose: Pose, fov_deg: float, size_px: int) -> PinholeCamera:
    """Pinhole camera of a pose: local meters, square pixels, principal point at (size - 1) / 2 because (0, 0) is the
    center of the first pixel. North is up in a nadir view."""
    local_from_camera = look_at(pose.eye_m, pose.target_m) @ np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL to OpenCV axes
    focal, middle = size_px / (2 * math.tan(math.radians(fov_deg) / 2)), (size_px - 1) / 2
    intrinsics = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    return PinholeCamera(np.linalg.inv(local_from_camera), intrinsics, (size_px, size_px))


def farthest_depth_m(poses: Sequence[Pose], box_m: Float64[ndarray, "2 3"]) -> float:
    """Largest distance from a camera to a corner of the scene's box: an upper bound of depths."""
    eyes = np.array([pose.eye_m for pose in poses])
    return float(np.linalg.norm(np.abs(eyes[:, None] - np.asarray(box_m)[None]).max(1), axis=-1).max())


def _per_episode(values: tuple, n: int) -> tuple:
    """Repeat a single value for `n` episodes."""
    return values * n if len(values) == 1 else values
