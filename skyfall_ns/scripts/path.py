"""`skyfall-path`: camera paths for `ns-render camera-path`, in meters."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from skyfall_ns.errors import SkyfallError
from skyfall_ns.io.files import write_json
from skyfall_ns.scripts._cli import run_command


@dataclass(frozen=True)
class Orbit:
    """A circle around the scene's center; all cameras look at the ground there."""

    load_config: Path
    """config.yml of the run."""
    output: Path
    """Camera path (JSON) to write."""
    elevation: float = 45.0
    """Degrees above the horizon."""
    radius: float | None = None
    """Meters from the center; by default so that the scene fills the image."""
    frames: int = 120
    """Number of frames on the circle."""
    fov: float = 50.0
    """Vertical field of view in degrees."""
    width: int = 1280
    """Image width in pixels."""
    height: int = 720
    """Image height in pixels."""
    fps: float = 30.0
    """Frames per second of the video."""

    def main(self) -> None:
        """Compute the camera path and write it."""
        import numpy as np

        from skyfall_ns.export.run_transform import read_run_transform
        from skyfall_ns.geo.camera_poses import camera_path, orbit_poses

        self._check_flags()
        run_transform = read_run_transform(self.load_config)
        low, high = run_transform.scene.box_m
        target = np.array([*(low[:2] + high[:2]) / 2, 0.0])
        radius = self.radius or 0.5 * float(np.hypot(*(high - low)[:2])) / np.tan(np.radians(self.fov / 2))
        poses = run_transform.poses_from_local(orbit_poses(target, radius, self.elevation, self.frames))
        write_json(self.output, camera_path(poses, self.fov, (self.width, self.height), self.fps))
        print(f"{self.output}: {self.frames} cameras, {radius:.0f} m from the center, {self.elevation:g} degrees up")

    def _check_flags(self) -> None:
        if not 0 < self.elevation <= 90:
            raise SkyfallError(f"--elevation {self.elevation:g} is not above the horizon. Give 1 to 90 degrees.")
        if self.radius is not None and self.radius <= 0:
            raise SkyfallError(f"--radius {self.radius:g} is not a distance. Give meters above 0.")
        if not 1 <= self.fov < 180:
            raise SkyfallError(f"--fov {self.fov:g} is not a field of view. Give 1 to 179 degrees.")
        if min(self.frames, self.width, self.height) < 1 or self.fps <= 0:
            raise SkyfallError("--frames, --width, --height and --fps must be above 0. Leave them out for defaults.")


def main() -> None:
    """Entry point."""
    command = tyro.extras.subcommand_cli_from_dict({"orbit": Orbit}, prog="skyfall-path", description=__doc__)
    run_command(command.main)
