"""Subcommands of `skyfall-path` that compute a path over a scene."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from skyfall_ns.errors import SkyfallError
from skyfall_ns.io.files import write_json
from skyfall_ns.io.outputs import check_output_files

if TYPE_CHECKING:
    import numpy as np

    from skyfall_ns.export.run_transform import RunTransform


@dataclass(frozen=True)
class _ScenePath:
    """Flags that all paths over a scene have."""

    load_config: Path
    """config.yml of the run."""
    output: Path
    """Camera path (JSON) to write."""
    fov: float = 50.0
    """Vertical field of view in degrees."""
    width: int = 1280
    """Image width in pixels."""
    height: int = 720
    """Image height in pixels."""
    fps: float = 30.0
    """Frames per second of the video."""

    def main(self) -> None:
        """Compute the camera path and write it. Raises SkyfallError if no frame shows the scene."""
        from skyfall_ns.export.run_transform import read_run_transform

        self._check_flags()
        check_output_files({"--output": self.output})
        run = read_run_transform(self.load_config)
        self._write(run, self._local_poses(run), self._is_cycle())

    def _local_poses(self, run: "RunTransform") -> "np.ndarray":
        """Poses in local meters "n 4 4"."""
        raise NotImplementedError

    def _is_cycle(self) -> bool:
        """Whether the last frame is followed by the first one."""
        return False

    def _check_flags(self) -> None:
        if not 1 <= self.fov < 180:
            raise SkyfallError(f"--fov {self.fov:g} is not a field of view. Give 1 to 179 degrees.")
        if min(self.width, self.height) < 1 or self.fps <= 0:
            raise SkyfallError("--width, --height and --fps must be above 0. Leave them out for defaults.")

    def _write(self, run: "RunTransform", local_poses: "np.ndarray", is_cycle: bool) -> None:
        from skyfall_ns.geo.camera_path_files import path_with_georeference
        from skyfall_ns.geo.camera_paths import frames_that_see

        seen = frames_that_see(local_poses, self.fov, self.width / self.height, run.scene.box_m)
        if not seen.any():
            raise SkyfallError("No frame of the path shows the scene. Move the target or the cameras closer to it.")
        poses = run.poses_from_local(local_poses)
        size = self.width, self.height
        path = path_with_georeference(
            poses, self.fov, size, self.fps, run.local_frame, run.scale, run.offset_m, is_cycle
        )
        write_json(self.output, path)
        height = local_poses[:, 2, 3]
        unseen = f", {int((~seen).sum())} of them do not show the scene" if not seen.all() else ""
        print(f"{self.output}: {len(poses)} cameras, {height.min():.0f} to {height.max():.0f} m above ground{unseen}")


@dataclass(frozen=True)
class _TargetPath(_ScenePath):
    """Flags of paths around a target."""

    target: Annotated[tuple[float, float, float] | None, tyro.conf.arg(metavar="LON LAT HEIGHT")] = None
    """Point that all cameras look at: degrees and meters above the ellipsoid. By default the center of the scene."""
    above_ground: float = 0.0
    """Height above ground of the default target, meters."""

    def _target_m(self, run: "RunTransform") -> "np.ndarray":
        """The target in local meters."""
        import numpy as np

        if self.target is not None:
            return run.local_frame.from_geodetic(np.array(self.target))
        low, high = run.scene.box_m
        return np.array([*(low[:2] + high[:2]) / 2, self.above_ground])

    def _filling_radius(self, run: "RunTransform") -> float:
        """Distance at which the scene fills the image."""
        import numpy as np

        low, high = run.scene.box_m
        return 0.5 * float(np.hypot(*(high - low)[:2])) / np.tan(np.radians(self.fov / 2))


@dataclass(frozen=True)
class Orbit(_TargetPath):
    """A circle around a target, by default the ground at the scene's center; all cameras look at it."""

    elevation: float = 45.0
    """Degrees above the horizon."""
    radius: float | None = None
    """Meters from the target; by default so that the scene fills the image."""
    ges: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="TARGET CAMERA")] = None
    """Altitudes of the target and of the camera in meters, as in Google Earth Studio, instead of --elevation; --radius
    is then horizontal."""
    frames: int = 120
    """Number of frames on the circle."""

    def _check_flags(self) -> None:
        super()._check_flags()
        if not 0 < self.elevation <= 90:
            raise SkyfallError(f"--elevation {self.elevation:g} is not above the horizon. Give 1 to 90 degrees.")
        if self.radius is not None and self.radius <= 0:
            raise SkyfallError(f"--radius {self.radius:g} is not a distance. Give meters above 0.")
        if self.frames < 1:
            raise SkyfallError("--frames must be above 0. Leave it out for the default.")
        if self.ges is not None and (self.ges[1] <= self.ges[0] or self.radius is None):
            raise SkyfallError("--ges needs a camera above its target, and --radius. Give both altitudes and --radius.")

    def _is_cycle(self) -> bool:
        return True

    def _local_poses(self, run: "RunTransform") -> "np.ndarray":
        import numpy as np

        from skyfall_ns.geo.camera_poses import orbit_poses

        radius, elevation = self.radius or self._filling_radius(run), self.elevation
        if self.ges is not None:
            climb = self.ges[1] - self.ges[0]
            elevation, radius = float(np.degrees(np.arctan2(climb, radius))), float(np.hypot(radius, climb))
        return orbit_poses(self._target_m(run), radius, elevation, self.frames)


@dataclass(frozen=True)
class Spiral(_TargetPath):
    """A spiral around a target, from far and high to near and low."""

    elevations: tuple[float, float] = (70.0, 25.0)
    """Degrees above the horizon at the beginning and at the end."""
    radii: tuple[float, float] | None = None
    """Meters from the target at the beginning and at the end; by default so that the scene fills the image, and half of
    that."""
    turns: float = 2.0
    """Number of turns, clockwise; negative ones are counterclockwise."""
    frames: int = 240
    """Number of frames."""

    def _check_flags(self) -> None:
        super()._check_flags()
        if not all(0 < elevation <= 90 for elevation in self.elevations):
            raise SkyfallError("--elevations are not above the horizon. Give 1 to 90 degrees.")
        if self.radii is not None and min(self.radii) <= 0:
            raise SkyfallError("--radii are not distances. Give meters above 0.")
        if self.frames < 2:
            raise SkyfallError("--frames must be above 1. Leave it out for the default.")

    def _local_poses(self, run: "RunTransform") -> "np.ndarray":
        from skyfall_ns.geo.camera_paths import poses_around, spiral_samples

        filling = self._filling_radius(run)
        radii = self.radii or (filling, filling / 2)
        return poses_around(self._target_m(run), spiral_samples(radii, self.elevations, self.turns, self.frames))


@dataclass(frozen=True)
class NodeGrid(_ScenePath):
    """Cameras over the nodes of a grid, for image sets that cover the scene."""

    spacing: float = 50.0
    """Distance between cameras in meters."""
    above_ground: float = 150.0
    """Height of the cameras above ground in meters."""
    pitch: float = 90.0
    """Degrees below the horizon; 90 is straight down, less looks north."""

    def _check_flags(self) -> None:
        super()._check_flags()
        if self.spacing <= 0 or self.above_ground <= 0:
            raise SkyfallError("--spacing and --above-ground must be above 0. Leave them out for defaults.")
        if not 0 <= self.pitch <= 90:
            raise SkyfallError(f"--pitch {self.pitch:g} is not below the horizon. Give 0 to 90 degrees.")

    def _local_poses(self, run: "RunTransform") -> "np.ndarray":
        from skyfall_ns.geo.camera_paths import grid_poses

        return grid_poses(run.scene.box_m, self.spacing, self.above_ground, self.pitch)


@dataclass(frozen=True)
class Flyover(_ScenePath):
    """A straight flight over the scene, looking ahead and down."""

    start: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LON LAT")] = None
    """Begin of the flight in degrees; by default the south-west corner of the scene."""
    end: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LON LAT")] = None
    """End of the flight in degrees; by default the north-east corner of the scene."""
    above_ground: float = 80.0
    """Height of the cameras above ground in meters."""
    pitch: float = 35.0
    """Degrees below the horizon."""
    frames: int = 240
    """Number of frames."""

    def _check_flags(self) -> None:
        super()._check_flags()
        if self.above_ground <= 0 or self.frames < 2:
            raise SkyfallError("--above-ground must be above 0, and --frames above 1. Leave them out for defaults.")
        if not 0 <= self.pitch <= 90:
            raise SkyfallError(f"--pitch {self.pitch:g} is not below the horizon. Give 0 to 90 degrees.")

    def _local_poses(self, run: "RunTransform") -> "np.ndarray":
        import numpy as np

        from skyfall_ns.geo.camera_paths import flight_poses

        corners = run.scene.box_m[0][:2], run.scene.box_m[1][:2]
        ends = [
            corner if lonlat is None else run.local_frame.from_geodetic(np.array([*lonlat, 0.0]))[:2]
            for lonlat, corner in zip((self.start, self.end), corners, strict=True)
        ]
        if np.allclose(ends[0], ends[1]):
            raise SkyfallError("--start and --end are the same point. Give two places.")
        waypoints = np.array([[*end, self.above_ground] for end in ends])
        return flight_poses(waypoints, self.frames, self.pitch)


@dataclass(frozen=True)
class Named(_TargetPath):
    """One of the published orbits of Skyfall-GS: radius and elevation by name, with its field of view of 20 degrees."""

    name: Literal["r612_e78", "r488_e50", "r352_e27", "r328_e17"] = "r328_e17"
    """Radius in meters and elevation in degrees, rounded down."""
    fov: float = 20.0
    """Vertical field of view in degrees."""
    width: int = 1024
    """Image width in pixels."""
    height: int = 1024
    """Image height in pixels."""
    frames: int = 300
    """Number of frames on the circle."""

    def _is_cycle(self) -> bool:
        return True

    def _local_poses(self, run: "RunTransform") -> "np.ndarray":
        from skyfall_ns.geo.camera_paths import poses_around, published_samples

        if self.frames < 1:
            raise SkyfallError("--frames must be above 0. Leave it out for the default.")
        return poses_around(self._target_m(run), published_samples(self.name, self.frames))
