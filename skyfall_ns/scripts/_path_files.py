"""Subcommands of `skyfall-path` that convert paths of other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from skyfall_ns.errors import SkyfallError
from skyfall_ns.io.files import atomic_write, write_json
from skyfall_ns.io.outputs import check_output_files
from skyfall_ns.scripts._path_shapes import _ScenePath

if TYPE_CHECKING:
    import numpy as np

    from skyfall_ns.export.run_transform import RunTransform
    from skyfall_ns.geo.camera_path_files import PathCameras
    from skyfall_ns.geo.frame import LocalFrame

Place = Annotated[tuple[float, float, float] | None, tyro.conf.arg(metavar="LON LAT HEIGHT")]


@dataclass(frozen=True)
class FromSkyfallGs:
    """A camera path of Skyfall-GS, which is in meters east, north and up of an observer, over our scene."""

    input: Path
    """JSON file of Skyfall-GS' camera_paths."""
    load_config: Path
    """config.yml of the run."""
    output: Path
    """Camera path (JSON) to write."""
    origin: Place = None
    """Observer: degrees and meters above the ellipsoid. By default the center of our scene at ground level."""

    def main(self) -> None:
        """Convert the path and write it."""
        from skyfall_ns.export.run_transform import read_run_transform
        from skyfall_ns.geo.camera_path_files import read_camera_path

        check_output_files({"--output": self.output})
        cameras, run = read_camera_path(self.input), read_run_transform(self.load_config)
        enu = _observer_frame(run, self.origin)
        poses = _transform_poses(cameras.poses, enu, run.local_frame)
        width, height = cameras.size
        command = _ScenePath(self.load_config, self.output, cameras.fov_deg[0], width, height, cameras.fps)
        command._write(run, poses, is_cycle=True)
        if self.origin is None:
            print("The observer was assumed to be at the center of the scene at ground level (--origin).")


@dataclass(frozen=True)
class ToSkyfallGs:
    """A camera path of `skyfall-path` in the format of Skyfall-GS: meters east, north and up of an observer."""

    input: Path
    """Camera path (JSON) of skyfall-path."""
    load_config: Path
    """config.yml of the run."""
    output: Path
    """JSON file to write."""
    origin: Place = None
    """Observer: degrees and meters above the ellipsoid. By default the center of our scene at ground level."""

    def main(self) -> None:
        """Convert the path and write it."""
        import numpy as np

        from skyfall_ns.export.run_transform import read_run_transform
        from skyfall_ns.geo.camera_path_files import skyfall_gs_path

        check_output_files({"--output": self.output})
        cameras, run = _read_georeferenced(self.input), read_run_transform(self.load_config)
        assert cameras.frame is not None
        enu = _observer_frame(run, self.origin)
        poses = _transform_poses(cameras.local_poses(), cameras.frame, enu)
        forward = -poses[0, :3, 2]
        distance = poses[0, 2, 3] / max(-forward[2], 1e-3)  # to the plane z = 0
        target = poses[0, :3, 3] + np.clip(distance, 1.0, 1e5) * forward
        write_json(self.output, skyfall_gs_path(poses, target, cameras.fov_deg[0], cameras.size, cameras.fps))
        print(f"{self.output}: {len(poses)} cameras, meters east, north and up of {enu.origin}")


@dataclass(frozen=True, kw_only=True)
class FromGeojson(_ScenePath):
    """A flight along a line of a GeoJSON file (lon, lat and, if given, ellipsoidal height)."""

    input: Path
    """GeoJSON file with a LineString."""
    above_ground: float = 80.0
    """Height above ground in meters of positions without a height."""
    pitch: float = 35.0
    """Degrees below the horizon."""
    look_at: Place = None
    """Point that all cameras look at, degrees and meters above the ellipsoid, instead of ahead."""
    frames: int = 240
    """Number of frames."""

    def _local_poses(self, run: "RunTransform") -> "np.ndarray":
        import numpy as np

        from skyfall_ns.geo.camera_path_files import read_geojson_line
        from skyfall_ns.geo.camera_paths import flight_poses

        if self.frames < 2:
            raise SkyfallError("--frames must be above 1. Leave it out for the default.")
        waypoints = []
        for position in read_geojson_line(self.input):
            local = run.local_frame.from_geodetic(np.array([*position[:2], position[2] if len(position) > 2 else 0.0]))
            waypoints.append(local if len(position) > 2 else [*local[:2], self.above_ground])
        target_m = None if self.look_at is None else run.local_frame.from_geodetic(np.array(self.look_at))
        return flight_poses(np.array(waypoints), self.frames, self.pitch, target_m)


@dataclass(frozen=True)
class ToKml:
    """A camera path of `skyfall-path` as a KML tour for Google Earth; altitudes are meters above ground."""

    input: Path
    """Camera path (JSON) of skyfall-path."""
    output: Path
    """KML file to write."""

    def main(self) -> None:
        """Convert the path and write it."""
        from skyfall_ns.geo.camera_path_files import kml_tour

        check_output_files({"--output": self.output})
        cameras = _read_georeferenced(self.input)
        assert cameras.frame is not None
        seconds = len(cameras.poses) / cameras.fps
        text = kml_tour(cameras.local_poses(), cameras.frame, seconds, self.input.stem)
        atomic_write(self.output, text.encode())
        print(f"{self.output}: tour of {len(cameras.poses)} cameras, {seconds:.1f} s")


def _read_georeferenced(path: Path) -> "PathCameras":
    """Read a path that says where it is. Raises SkyfallError for one that does not."""
    from skyfall_ns.geo.camera_path_files import read_camera_path

    cameras = read_camera_path(path)
    if cameras.frame is None:
        raise SkyfallError(f"{path} does not say where it is. Make the path with skyfall-path.")
    return cameras


def _observer_frame(run: "RunTransform", origin: tuple[float, float, float] | None) -> "LocalFrame":
    """Frame of meters east, north and up of an observer."""
    import numpy as np

    from skyfall_ns.geo.frame import TOPOCENTRIC, LocalFrame

    if origin is None:
        center = np.array([*run.scene.box_m[:, :2].mean(0), 0.0])
        lon, lat, height = run.local_frame.to_geodetic(center).tolist()
        return LocalFrame(TOPOCENTRIC, (lon, lat, height))
    return LocalFrame(TOPOCENTRIC, origin)


def _transform_poses(poses: "np.ndarray", source: "LocalFrame", target: "LocalFrame") -> "np.ndarray":
    """Poses of one local frame in another: positions exactly, axes by the rotation between the frames there."""
    import numpy as np

    from skyfall_ns.geo.target_frame import TargetFrame

    moved = poses.copy()
    rotation, _ = TargetFrame(target).rotation_and_scale_at(source, np.zeros(3))
    moved[:, :3, :3] = rotation @ poses[:, :3, :3]
    moved[:, :3, 3] = TargetFrame(target).from_local(source, poses[:, :3, 3])
    return moved
