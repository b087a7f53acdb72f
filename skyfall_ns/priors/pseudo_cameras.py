"""Pseudo cameras: views that no satellite has, from which depth is supervised; a schedule in metres above ground."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import TrainingError


@dataclass(frozen=True)
class PseudoSchedule:
    """When and from where pseudo views look; the defaults of distance, angle and rhythm are Skyfall-GS' (3.4)."""

    start: int = 1000
    """First step of the window (exclusive)."""
    end: int = 21000
    """Last step of the window (exclusive)."""
    interval: int = 10
    """A pseudo view every so many steps."""
    ramp: int = 500
    """Steps after `start` over which the weight grows from 0 to 1."""
    elevations_deg: tuple[float, float] = (80.0, 45.0)
    """Elevation at the start and at the end of the window."""
    radii_m: tuple[float, float] = (300.0, 250.0)
    """Distance to the target at the start and at the end, metres."""
    target_std_m: float = 64.0
    """Standard deviation of the look-at point around the scene's centre, metres."""
    fov_deg: float = 60.0
    """Field of view, both axes."""
    size_px: int = 1024
    """Width and height of a pseudo view."""
    azimuths: int = 12
    """Number of evenly spaced directions to choose from."""
    stack: int = 24
    """Views drawn at once; the schedule is read when a stack is drawn."""

    def active(self, step: int) -> bool:
        """Whether this step has a pseudo view."""
        return self.start < step < self.end and step % self.interval == 0

    def weight(self, step: int) -> float:
        """Share of the full depth weight, 0..1."""
        return min(max(step - self.start, 0) / self.ramp, 1.0) if self.ramp else 1.0

    def elevation_radius(self, step: int) -> tuple[float, float]:
        """(elevation in degrees, radius in metres): linear from start to end."""
        left = min(max((self.end - step) / (self.end - self.start), 0.0), 1.0)
        (e0, e1), (r0, r1) = self.elevations_deg, self.radii_m
        return e1 + (e0 - e1) * left, r1 + (r0 - r1) * left

    def check(self, prefix: str) -> None:
        """TrainingError that names the flag (`prefix` and a field's name) of a number that makes no sense."""
        wanted = {
            "end": (self.end > self.start >= 0, f"a step after {prefix}start, which is not negative"),
            "interval": (self.interval > 0, "a positive number of steps"),
            "ramp": (self.ramp >= 0, "a number of steps, or 0"),
            "elevations-deg": (all(0 < e <= 90 for e in self.elevations_deg), "two angles above 0, up to 90"),
            "radii-m": (all(r > 0 for r in self.radii_m), "two positive distances"),
            "target-std-m": (self.target_std_m >= 0, "a distance, or 0"),
            "fov-deg": (0 < self.fov_deg < 170, "an angle between 0 and 170"),
            "size-px": (self.size_px >= 16, "16 pixels or more"),
            "azimuths": (self.azimuths > 0, "a positive number"),
            "stack": (self.stack > 0, "a positive number"),
        }
        for name, (holds, words) in wanted.items():
            if not holds:
                value = getattr(self, name.replace("-", "_"))
                raise TrainingError(f"{prefix}{name} {value} makes no pseudo cameras. Pass {words}.")


@dataclass(frozen=True)
class PseudoPose:
    """Where a pseudo view stands and looks (local metres), and whose appearance it borrows."""

    eye_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    image: int

    def raised(self, by_m: float) -> "PseudoPose":
        """The same view from higher up, of a target as much higher."""
        (x, y, z), (u, v, w) = self.eye_m, self.target_m
        return replace(self, eye_m=(x, y, z + by_m), target_m=(u, v, w + by_m))

    def camera_from_local(self) -> Float[Tensor, "4 4"]:
        """OpenCV axes, float64; north is up in the picture when looking straight down."""
        eye, target = (torch.tensor(v, dtype=torch.float64) for v in (self.eye_m, self.target_m))
        forward = torch.nn.functional.normalize(target - eye, dim=0)
        up = torch.tensor([0.0, 0.0, 1.0] if abs(forward[2]) < 0.9999 else [0.0, 1.0, 0.0], dtype=torch.float64)
        right = torch.nn.functional.normalize(torch.linalg.cross(forward, up), dim=0)
        matrix = torch.eye(4, dtype=torch.float64)
        matrix[:3, :3] = torch.stack([right, torch.linalg.cross(forward, right), forward])
        matrix[:3, 3] = -matrix[:3, :3] @ eye
        return matrix


def draw_stack(
    schedule: PseudoSchedule,
    step: int,
    generator: torch.Generator,
    num_images: int,
    centre_m: tuple[float, float] = (0.0, 0.0),
    ground_m: float = 0.0,
) -> list[PseudoPose]:
    """One stack of poses: normal targets on the ground around `centre_m`, azimuths among the evenly spaced ones."""
    elevation_deg, radius = schedule.elevation_radius(step)
    elevation = math.radians(elevation_deg)
    offsets = schedule.target_std_m * torch.randn(schedule.stack, 2, generator=generator, dtype=torch.float64)
    azimuths = torch.randint(0, schedule.azimuths, (schedule.stack,), generator=generator)
    images = torch.randint(0, num_images, (schedule.stack,), generator=generator)
    poses = []
    for offset, azimuth, image in zip(offsets.tolist(), azimuths.tolist(), images.tolist(), strict=True):
        angle = 2 * math.pi * azimuth / schedule.azimuths
        target = (centre_m[0] + offset[0], centre_m[1] + offset[1], ground_m)
        eye = (
            target[0] + radius * math.cos(elevation) * math.cos(angle),
            target[1] + radius * math.cos(elevation) * math.sin(angle),
            ground_m + radius * math.sin(elevation),
        )
        poses.append(PseudoPose(eye, target, image))
    return poses


def pinhole_intrinsics(fov_deg: float, size_px: int) -> Float[Tensor, "3 3"]:
    """Square pixels, principal point in the middle."""
    focal = size_px / (2 * math.tan(math.radians(fov_deg) / 2))
    half = size_px / 2
    return torch.tensor([[focal, 0, half], [0, focal, half], [0, 0, 1]], dtype=torch.float64)
