"""`skyfall-render`: images, depth, poses and videos along camera paths, of runs or of any PLY file of Gaussians.

For example: skyfall-render --load-config RUN_A/config.yml RUN_B/config.yml --camera-path orbit.json --output-dir frames
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from skyfall_ns.errors import MissingExtraError, SkyfallError
from skyfall_ns.scripts._cli import run_command

if TYPE_CHECKING:
    import numpy as np

    from skyfall_ns.export.path_views import RenderView
    from skyfall_ns.geo.camera_path_files import PathCameras


@dataclass(frozen=True)
class _Subject:
    """What is rendered: its name, its renderer with the transform to model space, its box, and facts for frames.json;
    `to_local` turns the cameras of a path into its frame."""

    name: str
    render: "RenderView"
    center_m: "np.ndarray"
    scale: float
    box_m: "np.ndarray"
    facts: dict[str, Any]
    frame: Any = None


@dataclass(frozen=True)
class Render:
    """Render every path with every run: OUTPUT/RUN/PATH/rgb_00000.png and frames.json, which has the poses."""

    camera_path: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")]
    """Camera paths (JSON) of skyfall-path, or of the viewer."""
    output_dir: Path
    """Directory for the frames; files in it are replaced."""
    load_config: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")] = ()
    """config.yml of each run."""
    ply: Path | None = None
    """PLY file of Gaussians, of skyfall-export or another program, instead of runs. A path of skyfall-path is placed by
    the placement.json beside it; without one, path and file must have the same coordinates."""
    step: int | None = None
    """Step of the checkpoint; by default the newest."""
    appearance: str = "mean"
    """mean: as the viewer shows free views; IMAGE: the colors of a training image in uniform light; IMAGE:sun: with the
    shading and the shadows of its sun."""
    depth: bool = False
    """Write the depth of each frame too, float32 TIFF in meters."""
    video: bool = False
    """Write video.mp4 of each path too; needs ffmpeg."""

    def main(self) -> None:
        """Check all paths before anything is rendered; render, print where the frames are."""
        from skyfall_ns.geo.camera_path_files import read_camera_path

        self._check_flags()
        paths = [(path, read_camera_path(path)) for path in self.camera_path]
        for subject in self._subjects():
            for path, cameras in paths:
                _render_path(self, subject, path, cameras)

    def _check_flags(self) -> None:
        if bool(self.load_config) == (self.ply is not None):
            raise SkyfallError("Runs or a file are rendered, not both or none. Give --load-config or --ply.")
        if self.ply is not None and (self.step is not None or self.appearance != "mean"):
            raise SkyfallError("--step and --appearance belong to runs, and a PLY has one appearance. Leave them out.")
        if self.output_dir.exists() and not self.output_dir.is_dir():
            raise SkyfallError(f"--output-dir {self.output_dir} is a file. Give a directory.")
        names = [path.stem for path in self.camera_path]
        if len(set(names)) < len(names):
            raise SkyfallError("Two camera paths have the same name. Rename one of the files.")
        if self.video:
            from skyfall_ns.nerfstudio_patches import add_ffmpeg_to_path

            add_ffmpeg_to_path()
            if not shutil.which("ffmpeg"):
                raise MissingExtraError("--video needs ffmpeg, which is missing. Run pip install 'skyfall-ns[video]'.")

    def _subjects(self) -> Iterator[_Subject]:
        if self.ply is not None:
            yield _ply_subject(self.ply)
        for config_path in self.load_config:
            yield _run_subject(config_path, self.step, self.appearance)


def _run_subject(config_path: Path, step: int | None, text: str) -> _Subject:
    import numpy as np

    from skyfall_ns.export.appearance_choice import choose_appearance
    from skyfall_ns.export.provenance import read_provenance
    from skyfall_ns.pipelines.load_run import load_run

    renderer = load_run(config_path, step).renderer
    normalized = renderer.normalized
    appearance = choose_appearance(renderer, text)
    provenance = read_provenance(config_path, normalized.scene)
    facts = {
        "frame": normalized.scene.frame.to_dict(),
        "appearance": text,
        "generative": provenance.generative,
        "attribution": provenance.attribution,
    }
    run_parts = config_path.resolve().parent.parts[-3:]
    return _Subject(
        "_".join(run_parts),
        lambda view: renderer.render(view, appearance=appearance),
        np.array(normalized.center_m),
        normalized.scale,
        normalized.scene.box_m,
        facts,
        normalized.scene.frame,
    )


def _ply_subject(path: Path) -> _Subject:
    import numpy as np

    from skyfall_ns.export.gaussians.ply_file import read_gaussian_ply
    from skyfall_ns.export.placement import find_placement

    gaussians, entry = read_gaussian_ply(path), find_placement(path)
    frame, facts = None, {"source": path.name}
    if entry is not None:
        frame, facts = entry.frame, facts | entry.facts
    return _Subject(path.stem, gaussians.render, np.zeros(3), 1.0, gaussians.box(), facts, frame)


def _render_path(command: Render, subject: _Subject, path: Path, cameras: "PathCameras") -> None:
    import numpy as np
    from tqdm import tqdm

    from skyfall_ns.export import path_views

    poses = _poses_in_frame(subject, cameras)
    path_views.check_visibility(cameras, poses, subject.box_m, path)
    directory = command.output_dir / subject.name / path.stem
    directory.mkdir(parents=True, exist_ok=True)
    images = []
    steps = enumerate(zip(poses, cameras.fov_deg, strict=True))
    for index, (pose, fov) in tqdm(steps, desc=path.stem, total=len(poses), leave=False, disable=None):
        camera = path_views.pinhole_of_frame(pose, fov, cameras.size)
        frame = path_views.render_frame(subject.render, camera, subject.center_m, subject.scale)
        image = path_views.write_frame(directory, index, frame, command.depth)
        images += [image] if command.video else []
    path_views.write_frames_json(directory, cameras, poses, subject.facts, command.depth)
    if command.video:
        import mediapy

        mediapy.write_video(directory / "video.mp4", np.stack(images), fps=cameras.fps)
    print(f"{directory}: {len(poses)} frames of {cameras.size[0]} x {cameras.size[1]} pixels")


def _poses_in_frame(subject: _Subject, cameras: "PathCameras") -> "np.ndarray":
    """Poses of a path in the frame of what is rendered; a path without a georeference is taken as it is for a PLY, and
    as model space for a run."""
    import numpy as np

    from skyfall_ns.geo.target_frame import TargetFrame

    if cameras.frame is None:
        poses = cameras.poses.copy()
        poses[:, :3, 3] = poses[:, :3, 3] / subject.scale + subject.center_m
        return poses
    poses = cameras.local_poses()
    if subject.frame is None:
        return cameras.poses
    target = TargetFrame(subject.frame)
    rotation, _ = target.rotation_and_scale_at(cameras.frame, np.zeros(3))
    poses[:, :3, :3] = rotation @ poses[:, :3, :3]
    poses[:, :3, 3] = target.from_local(cameras.frame, poses[:, :3, 3])
    return poses


def main() -> None:
    """Entry point."""
    config = (tyro.conf.FlagCreatePairsOff,)
    command = tyro.cli(Render, prog="skyfall-render", description=__doc__, config=config)
    run_command(command.main)
