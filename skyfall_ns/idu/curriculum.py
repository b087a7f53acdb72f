"""The curriculum of stage 2: from where the trained scene is looked at, episode by episode, lower and lower."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.errors import TrainingError
from skyfall_ns.geo.camera_poses import look_at
from skyfall_ns.geo.cameras import PinholeCamera

FLAG = "--pipeline.curriculum."
SIGHT = (
    1.35  # half a view's footprint over the spacing of targets, where radii are fitted: that of the published JAX runs
)
FIRST_AZIMUTH_DEG = 90.0  # from the east, as the reference begins
MOVES = ((0, 1.0), (0, 1.1), (0, 1.25), (3, 1.0), (6, 1.0), (10, 1.0), (10, 1.25))
"""Where a camera stands instead if it stands badly: (degrees higher, times as far), tried in this order."""

Point = tuple[float, float, float]


@dataclass(frozen=True)
class Episode:
    """One round of rendering, refining and training. Numbers count from 1."""

    number: int
    elevation_deg: float
    radius_m: float
    fov_deg: float
    steps: int


@dataclass(frozen=True)
class Curriculum:
    """Views of each episode: azimuths around every look-at point of a grid, at the episode's elevation and distance."""

    elevations_deg: tuple[float, ...] = (60.0, 40.0, 20.0)
    """Elevation of the cameras above the horizon, one per episode, degrees."""
    radii_m: tuple[float, ...] | None = None
    """Distance from camera to look-at point, one or one per episode, metres; None fits it so that the views of
    neighbouring look-at points overlap and cover the scene."""
    fov_deg: tuple[float, ...] = (30.0,)
    """Field of view of both axes, one or one per episode, degrees."""
    steps: tuple[int, ...] = (200,)
    """Training steps after the views were refined, one or one per episode."""
    grid: int = 3
    """Look-at points per side: the interior points of linspace(-W/2, W/2, grid + 2), standing on the ground."""
    grid_extent_m: float | None = None
    """W, the width and depth of the square that the grid divides, metres; None takes the scene's box."""
    azimuths: int = 12
    """Evenly spaced directions from which each look-at point is seen."""
    azimuth_turn: float = 0.382
    """Turn of all directions from one episode to the next, in parts of their spacing (the golden section hardly ever
    repeats one); 0 sees every episode from the same directions, as the reference does."""
    samples_per_view: int = 1
    """Views per direction, each refined by itself."""
    perturbation_deg: float = 1.0
    """How far azimuth and elevation of a direction's further samples may be off, degrees; 0 repeats the view exactly,
    as the reference does."""
    size_px: int = 384
    """Width and height of the views."""

    def check(self) -> None:
        """TrainingError that names the flag of a number or a list that makes no sense."""
        wanted = {
            "elevations-deg": (_all(self.elevations_deg, lambda e: 0 < e <= 90), "angles above 0, up to 90"),
            "radii-m": (self.radii_m is None or _all(self.radii_m, lambda r: 0 < r < 1e6), "positive distances"),
            "fov-deg": (_all(self.fov_deg, lambda f: 1 <= f <= 120), "angles from 1 to 120"),
            "steps": (_all(self.steps, lambda n: n > 0), "positive numbers of steps"),
            "grid": (1 <= self.grid <= 100, "a number from 1 to 100"),
            "grid-extent-m": (self.grid_extent_m is None or 0 < self.grid_extent_m < 1e6, "a positive distance"),
            "azimuths": (1 <= self.azimuths <= 360, "a number from 1 to 360"),
            "azimuth-turn": (math.isfinite(self.azimuth_turn), "a number, such as 0.382"),
            "samples-per-view": (1 <= self.samples_per_view <= 100, "a number from 1 to 100"),
            "perturbation-deg": (0 <= self.perturbation_deg <= 10, "an angle from 0 to 10"),
            "size-px": (16 <= self.size_px <= 8192, "a number of pixels from 16 to 8192"),
        }
        for name, (holds, words) in wanted.items():
            if not holds:
                value = getattr(self, name.replace("-", "_"))
                raise TrainingError(f"{FLAG}{name} {_shown(value)} makes no views. Give {words}.")
        for name in ("radii-m", "fov-deg", "steps"):
            values = getattr(self, name.replace("-", "_"))
            if values is not None and len(values) not in (1, len(self.elevations_deg)):
                raise TrainingError(
                    f"{FLAG}{name} has {len(values)} values and {FLAG}elevations-deg {len(self.elevations_deg)}. "
                    "Give one for all episodes, or one per episode."
                )

    def episodes(self, box_m: Float64[ndarray, "2 3"]) -> tuple[Episode, ...]:
        """The episodes over a scene's box ([min, max], local metres); checked."""
        self.check()
        n = len(self.elevations_deg)
        fovs, steps = _each(self.fov_deg, n), _each(self.steps, n)
        if self.radii_m is None:
            spacing = float(self._extent_m(box_m).max()) / (self.grid + 1)
            radii = tuple(SIGHT * spacing / math.tan(math.radians(fov) / 2) for fov in fovs)
        else:
            radii = _each(self.radii_m, n)
        rows = zip(self.elevations_deg, radii, fovs, steps, strict=True)
        return tuple(Episode(number, *row) for number, row in enumerate(rows, 1))

    def targets(self, box_m: Float64[ndarray, "2 3"]) -> Float64[ndarray, "n 2"]:
        """Look-at points around the box's middle, west to east within south to north, local metres."""
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
"""Numbers of Skyfall-GS' `jax_v1`. What it repeats (directions in all episodes, poses of samples) stays varied: set
`azimuth_turn` and `perturbation_deg` to 0 for that too."""
REFERENCE_NYC = replace(
    REFERENCE_JAX, elevations_deg=(85.0, 75.0, 65.0, 55.0, 45.0, 25.0), radii_m=(600.0,) * 6, fov_deg=(20.0,), grid=4
)
"""Numbers of Skyfall-GS' `nyc_v1`, with its last episode, which the reference loses to a list too short by one."""
PRESETS = {"fitted": Curriculum(), "reference-jax": REFERENCE_JAX, "reference-nyc": REFERENCE_NYC}


@dataclass(frozen=True)
class Pose:
    """A camera of an episode and what it looks at, local metres. Azimuths are those of the camera as seen from its
    target, clockwise from north."""

    name: str
    eye_m: Point
    target_m: Point
    elevation_deg: float
    azimuth_deg: float
    target: int
    """Number of the look-at point."""
    view: int
    """Number of look-at point and direction; the samples of one view share it."""
    sample: int
    seed: int


def poses(
    curriculum: Curriculum,
    episode: Episode,
    box_m: Float64[ndarray, "2 3"],
    level_m: Callable[[float, float], float],
    admits: Callable[[Point, Point], bool],
    seed: int = 0,
) -> list[Pose]:
    """The cameras of an episode: around every look-at point, on the ground `level_m` (x, y) there.

    A camera that `admits` (eye, target) refuses, because it stands inside or behind something, tries `MOVES`; it is
    left out if all of them are refused. Raises TrainingError if none is left."""
    found: list[Pose] = []
    for number, (x, y) in enumerate(curriculum.targets(box_m).tolist()):
        target = (x, y, float(level_m(x, y)))
        for index in range(curriculum.azimuths):
            view = number * curriculum.azimuths + index
            for sample in range(curriculum.samples_per_view):
                own = _seed(seed, episode.number, view, sample)
                elevation, azimuth = _direction(curriculum, episode, index, sample, own)
                for angle, eye in _places(target, elevation, azimuth, episode.radius_m):
                    if admits(eye, target):
                        name = f"{len(found):03d}"
                        found.append(Pose(name, eye, target, angle, azimuth, number, view, sample, own))
                        break
    if not found:
        raise TrainingError(
            f"No camera of episode {episode.number} ({episode.elevation_deg:g} degrees, {episode.radius_m:g} m) stands "
            f"free. Raise {FLAG}elevations-deg or {FLAG}radii-m."
        )
    return found


def camera_of(pose: Pose, fov_deg: float, size_px: int) -> PinholeCamera:
    """The pinhole of a pose: local metres, square pixels, its middle at (size - 1) / 2 because (0, 0) is the centre of
    the first pixel. North is up where it looks straight down."""
    local_from_camera = look_at(pose.eye_m, pose.target_m) @ np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL to OpenCV axes
    focal, middle = size_px / (2 * math.tan(math.radians(fov_deg) / 2)), (size_px - 1) / 2
    intrinsics = np.array([[focal, 0, middle], [0, focal, middle], [0, 0, 1]])
    return PinholeCamera(np.linalg.inv(local_from_camera), intrinsics, (size_px, size_px))


def farthest_m(poses: Sequence[Pose], box_m: Float64[ndarray, "2 3"]) -> float:
    """The largest distance from a camera to a corner of the scene's box: depths are of this size."""
    eyes = np.array([pose.eye_m for pose in poses])
    return float(np.linalg.norm(np.abs(eyes[:, None] - np.asarray(box_m)[None]).max(1), axis=-1).max())


def _direction(curriculum: Curriculum, episode: Episode, index: int, sample: int, seed: int) -> tuple[float, float]:
    """(elevation, azimuth) of a sample; the first one of a view is exact."""
    turned = index + curriculum.azimuth_turn * (episode.number - 1)
    azimuth = FIRST_AZIMUTH_DEG + 360.0 * turned / curriculum.azimuths
    off = (0.0, 0.0)
    if sample:
        off = tuple(np.random.default_rng(seed).uniform(-1, 1, 2) * curriculum.perturbation_deg)
    return float(np.clip(episode.elevation_deg + off[0], 0.1, 90.0)), float((azimuth + off[1]) % 360.0)


def _places(target: Point, elevation: float, azimuth: float, radius_m: float) -> Iterator[tuple[float, Point]]:
    """(elevation, eye) of a camera and of its moves."""
    for higher_deg, farther in MOVES:
        angle = min(elevation + higher_deg, max(elevation, 89.9))
        up, around, far = math.radians(angle), math.radians(azimuth), radius_m * farther
        flat = far * math.cos(up)
        offset = (flat * math.sin(around), flat * math.cos(around), far * math.sin(up))
        yield angle, (target[0] + offset[0], target[1] + offset[1], target[2] + offset[2])


def _seed(*parts: int) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)


def _all(values: Sequence[float], holds: Callable[[float], bool]) -> bool:
    return len(values) > 0 and all(holds(value) for value in values)


def _each(values: tuple, n: int) -> tuple:
    return values * n if len(values) == 1 else values


def _shown(value: object) -> str:
    return " ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else str(value)
