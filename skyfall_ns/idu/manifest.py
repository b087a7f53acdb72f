"""The JSON files of an episode: poses.json (its cameras) and manifest.json (what is complete).

Both may come from other machines. Parsing raises ValueError, KeyError or TypeError for damaged files, and
`UnsupportedVersionError` for files of another version.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from skyfall_ns.idu.curriculum import Episode, Point, Pose

VERSION = 1
_VIEW_NAME = re.compile(r"[0-9]{3,6}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class UnsupportedVersionError(Exception):
    """The file has another version, which is the argument."""


@dataclass(frozen=True)
class EpisodeSpec:
    """poses.json: the cameras of an episode and the format of their images. It never changes."""

    scene: dict[str, Any]
    """Scene and initial Gaussians that the episode belongs to: plain JSON, compared as a whole."""
    episode: Episode
    size_px: int
    depth_unit_m: float
    """Meters per unit of the depth images."""
    poses: tuple[Pose, ...]

    def to_json(self) -> str:
        """Format poses.json."""
        return _format_json({"version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "EpisodeSpec":
        """Parse and check poses.json."""
        data = _parse_json(text)
        poses = tuple(_parse_pose(entry) for entry in data["poses"])
        if not poses or len({pose.name for pose in poses}) != len(poses):
            raise ValueError("names of poses are missing or duplicate")
        return cls(
            scene=_check_mapping(data["scene"]),
            episode=_parse_episode(data["episode"]),
            size_px=_check_integer(data["size_px"], 16, 8192),
            depth_unit_m=_check_number(data["depth_unit_m"], 1e-6, 1e3),
            poses=poses,
        )


@dataclass(frozen=True)
class ViewRecord:
    """Complete files of a view: SHA-256, or None for files that are missing."""

    seed: int
    render_sha256: str | None = None
    depth_sha256: str | None = None
    refined_sha256: str | None = None
    weight_sha256: str | None = None
    kept_render: bool = False
    """Whether the output of the refiner had NaN or infinity, and the refined image is the render."""


@dataclass
class Manifest:
    """manifest.json: complete files, refiner, time and memory; written after every file."""

    scene: dict[str, Any]
    episode: int
    views: dict[str, ViewRecord]
    refiner: dict[str, Any] | None = None
    """Identity of the refiner of the refined images."""
    generative: bool | None = None
    """Whether that refiner can invent content that no image shows."""
    refiner_options: dict[str, Any] | None = None
    """Options with which the run requests refinement."""
    placement: dict[str, Any] | None = None
    """Planned, moved and omitted cameras, see `PlacementReport`; None: not recorded."""
    consistency: dict[str, Any] = field(default_factory=dict)
    phases: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Per phase {"seconds", "peak_memory_bytes"}, over all runs."""

    def to_json(self) -> str:
        """Format manifest.json."""
        return _format_json(
            {"version": VERSION, **vars(self), "views": {name: vars(v) for name, v in self.views.items()}}
        )

    @classmethod
    def for_episode(cls, spec: EpisodeSpec) -> "Manifest":
        """Manifest of an episode without images."""
        views = {pose.name: ViewRecord(pose.seed) for pose in spec.poses}
        return cls(scene=spec.scene, episode=spec.episode.number, views=views)

    @classmethod
    def from_json(cls, text: str, spec: EpisodeSpec) -> "Manifest":
        """Parse and check manifest.json, which must have the views of `spec`."""
        data = _parse_json(text)
        views = {name: _parse_record(entry) for name, entry in _check_mapping(data["views"]).items()}
        if {pose.name: pose.seed for pose in spec.poses} != {name: view.seed for name, view in views.items()}:
            raise ValueError("its views are not those of poses.json")
        if data["generative"] not in (None, True, False):
            raise ValueError("generative is neither true nor false")
        return cls(
            scene=_check_mapping(data["scene"]),
            episode=_check_integer(data["episode"], 1, 9999),
            views=views,
            refiner=None if data["refiner"] is None else _check_mapping(data["refiner"]),
            generative=data["generative"],
            refiner_options=None if data["refiner_options"] is None else _check_mapping(data["refiner_options"]),
            placement=_parse_placement(data.get("placement")),
            consistency=_check_mapping(data["consistency"]),
            phases={name: _parse_phase(entry) for name, entry in _check_mapping(data["phases"]).items()},
        )


def to_plain_json(data: Mapping[str, Any]) -> dict[str, Any]:
    """Data as JSON returns it: tuples become lists. Raises ValueError or TypeError for other data."""
    return json.loads(json.dumps(dict(data), allow_nan=False))


def _format_json(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def _parse_json(text: str) -> dict[str, Any]:
    data = _check_mapping(json.loads(text, parse_constant=_refuse_constant))
    if data["version"] != VERSION:
        raise UnsupportedVersionError(str(data["version"])[:20])
    return data


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _check_mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a list or a value was found where an object was expected")
    return value


def _check_number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{str(value)[:40]} is not a number from {low:g} to {high:g}")
    return float(value)


def _check_integer(value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or _check_number(value, low, high) != value:
        raise ValueError(f"{str(value)[:40]} is not an integer")
    return value


def _parse_point(value: Any) -> Point:
    x, y, z = (_check_number(v, -1e7, 1e7) for v in value)
    return x, y, z


def _parse_pose(data: Any) -> Pose:
    if not isinstance(data["name"], str) or not _VIEW_NAME.fullmatch(data["name"]):
        raise ValueError(f"{str(data['name'])[:40]!r} is not a view name")
    pose = Pose(
        name=data["name"],
        eye_m=_parse_point(data["eye_m"]),
        target_m=_parse_point(data["target_m"]),
        elevation_deg=_check_number(data["elevation_deg"], 0, 90),
        azimuth_deg=_check_number(data["azimuth_deg"], 0, 360),
        target=_check_integer(data["target"], 0, 2**31),
        view=_check_integer(data["view"], 0, 2**31),
        sample=_check_integer(data["sample"], 0, 2**31),
        seed=_check_integer(data["seed"], 0, 2**63 - 1),
    )
    if math.dist(pose.eye_m, pose.target_m) < 1e-3:
        raise ValueError(f"view {pose.name} has its camera at its look-at point")
    return pose


def _parse_episode(data: Any) -> Episode:
    return Episode(
        number=_check_integer(data["number"], 1, 9999),
        elevation_deg=_check_number(data["elevation_deg"], 0, 90),
        radius_m=_check_number(data["radius_m"], 0, 1e6),
        fov_deg=_check_number(data["fov_deg"], 1, 120),
        steps=_check_integer(data["steps"], 0, 2**31),
    )


def _parse_record(data: Any) -> ViewRecord:
    entry = {f.name: _check_mapping(data)[f.name] for f in fields(ViewRecord)}
    for name, value in entry.items():
        if name.endswith("sha256") and value is not None and not (isinstance(value, str) and _SHA256.fullmatch(value)):
            raise ValueError(f"{name} is not a SHA-256")
    if not isinstance(entry["kept_render"], bool):
        raise ValueError("kept_render is neither true nor false")
    _check_integer(entry["seed"], 0, 2**63 - 1)
    return ViewRecord(**entry)


def _parse_placement(data: Any) -> dict[str, Any] | None:
    if data is None:
        return None
    counts = {name: _check_integer(data[name], 0, 2**31) for name in ("planned", "moved_targets", "moved_cameras")}
    omitted = _check_mapping(data["omitted"]).items()
    return counts | {"omitted": {str(reason): _check_integer(count, 0, 2**31) for reason, count in omitted}}


def _parse_phase(data: Any) -> dict[str, float | None]:
    peak = data["peak_memory_bytes"]
    return {
        "seconds": _check_number(data["seconds"], 0, 1e12),
        "peak_memory_bytes": None if peak is None else _check_number(peak, 0, 1e18),
    }
