"""Placement of the cameras of an episode around its look-at points, and a report of what was moved or left out."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.curriculum import FLAG, Curriculum, Episode, Point, Pose

FIRST_AZIMUTH_DEG = 90.0  # from the east, as in Skyfall-GS
FALLBACK_OFFSETS = ((0, 1.0), (0, 1.1), (0, 1.25), (3, 1.0), (6, 1.0), (10, 1.0), (10, 1.25))
"""Alternatives to an obstructed camera, in this order: (degrees added to the elevation, factor of the distance)."""
BOX_TOLERANCE_M = 1.0  # look-at points this far outside the box stay where they are
MIN_PLACED_FRACTION = 0.5  # of the planned views

Obstacle = Literal["close to or below the surface", "obstructed"]
"""Why a camera cannot stand where it was planned."""


@dataclass(frozen=True)
class PlacementReport:
    """Numbers of the views of an episode: planned; with a look-at point that was outside the scene's box and moved to
    its edge; with a camera that was moved up or back; and left out, by reason."""

    planned: int
    moved_targets: int
    moved_cameras: int
    omitted: dict[str, int]

    @property
    def view_count(self) -> int:
        """Number of views of the episode."""
        return self.planned - sum(self.omitted.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, for the manifest."""
        return asdict(self)

    def summary(self) -> str:
        """The numbers as a phrase, without those that are 0."""
        parts = [f"{self.view_count} of {self.planned} views"]
        if self.moved_targets:
            parts.append(f"{self.moved_targets} look at the edge of the scene instead of a point outside of it")
        if self.moved_cameras:
            parts.append(f"{self.moved_cameras} cameras were moved up or back")
        if self.omitted:
            parts.append(f"left out: {self.omitted_summary()}")
        return "; ".join(parts)

    def omitted_summary(self) -> str:
        """Numbers of the views that were left out, by reason."""
        return ", ".join(f"{count} {reason}" for reason, count in self.omitted.items())


def place_cameras(
    curriculum: Curriculum,
    episode: Episode,
    box_m: Float64[ndarray, "2 3"],
    ground_level_m: Callable[[float, float], float],
    find_obstacle: Callable[[Point, Point], Obstacle | None],
    seed: int = 0,
) -> tuple[list[Pose], PlacementReport]:
    """Place the cameras of an episode around every look-at point; `ground_level_m` (x, y) is the height of the ground.

    Look-at points outside the scene's box move to the nearest point of it. Where `find_obstacle` (eye, target) finds
    one, because a camera is inside a building or its view is obstructed, `FALLBACK_OFFSETS` are tried; the camera is
    omitted if all of them have an obstacle. Raises TrainingError if fewer than half of the cameras remain."""
    poses: list[Pose] = []
    moved_targets, moved_cameras, omitted = 0, 0, Counter[str]()
    for target_index, (planned_x, planned_y) in enumerate(curriculum.look_at_points(box_m).tolist()):
        x, y = move_into_box(planned_x, planned_y, box_m)
        target = (x, y, float(ground_level_m(x, y)))
        is_moved = (x, y) != (planned_x, planned_y)
        for direction in range(curriculum.azimuths):
            view = target_index * curriculum.azimuths + direction
            for sample in range(curriculum.samples_per_view):
                view_seed = _derive_seed(seed, episode.number, view, sample)
                elevation, azimuth = _sample_direction(curriculum, episode, direction, sample, view_seed)
                candidates = tuple(_candidate_positions(target, elevation, azimuth, episode.radius_m))
                index, first_obstacle = _first_free(candidates, target, find_obstacle)
                if index is None:
                    omitted[str(first_obstacle)] += 1
                    continue
                angle, eye = candidates[index]
                poses.append(
                    Pose(f"{len(poses):03d}", eye, target, angle, azimuth, target_index, view, sample, view_seed)
                )
                moved_cameras += index > 0
                moved_targets += is_moved
    planned = len(poses) + omitted.total()
    report = PlacementReport(planned, moved_targets, moved_cameras, dict(omitted))
    _check_placed_fraction(report, episode)
    return poses, report


def move_into_box(x: float, y: float, box_m: Float64[ndarray, "2 3"]) -> tuple[float, float]:
    """The nearest point of the scene's box, local meters; points in it, or outside by at most `BOX_TOLERANCE_M`, are
    unchanged."""
    (west, south), (east, north) = np.asarray(box_m)[:, :2].tolist()
    nearest = min(max(x, west), east), min(max(y, south), north)
    return (x, y) if math.dist((x, y), nearest) <= BOX_TOLERANCE_M else nearest


def _first_free(
    candidates: Sequence[tuple[float, Point]],
    target: Point,
    find_obstacle: Callable[[Point, Point], Obstacle | None],
) -> tuple[int | None, Obstacle | None]:
    """Index of the first camera without an obstacle (None: there is none), and the obstacle of the first camera."""
    first_obstacle: Obstacle | None = None
    for index, (_, eye) in enumerate(candidates):
        obstacle = find_obstacle(eye, target)
        if obstacle is None:
            return index, first_obstacle
        first_obstacle = first_obstacle or obstacle
    return None, first_obstacle


def _check_placed_fraction(report: PlacementReport, episode: Episode) -> None:
    if report.view_count < MIN_PLACED_FRACTION * report.planned:
        raise TrainingError(
            f"Only {report.view_count} of {report.planned} cameras of episode {episode.number} "
            f"({episode.elevation_deg:g} degrees, {episode.radius_m:.0f} m) have a free view; the others are "
            f"{report.omitted_summary()}. Raise {FLAG}elevations-deg or {FLAG}radii-m."
        )


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
