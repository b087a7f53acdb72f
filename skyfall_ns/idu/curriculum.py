"""The curriculum of stage 2: cameras of each episode, at elevations that decrease from episode to episode."""

import math
from collections.abc import Callable, Iterator, Sequence
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
FIRST_AZIMUTH_DEG = 90.0  # from the east, as in Skyfall-GS
FALLBACK_OFFSETS = ((0, 1.0), (0, 1.1), (0, 1.25), (3, 1.0), (6, 1.0), (10, 1.0), (10, 1.25))
"""Alternatives to an obstructed camera, in this order: (degrees added to the elevation, factor of the distance)."""

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
    steps=(10_000,), grid=3, grid_extent_m=512.0, azimuths=6, samples_per_view=2, size_px=1024,
)  # fmt: skip
"""Values of Skyfall-GS' `jax_v1`, except that directions rotate and samples differ: set `azimuth_step` and
`sample_jitter_deg` to 0 to repeat them as Skyfall-GS does."""
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


def place_cameras(
    curriculum: Curriculum,
    episode: Episode,
    box_m: Float64[ndarray, "2 3"],
    ground_level_m: Callable[[float, float], float],
    is_valid: Callable[[Point, Point], bool],
    seed: int = 0,
) -> list[Pose]:
    """Place the cameras of an episode around every look-at point; `ground_level_m` (x, y) is the height of the ground.

    Where `is_valid` (eye, target) is false, because a camera is inside a building or its view is obstructed,
    `FALLBACK_OFFSETS` are tried; the camera is omitted if none of them is valid. Raises TrainingError if no camera
    remains."""
    poses: list[Pose] = []
    for target_index, (x, y) in enumerate(curriculum.look_at_points(box_m).tolist()):
        target = (x, y, float(ground_level_m(x, y)))
        for direction in range(curriculum.azimuths):
            view = target_index * curriculum.azimuths + direction
            for sample in range(curriculum.samples_per_view):
                view_seed = _derive_seed(seed, episode.number, view, sample)
                elevation, azimuth = _sample_direction(curriculum, episode, direction, sample, view_seed)
                for angle, eye in _candidate_positions(target, elevation, azimuth, episode.radius_m):
                    if is_valid(eye, target):
                        name = f"{len(poses):03d}"
                        poses.append(Pose(name, eye, target, angle, azimuth, target_index, view, sample, view_seed))
                        break
    if not poses:
        raise TrainingError(
            f"All cameras of episode {episode.number} ({episode.elevation_deg:g} degrees, {episode.radius_m:g} m) are "
            f"obstructed. Raise {FLAG}elevations-deg or {FLAG}radii-m."
        )
    return poses


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


def _sample_direction(
    curriculum: Curriculum, episode: Episode, direction: int, sample: int, seed: int
) -> tuple[float, float]:
    """(elevation, azimuth) of a sample in degrees; the first sample of a view has no jitter."""
    rotated = direction + curriculum.azimuth_step * (episode.number - 1)
    azimuth = FIRST_AZIMUTH_DEG + 360.0 * rotated / curriculum.azimuths
    jitter = (0.0, 0.0)
    if sample:
        jitter = tuple(np.random.default_rng(seed).uniform(-1, 1, 2) * curriculum.sample_jitter_deg)
    return float(np.clip(episode.elevation_deg + jitter[0], 0.1, 90.0)), float((azimuth + jitter[1]) % 360.0)


def _candidate_positions(
    target: Point, elevation_deg: float, azimuth_deg: float, radius_m: float
) -> Iterator[tuple[float, Point]]:
    """(elevation in degrees, eye) of a camera and of its alternatives."""
    for added_deg, factor in FALLBACK_OFFSETS:
        angle_deg = min(elevation_deg + added_deg, max(elevation_deg, 89.9))
        elevation, azimuth, distance = math.radians(angle_deg), math.radians(azimuth_deg), radius_m * factor
        horizontal = distance * math.cos(elevation)
        offset = (horizontal * math.sin(azimuth), horizontal * math.cos(azimuth), distance * math.sin(elevation))
        yield angle_deg, (target[0] + offset[0], target[1] + offset[1], target[2] + offset[2])


def _derive_seed(*parts: int) -> int:
    """A seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)


def _per_episode(values: tuple, n: int) -> tuple:
    """Repeat a single value for `n` episodes."""
    return values * n if len(values) == 1 else values
