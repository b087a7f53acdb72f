"""Pseudo cameras: synthetic views for depth supervision, and their schedule in meters above ground."""

import math
from dataclasses import dataclass, replace
from typing import Annotated

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.geo.camera_poses import look_at_opencv
from skyfall_ns.option_checks import COUNT, POSITIVE, InRange


@dataclass(frozen=True)
class PseudoSchedule:
    """Training steps and poses of pseudo views; defaults of distances, angles and interval as in Skyfall-GS (3.4)."""

    start: Annotated[int, InRange(0)] = 1000
    """First step of the window (exclusive)."""
    end: int = 21000
    """Last step of the window (exclusive)."""
    interval: Annotated[int, COUNT] = 10
    """Number of steps between two pseudo views."""
    ramp: Annotated[int, InRange(0)] = 500
    """Steps after `start` over which the weight grows from 0 to 1."""
    elevations_deg: Annotated[tuple[float, float], InRange(0, 90, above=True)] = (80.0, 45.0)
    """Elevation at the start and at the end of the window."""
    radii_m: Annotated[tuple[float, float], POSITIVE] = (300.0, 250.0)
    """Distance to the target at the start and at the end, meters."""
    target_std_m: Annotated[float, InRange(0)] = 64.0
    """Standard deviation of the look-at point around the scene's center, meters."""
    fov_deg: Annotated[float, InRange(0, 170, above=True, below=True)] = 60.0
    """Field of view, both axes."""
    size_px: Annotated[int, InRange(16)] = 1024
    """Width and height of a pseudo view."""
    azimuths: Annotated[int, COUNT] = 12
    """Number of evenly spaced directions to choose from."""
    stack: Annotated[int, COUNT] = 24
    """Number of views drawn at once, at the elevation and distance of that step."""

    def has_view_at(self, step: int) -> bool:
        """Whether this step has a pseudo view."""
        return self.start < step < self.end and step % self.interval == 0

    def ramp_weight(self, step: int) -> float:
        """Fraction of the full depth weight, 0..1."""
        return min(max(step - self.start, 0) / self.ramp, 1.0) if self.ramp else 1.0

    def elevation_and_radius(self, step: int) -> tuple[float, float]:
        """(elevation in degrees, radius in meters), linear from the start to the end of the window."""
        left = min(max((self.end - step) / (self.end - self.start), 0.0), 1.0)
        (e0, e1), (r0, r1) = self.elevations_deg, self.radii_m
        return e1 + (e0 - e1) * left, r1 + (r0 - r1) * left

    def check_window(self, prefix: str) -> None:
        """Raise TrainingError, with the flag (`prefix` and option name), for a window that ends before it starts."""
        if self.end <= self.start:
            raise TrainingError(f"{prefix}end is {self.end}. Pass a step after {prefix}start, which is {self.start}.")


@dataclass(frozen=True)
class PseudoPose:
    """Pose of a pseudo view in the local frame, meters, and its appearance."""

    eye_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    image: int
    """Index of the training image whose appearance the view has."""

    def raise_by(self, height_m: float) -> "PseudoPose":
        """Shift camera and target up."""
        (x, y, z), (u, v, w) = self.eye_m, self.target_m
        return replace(self, eye_m=(x, y, z + height_m), target_m=(u, v, w + height_m))

    def camera_from_local(self) -> Float[Tensor, "4 4"]:
        """Rigid transform to OpenCV axes, float64; north is up in the image of a camera that points straight down."""
        return torch.from_numpy(look_at_opencv(self.eye_m, self.target_m))


def draw_stack(
    schedule: PseudoSchedule,
    step: int,
    generator: torch.Generator,
    num_images: int,
    center_m: tuple[float, float] = (0.0, 0.0),
    ground_m: float = 0.0,
) -> list[PseudoPose]:
    """Draw one stack of poses: normally distributed targets on the ground around `center_m`, random azimuths among the
    evenly spaced ones, random training images for the appearance."""
    elevation_deg, radius = schedule.elevation_and_radius(step)
    elevation = math.radians(elevation_deg)
    offsets = schedule.target_std_m * torch.randn(schedule.stack, 2, generator=generator, dtype=torch.float64)
    azimuths = torch.randint(0, schedule.azimuths, (schedule.stack,), generator=generator)
    images = torch.randint(0, num_images, (schedule.stack,), generator=generator)
    poses = []
    for offset, azimuth, image in zip(offsets.tolist(), azimuths.tolist(), images.tolist(), strict=True):
        angle = 2 * math.pi * azimuth / schedule.azimuths
        target = (center_m[0] + offset[0], center_m[1] + offset[1], ground_m)
        eye = (
            target[0] + radius * math.cos(elevation) * math.cos(angle),
            target[1] + radius * math.cos(elevation) * math.sin(angle),
            ground_m + radius * math.sin(elevation),
        )
        poses.append(PseudoPose(eye, target, image))
    return poses


def pinhole_intrinsics(fov_deg: float, size_px: int) -> Float[Tensor, "3 3"]:
    """Intrinsics of a square image with the principal point in its center."""
    focal = size_px / (2 * math.tan(math.radians(fov_deg) / 2))
    half = size_px / 2
    return torch.tensor([[focal, 0, half], [0, focal, half], [0, 0, 1]], dtype=torch.float64)
