"""The files of one episode: idu/episode_NN/{poses.json, render, depth, refined, weight, manifest.json}.

Files are written atomically, and the manifest after each of them, so that a killed run resumes where it was stopped. An
image is complete if the manifest has its SHA-256; any other file in its place is overwritten.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.idu import episode_images
from skyfall_ns.idu.camera_placement import PlacementReport
from skyfall_ns.idu.curriculum import Episode, Pose, pose_camera
from skyfall_ns.idu.hole_filling import fill_holes
from skyfall_ns.idu.manifest import EpisodeSpec, Manifest, UnsupportedVersionError, ViewRecord, to_plain_json
from skyfall_ns.io.files import atomic_write, sha256_of_bytes
from skyfall_ns.refiners.base import RenderedView

ImageKind = Literal["render", "depth", "refined", "weight"]
MIN_DEPTH_UNIT_M = 0.01  # unit of depth images; distant views need a coarser one
OUTDATED_IMAGES = "images of another refiner or of other options"  # for messages
SOLID_ALPHA = 0.5  # pixels with less alpha are empty


class EpisodeStore:
    """One episode on disk: its cameras (`spec`), what is complete (`manifest`), and its images."""

    def __init__(self, path: Path, spec: EpisodeSpec, manifest: Manifest) -> None:
        self.path, self.spec, self.manifest = path, spec, manifest
        self._poses = {pose.name: pose for pose in spec.poses}

    @classmethod
    def create(
        cls,
        directory: Path,
        episode: Episode,
        poses: Sequence[Pose],
        size_px: int,
        scene: Mapping[str, Any],
        max_depth_m: float,
        refiner_options: Mapping[str, Any] | None = None,
    ) -> "EpisodeStore":
        """Create the directory of an episode in `directory` (RUN/idu), or open it if it exists.

        `scene`: what the episode belongs to (plain JSON); `max_depth_m`: upper bound of depths
        (`curriculum.farthest_depth_m`); `refiner_options`: options that `skyfall-refine` uses. Raises TrainingError if
        the directory exists and is damaged, of another run, or of other cameras."""
        unit_m = max(MIN_DEPTH_UNIT_M, max_depth_m / episode_images.MAX_DEPTH_UNITS)
        spec = EpisodeSpec(to_plain_json(scene), episode, size_px, unit_m, tuple(poses))
        path = episode_path(directory, episode.number)
        if (path / "poses.json").exists():
            store = cls.open(path)
            _check_same_episode(store.spec, spec, path)
        else:
            atomic_write(path / "poses.json", spec.to_json().encode())
            store = cls(path, spec, Manifest.for_episode(spec))
        store.manifest.refiner_options = None if refiner_options is None else to_plain_json(refiner_options)
        store.save_manifest()
        return store

    @classmethod
    def open(cls, path: Path) -> "EpisodeStore":
        """Open an existing episode. Raises TrainingError for a directory that is no episode, is damaged, or has files
        of two episodes."""
        path = Path(path)
        if not (path / "poses.json").is_file():
            raise TrainingError(f"{path} is not an episode: it has no poses.json. Pass RUN/idu/episode_NN.")
        spec = _read_checked(path / "poses.json", EpisodeSpec.from_json)
        if not (path / "manifest.json").exists():
            return cls(path, spec, Manifest.for_episode(spec))
        manifest = _read_checked(path / "manifest.json", lambda text: Manifest.from_json(text, spec))
        if (manifest.scene, manifest.episode) != (spec.scene, spec.episode.number):
            raise TrainingError(
                f"manifest.json and poses.json in {path} belong to different runs or episodes. "
                "Copy the whole directory again, or delete it to make the episode again."
            )
        return cls(path, spec, manifest)

    @property
    def episode(self) -> Episode:
        """Number, camera parameters and training steps of the episode."""
        return self.spec.episode

    @property
    def view_names(self) -> list[str]:
        """Names of the views, in order."""
        return list(self._poses)

    def save_manifest(self) -> None:
        """Write manifest.json."""
        atomic_write(self.path / "manifest.json", self.manifest.to_json().encode())

    def image_path(self, kind: ImageKind, name: str) -> Path:
        """Path of an image of a view, whether or not it exists."""
        return self.path / kind / f"{name}.png"

    def view_camera(self, name: str) -> PinholeCamera:
        """Camera of a view: local frame, meters."""
        return pose_camera(self._poses[name], self.episode.fov_deg, self.spec.size_px)

    # Renders

    def write_render(
        self, name: str, rgb: Float[Tensor, "h w 3"], alpha: Float[Tensor, "h w"], depth_m: Float[Tensor, "h w"]
    ) -> None:
        """Write colors in 0..1 and expected depth along the optical axis in meters.

        Pixels with alpha below one half, with NaN or infinity are empty: their depth is 0, and their color is filled
        from around them. If the render changes, the refined image of the view is no longer complete."""
        color, opacity, depth = (v.detach().float().cpu().numpy() for v in (rgb, alpha, depth_m))
        self._check_shape("render", name, color, 3)
        opacity, depth = opacity.reshape(color.shape[:2]), depth.reshape(color.shape[:2])
        valid = (opacity >= SOLID_ALPHA) & np.isfinite(color).all(-1) & np.isfinite(depth) & (depth > 0)
        rgb_data = episode_images.encode_rgb(fill_holes(color, valid))
        depth_data = episode_images.encode_depth(np.where(valid, depth, 0.0), self.spec.depth_unit_m)
        previous = self.manifest.views[name]
        record = replace(previous, render_sha256=sha256_of_bytes(rgb_data), depth_sha256=sha256_of_bytes(depth_data))
        if record != previous:
            record = ViewRecord(previous.seed, record.render_sha256, record.depth_sha256)
        atomic_write(self.image_path("render", name), rgb_data)
        atomic_write(self.image_path("depth", name), depth_data)
        self._record_view(name, record)

    def missing_renders(self) -> list[str]:
        """Views that are not rendered, or whose files are not those that were written."""
        return self._missing_views("render", "depth")

    def rendered_view(self, name: str) -> RenderedView:
        """Read a rendered view. Raises TrainingError if it is missing or damaged."""
        size, pose = self.spec.size_px, self._poses[name]
        rgb = self._read_image("render", name, lambda data: episode_images.decode_rgb(data, size))
        depth_m = self.read_depth_m(name)
        return RenderedView(name, rgb, depth_m > 0, depth_m, self.view_camera(name), pose.seed)

    def rendered_views(self, names: Iterable[str]) -> list[RenderedView]:
        """Read rendered views, in the order of `names`."""
        return [self.rendered_view(name) for name in names]

    def read_depth_m(self, name: str) -> Float[Tensor, "h w"]:
        """Read depth along the optical axis, meters; 0 in empty pixels."""
        size, unit_m = self.spec.size_px, self.spec.depth_unit_m
        return self._read_image("depth", name, lambda data: episode_images.decode_depth(data, size, unit_m))

    def valid_mask(self, name: str) -> Bool[Tensor, "h w"]:
        """False in empty pixels."""
        return self.read_depth_m(name) > 0

    # Refined images

    def set_refiner(self, identity: Mapping[str, Any], generative: bool) -> int:
        """Set the refiner of the episode; images of another refiner are discarded. Returns the number of discarded
        images."""
        identity = to_plain_json(identity)
        if self.manifest.refiner == identity and self.manifest.generative == generative:
            return 0
        discarded = sum(view.refined_sha256 is not None for view in self.manifest.views.values())
        self.manifest.views = {
            name: ViewRecord(view.seed, view.render_sha256, view.depth_sha256)
            for name, view in self.manifest.views.items()
        }
        self.manifest.refiner, self.manifest.generative, self.manifest.consistency = identity, generative, {}
        self.manifest.phases.pop("refine", None)
        self.save_manifest()
        return discarded

    def missing_refined(self) -> list[str]:
        """Views without a refined image of the present refiner and render, or whose file is damaged."""
        return self._missing_views("refined")

    def write_refined(self, name: str, image: Float[Tensor, "h w 3"]) -> bool:
        """Write a refined image in 0..1; False if it has NaN or infinity, and the render is written instead."""
        pixels = image.detach().float().cpu().numpy()
        self._check_shape("refined image", name, pixels, 3)
        is_finite = bool(np.isfinite(pixels).all())
        data = episode_images.encode_rgb(pixels) if is_finite else self._read_bytes("render", name)
        atomic_write(self.image_path("refined", name), data)
        self.manifest.views = {n: replace(view, weight_sha256=None) for n, view in self.manifest.views.items()}
        record = replace(self.manifest.views[name], refined_sha256=sha256_of_bytes(data), kept_render=not is_finite)
        self._record_view(name, record)
        return is_finite

    def read_refined(self, name: str) -> Float[Tensor, "h w 3"]:
        """Read a refined image in 0..1. Raises TrainingError if it is missing or damaged."""
        return self._read_image("refined", name, lambda data: episode_images.decode_rgb(data, self.spec.size_px))

    # Weights

    def missing_weights(self) -> list[str]:
        """Views without weights of the present refined images."""
        return self._missing_views("weight")

    def write_weight(self, name: str, weight: Float[Tensor, "h w"]) -> None:
        """Write the weight of each pixel of a refined image, in 0..1."""
        values = weight.detach().float().cpu().numpy()
        self._check_shape("weight", name, values)
        data = episode_images.encode_weight(values)
        atomic_write(self.image_path("weight", name), data)
        self._record_view(name, replace(self.manifest.views[name], weight_sha256=sha256_of_bytes(data)))

    def read_weight(self, name: str) -> Float[Tensor, "h w"]:
        """Read the weight of each pixel, in 0..1. Raises TrainingError if it is missing or damaged."""
        return self._read_image("weight", name, lambda data: episode_images.decode_weight(data, self.spec.size_px))

    # Time, memory, consistency and placement

    def record_phase(self, phase: str, seconds: float, peak_memory_bytes: int | None = None) -> None:
        """Add to the time of a phase, and update its peak memory."""
        previous = self.manifest.phases.get(phase, {"seconds": 0.0, "peak_memory_bytes": None})
        peaks = [peak for peak in (previous["peak_memory_bytes"], peak_memory_bytes) if peak is not None]
        total = (previous["seconds"] or 0.0) + seconds
        self.manifest.phases[phase] = {"seconds": total, "peak_memory_bytes": max(peaks, default=None)}
        self.save_manifest()

    def record_consistency(self, scores: Mapping[str, Any]) -> None:
        """Record the scores of `consistency.assess_episode`."""
        self.manifest.consistency = to_plain_json(scores)
        self.save_manifest()

    def record_placement(self, report: PlacementReport) -> None:
        """Record how the cameras were placed."""
        self.manifest.placement = report.to_dict()
        self.save_manifest()

    def placement_summary(self) -> str:
        """Number of views, and of those that were moved or left out, as a phrase."""
        placement = self.manifest.placement
        return f"{len(self._poses)} views" if placement is None else PlacementReport(**placement).summary()

    # Implementation

    def _record_view(self, name: str, record: ViewRecord) -> None:
        self.manifest.views[name] = record
        self.save_manifest()

    def _missing_views(self, *kinds: ImageKind) -> list[str]:
        return [name for name in self._poses if not all(self._is_complete(kind, name) for kind in kinds)]

    def _is_complete(self, kind: ImageKind, name: str) -> bool:
        expected = getattr(self.manifest.views[name], f"{kind}_sha256")
        if expected is None:
            return False
        try:
            data = self.image_path(kind, name).read_bytes()
            return sha256_of_bytes(data) == expected and self._is_readable(kind, data)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False

    def _is_readable(self, kind: ImageKind, data: bytes) -> bool:
        decode = {"depth": lambda d, s: episode_images.decode_depth(d, s, 1.0), "weight": episode_images.decode_weight}
        try:
            decode.get(kind, episode_images.decode_rgb)(data, self.spec.size_px)
        except ValueError:
            return False
        return True

    def _read_bytes(self, kind: ImageKind, name: str) -> bytes:
        try:
            return self.image_path(kind, name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise TrainingError(f"{self.image_path(kind, name)} is missing. {_REMEDIES[kind]}") from error

    def _read_image(self, kind: ImageKind, name: str, decode: Callable[[bytes], np.ndarray]) -> Tensor:
        data = self._read_bytes(kind, name)
        try:
            return torch.from_numpy(np.ascontiguousarray(decode(data)))
        except ValueError as error:
            raise TrainingError(f"{self.image_path(kind, name)} {error}. {_REMEDIES[kind]}") from error

    def _check_shape(self, what: str, name: str, pixels: np.ndarray, *channels: int) -> None:
        size = self.spec.size_px
        if pixels.shape != (size, size, *channels):
            raise TrainingError(
                f"The {what} of view {name} has shape {pixels.shape}, not {(size, size, *channels)}. "
                "Use a refiner and a renderer that keep the size of views."
            )


_RENDER_AGAIN = "Resume the training, which renders it again, or copy the directory again."
_REFINE_AGAIN = "Refine the episode again with skyfall-refine, or resume the training."
_REMEDIES: dict[ImageKind, str] = {
    "render": _RENDER_AGAIN,
    "depth": _RENDER_AGAIN,
    "refined": _REFINE_AGAIN,
    "weight": _REFINE_AGAIN,
}


def episode_path(directory: Path, number: int) -> Path:
    """Directory of an episode in `directory` (RUN/idu)."""
    return Path(directory) / f"episode_{number:02d}"


def find_episodes(path: Path) -> list[Path]:
    """Directories of the episodes at `path`, sorted by number: `path` itself if it is an episode, or all that it has.

    Raises TrainingError if there are none."""
    path = Path(path)
    if (path / "poses.json").exists():
        return [path]
    found = [p for p in path.glob("episode_*") if p.name[8:].isdecimal() and (p / "poses.json").exists()]
    if not found:
        raise TrainingError(f"There is no episode at {path}. Pass RUN/idu, or RUN/idu/episode_NN.")
    return sorted(found, key=lambda p: int(p.name[8:]))


def _check_same_episode(found: EpisodeSpec, expected: EpisodeSpec, path: Path) -> None:
    if found.scene != expected.scene:
        raise TrainingError(
            f"{path} belongs to another run or scene. Choose another output directory, or move that directory away."
        )
    if found != expected:
        raise TrainingError(
            f"{path} was made with other cameras than the present curriculum's. "
            "Pass the options that it was made with, or delete the directory to make the episode again."
        )


def _read_checked(path: Path, parse: Callable[[str], Any]) -> Any:
    """Read and parse a text file; errors become TrainingError."""
    remedy = "Copy the directory again, or delete it to make the episode again."
    try:
        return parse(path.read_text(encoding="utf-8"))
    except UnsupportedVersionError as error:
        raise TrainingError(f"{path} has version {error}, this program reads version 1. Update skyfall-ns.") from error
    except KeyError as error:
        raise TrainingError(f"{path} is damaged: {error} is missing. {remedy}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise TrainingError(f"{path} is damaged: {str(error).splitlines()[0][:200]}. {remedy}") from error
