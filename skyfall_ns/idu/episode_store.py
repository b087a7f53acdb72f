"""The files of one episode: idu/episode_NN/{poses.json, render, depth, refined, weight, manifest.json}.

Every file appears whole or not at all, and the manifest follows each: a run that is killed goes on where it was. A file
counts as done if the manifest knows its SHA-256; whatever else lies in its place is made again.
"""

import hashlib
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
from skyfall_ns.idu.curriculum import Episode, Pose, camera_of
from skyfall_ns.idu.hole_filling import fill_void
from skyfall_ns.idu.manifest import Manifest, OtherVersion, Shots, ViewRecord, plain
from skyfall_ns.io.files import write_whole
from skyfall_ns.refiners.base import RenderedView

Kind = Literal["render", "depth", "refined", "weight"]
FINEST_M = 0.01  # unit of depth pictures, unless far views need a coarser one
OF_ANOTHER = "of another refiner or of other options"  # images that are forgotten
SOLID = 0.5  # alpha from which a pixel is not void


class EpisodeFolder:
    """One episode on the disk: what it shows (`shots`), what has been done (`manifest`), and its pictures."""

    def __init__(self, path: Path, shots: Shots, manifest: Manifest) -> None:
        self.path, self.shots, self.manifest = path, shots, manifest
        self._poses = {pose.name: pose for pose in shots.poses}

    @classmethod
    def begin(
        cls,
        idu: Path,
        episode: Episode,
        poses: Sequence[Pose],
        size_px: int,
        scene: Mapping[str, Any],
        far_m: float,
        refiner_options: Mapping[str, Any] | None = None,
    ) -> "EpisodeFolder":
        """The folder of an episode below `idu`: made, or found and gone on with.

        `scene` says whose it is (plain JSON), `far_m` how far depths reach (`curriculum.farthest_m`),
        `refiner_options` with what `skyfall-refine` refines it. Raises TrainingError if the folder is another run's,
        of other cameras, or damaged."""
        unit_m = max(FINEST_M, far_m / episode_images.DEEPEST)
        shots = Shots(plain(scene), episode, size_px, unit_m, tuple(poses))
        path = episode_path(idu, episode.number)
        if (path / "poses.json").exists():
            folder = cls.open(path)
            _check_same(folder.shots, shots, path)
        else:
            write_whole(path / "poses.json", shots.to_json().encode())
            folder = cls(path, shots, Manifest.fresh(shots))
        folder.manifest.refiner_options = None if refiner_options is None else plain(refiner_options)
        folder.save()
        return folder

    @classmethod
    def open(cls, path: Path) -> "EpisodeFolder":
        """An episode that is there already; TrainingError if it is none, damaged, or put together from two."""
        path = Path(path)
        if not (path / "poses.json").is_file():
            raise TrainingError(f"{path} is no folder of an episode: it has no poses.json. Give RUN/idu/episode_NN.")
        shots = _read(path / "poses.json", Shots.from_json)
        if not (path / "manifest.json").exists():
            return cls(path, shots, Manifest.fresh(shots))
        manifest = _read(path / "manifest.json", lambda text: Manifest.from_json(text, shots))
        if (manifest.scene, manifest.episode) != (shots.scene, shots.episode.number):
            raise TrainingError(
                f"manifest.json and poses.json in {path} belong to different runs or episodes. "
                "Copy the whole folder again, or delete it to make the episode again."
            )
        return cls(path, shots, manifest)

    @property
    def episode(self) -> Episode:
        """Which round this is."""
        return self.shots.episode

    @property
    def names(self) -> list[str]:
        """Names of the views, in order."""
        return list(self._poses)

    def save(self) -> None:
        """Write the manifest."""
        write_whole(self.path / "manifest.json", self.manifest.to_json().encode())

    def file(self, kind: Kind, name: str) -> Path:
        """Where a picture is."""
        return self.path / kind / f"{name}.png"

    def camera(self, name: str) -> PinholeCamera:
        """Local frame, metres."""
        return camera_of(self._poses[name], self.episode.fov_deg, self.shots.size_px)

    # Renders

    def write_render(
        self, name: str, rgb: Float[Tensor, "h w 3"], alpha: Float[Tensor, "h w"], depth_m: Float[Tensor, "h w"]
    ) -> None:
        """Colours in 0..1, expected depth along the optical axis in metres. Where alpha is below one half, or a number
        is none, the pixel is void: depth 0, colour filled from around it. Refined images of another render are
        forgotten."""
        color, opacity, depth = (v.detach().float().cpu().numpy() for v in (rgb, alpha, depth_m))
        self._check_shape("render", name, color, 3)
        opacity, depth = opacity.reshape(color.shape[:2]), depth.reshape(color.shape[:2])
        valid = (opacity >= SOLID) & np.isfinite(color).all(-1) & np.isfinite(depth) & (depth > 0)
        picture = episode_images.encode_rgb(fill_void(color, valid))
        depths = episode_images.encode_depth(np.where(valid, depth, 0.0), self.shots.depth_unit_m)
        before = self.manifest.views[name]
        after = replace(before, render_sha256=_sha256(picture), depth_sha256=_sha256(depths))
        if after != before:
            after = ViewRecord(before.seed, after.render_sha256, after.depth_sha256)
        write_whole(self.file("render", name), picture)
        write_whole(self.file("depth", name), depths)
        self._record(name, after)

    def missing_renders(self) -> list[str]:
        """Views that are not rendered, or whose files are no longer what was written."""
        return self._missing("render", "depth")

    def view(self, name: str) -> RenderedView:
        """A rendered view; TrainingError if it is missing or damaged."""
        size, pose = self.shots.size_px, self._poses[name]
        rgb = self._picture("render", name, lambda data: episode_images.decode_rgb(data, size))
        depth_m = self.depth_m(name)
        return RenderedView(name, rgb, depth_m > 0, depth_m, self.camera(name), pose.seed)

    def views(self, names: Iterable[str]) -> list[RenderedView]:
        """Rendered views, in this order."""
        return [self.view(name) for name in names]

    def depth_m(self, name: str) -> Float[Tensor, "h w"]:
        """Depth along the optical axis, metres; 0 where void."""
        size, unit_m = self.shots.size_px, self.shots.depth_unit_m
        return self._picture("depth", name, lambda data: episode_images.decode_depth(data, size, unit_m))

    def valid(self, name: str) -> Bool[Tensor, "h w"]:
        """False where the view is void."""
        return self.depth_m(name) > 0

    # Refined images

    def begin_refining(self, identity: Mapping[str, Any], generative: bool) -> int:
        """Say which refiner works from now on; what another one has made is forgotten: so many images."""
        identity = plain(identity)
        if self.manifest.refiner == identity and self.manifest.generative == generative:
            return 0
        forgotten = sum(view.refined_sha256 is not None for view in self.manifest.views.values())
        self.manifest.views = {
            name: ViewRecord(view.seed, view.render_sha256, view.depth_sha256)
            for name, view in self.manifest.views.items()
        }
        self.manifest.refiner, self.manifest.generative, self.manifest.consistency = identity, generative, {}
        self.manifest.phases.pop("refine", None)
        self.save()
        return forgotten

    def missing_refined(self) -> list[str]:
        """Views without a refined image of the present refiner and render, including those whose file is damaged."""
        return self._missing("refined")

    def write_refined(self, name: str, image: Float[Tensor, "h w 3"]) -> bool:
        """Store a refiner's answer, values in 0..1; False if it has numbers that are none and the render is kept."""
        pixels = image.detach().float().cpu().numpy()
        self._check_shape("refined image", name, pixels, 3)
        sound = bool(np.isfinite(pixels).all())
        picture = episode_images.encode_rgb(pixels) if sound else self._bytes("render", name)
        write_whole(self.file("refined", name), picture)
        self.manifest.views = {n: replace(view, weight_sha256=None) for n, view in self.manifest.views.items()}
        record = replace(self.manifest.views[name], refined_sha256=_sha256(picture), kept_render=not sound)
        self._record(name, record)
        return sound

    def refined(self, name: str) -> Float[Tensor, "h w 3"]:
        """A refined image in 0..1; TrainingError if it is missing or damaged."""
        return self._picture("refined", name, lambda data: episode_images.decode_rgb(data, self.shots.size_px))

    # Weights

    def missing_weights(self) -> list[str]:
        """Views without weights of the present refined images."""
        return self._missing("weight")

    def write_weight(self, name: str, weight: Float[Tensor, "h w"]) -> None:
        """Store how much each pixel of a refined image counts, 0..1."""
        values = weight.detach().float().cpu().numpy()
        self._check_shape("weight", name, values)
        picture = episode_images.encode_weight(values)
        write_whole(self.file("weight", name), picture)
        self._record(name, replace(self.manifest.views[name], weight_sha256=_sha256(picture)))

    def weight(self, name: str) -> Float[Tensor, "h w"]:
        """How much each pixel counts, 0..1; TrainingError if missing or damaged."""
        return self._picture("weight", name, lambda data: episode_images.decode_weight(data, self.shots.size_px))

    # The manifest's figures

    def record_phase(self, phase: str, seconds: float, peak_memory_bytes: int | None = None) -> None:
        """Add to a phase's time, and raise its peak memory."""
        before = self.manifest.phases.get(phase, {"seconds": 0.0, "peak_memory_bytes": None})
        peaks = [peak for peak in (before["peak_memory_bytes"], peak_memory_bytes) if peak is not None]
        total = (before["seconds"] or 0.0) + seconds
        self.manifest.phases[phase] = {"seconds": total, "peak_memory_bytes": max(peaks, default=None)}
        self.save()

    def record_consistency(self, numbers: Mapping[str, Any]) -> None:
        """How well the views agree (evaluation.consistency)."""
        self.manifest.consistency = plain(numbers)
        self.save()

    # Behind the doors

    def _record(self, name: str, record: ViewRecord) -> None:
        self.manifest.views[name] = record
        self.save()

    def _missing(self, *kinds: Kind) -> list[str]:
        return [name for name in self._poses if not all(self._done(kind, name) for kind in kinds)]

    def _done(self, kind: Kind, name: str) -> bool:
        wanted = getattr(self.manifest.views[name], f"{kind}_sha256")
        if wanted is None:
            return False
        try:
            data = self.file(kind, name).read_bytes()
            return _sha256(data) == wanted and self._decodes(kind, data)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return False

    def _decodes(self, kind: Kind, data: bytes) -> bool:
        decode = {"depth": lambda d, s: episode_images.decode_depth(d, s, 1.0), "weight": episode_images.decode_weight}
        try:
            decode.get(kind, episode_images.decode_rgb)(data, self.shots.size_px)
        except ValueError:
            return False
        return True

    def _bytes(self, kind: Kind, name: str) -> bytes:
        try:
            return self.file(kind, name).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise TrainingError(f"{self.file(kind, name)} is missing. {_MEND[kind]}") from error

    def _picture(self, kind: Kind, name: str, decode: Callable[[bytes], np.ndarray]) -> Tensor:
        data = self._bytes(kind, name)
        try:
            return torch.from_numpy(np.ascontiguousarray(decode(data)))
        except ValueError as error:
            raise TrainingError(f"{self.file(kind, name)} {error}. {_MEND[kind]}") from error

    def _check_shape(self, what: str, name: str, pixels: np.ndarray, *channels: int) -> None:
        size = self.shots.size_px
        if pixels.shape != (size, size, *channels):
            raise TrainingError(
                f"The {what} of view {name} has shape {pixels.shape}, not {(size, size, *channels)}. "
                "Use a refiner and a renderer that keep the size of views."
            )


_AGAIN = "Go on with the training, which renders it again, or copy the folder again."
_MEND: dict[Kind, str] = {
    "render": _AGAIN,
    "depth": _AGAIN,
    "refined": "Refine the episode again with skyfall-refine, or go on with the training.",
    "weight": "Refine the episode again with skyfall-refine, or go on with the training.",
}


def episode_path(idu: Path, number: int) -> Path:
    """Folder of an episode."""
    return Path(idu) / f"episode_{number:02d}"


def find_episodes(path: Path) -> list[Path]:
    """The folder itself if it is an episode's, or those of all episodes in it, first one first; TrainingError if there
    are none."""
    path = Path(path)
    if (path / "poses.json").exists():
        return [path]
    found = [p for p in path.glob("episode_*") if p.name[8:].isdecimal() and (p / "poses.json").exists()]
    if not found:
        raise TrainingError(f"There is no episode at {path}. Give RUN/idu, or RUN/idu/episode_NN.")
    return sorted(found, key=lambda p: int(p.name[8:]))


def _check_same(found: Shots, wanted: Shots, path: Path) -> None:
    if found.scene != wanted.scene:
        raise TrainingError(
            f"{path} belongs to another run or scene. Choose another output folder, or move that folder away."
        )
    if found != wanted:
        raise TrainingError(
            f"{path} was made with other cameras than the present curriculum's. "
            "Pass the options that it was made with, or delete the folder to make the episode again."
        )


def _read(path: Path, parse: Callable[[str], Any]) -> Any:
    """Parsed text of a file; what is wrong with it as TrainingError."""
    mend = "Copy the folder again, or delete it to make the episode again."
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OtherVersion as error:
        raise TrainingError(f"{path} has version {error}, this program reads version 1. Update skyfall-ns.") from error
    except KeyError as error:
        raise TrainingError(f"{path} is damaged: {error} is missing. {mend}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise TrainingError(f"{path} is damaged: {str(error).splitlines()[0][:200]}. {mend}") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
