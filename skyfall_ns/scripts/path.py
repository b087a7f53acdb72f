"""`skyfall-path`: camera paths for `ns-render camera-path`, in metres."""

from dataclasses import dataclass
from pathlib import Path

import tyro

from skyfall_ns.errors import SkyfallError
from skyfall_ns.scripts._cli import run, write_json


@dataclass(frozen=True)
class Orbit:
    """Once around the scene's centre, looking at the ground there."""

    load_config: Path
    """config.yml of the run."""
    output: Path
    """Camera path (JSON) to write."""
    elevation: float = 45.0
    """Degrees above the horizon."""
    radius: float | None = None
    """Metres from the centre; by default so that the scene fills the picture."""
    frames: int = 120
    """Pictures on the way around."""
    fov: float = 50.0
    """Vertical field of view in degrees."""
    width: int = 1280
    """Picture width in pixels."""
    height: int = 720
    """Picture height in pixels."""
    fps: float = 30.0
    """Pictures per second of the video."""

    def main(self) -> None:
        """Place the cameras, write them."""
        import numpy as np

        from skyfall_ns.export.run_transform import read_placement
        from skyfall_ns.geo.camera_poses import camera_path, orbit

        self._check()
        placement = read_placement(self.load_config)
        low, high = placement.scene.box_m
        target = np.array([*(low[:2] + high[:2]) / 2, 0.0])
        radius = self.radius or 0.5 * float(np.hypot(*(high - low)[:2])) / np.tan(np.radians(self.fov / 2))
        poses = placement.poses_from_local(orbit(target, radius, self.elevation, self.frames))
        write_json(self.output, camera_path(poses, self.fov, (self.width, self.height), self.fps))
        print(f"{self.output}: {self.frames} cameras, {radius:.0f} m from the centre, {self.elevation:g} degrees up")

    def _check(self) -> None:
        if not 0 < self.elevation <= 90:
            raise SkyfallError(f"--elevation {self.elevation:g} is no view from above. Give 1 to 90 degrees.")
        if self.radius is not None and self.radius <= 0:
            raise SkyfallError(f"--radius {self.radius:g} is no distance. Give metres above 0.")
        if not 1 <= self.fov < 180:
            raise SkyfallError(f"--fov {self.fov:g} is no field of view. Give 1 to 179 degrees.")
        if min(self.frames, self.width, self.height) < 1 or self.fps <= 0:
            raise SkyfallError("--frames, --width, --height and --fps have to be above 0. Leave them out for defaults.")


def main() -> None:
    """Entry point."""
    command = tyro.extras.subcommand_cli_from_dict({"orbit": Orbit}, prog="skyfall-path", description=__doc__)
    run(command.main)
