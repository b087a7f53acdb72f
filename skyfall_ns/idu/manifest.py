"""What an episode's folder says of itself: poses.json (what is to be seen) and manifest.json (what has been done).

Both may come from elsewhere. Reading raises ValueError for what is damaged, and `OtherVersion` for another version's.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from skyfall_ns.idu.curriculum import Episode, Point, Pose

VERSION = 1
_NAME = re.compile(r"[0-9]{3,6}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class OtherVersion(Exception):
    """The file was written by another version; its number."""


@dataclass(frozen=True)
class Shots:
    """poses.json: the cameras of an episode and how their pictures are stored. Never changes."""

    scene: dict[str, Any]
    """Whose episode it is: plain JSON, compared as a whole."""
    episode: Episode
    size_px: int
    depth_unit_m: float
    """Metres per unit of the depth pictures."""
    poses: tuple[Pose, ...]

    def to_json(self) -> str:
        """Text of poses.json."""
        return _text({"version": VERSION, **asdict(self)})

    @classmethod
    def from_json(cls, text: str) -> "Shots":
        """Checked."""
        data = _parsed(text)
        poses = tuple(_pose(entry) for entry in data["poses"])
        if not poses or len({pose.name for pose in poses}) != len(poses):
            raise ValueError("names of poses are missing or double")
        return cls(
            scene=_mapping(data["scene"]),
            episode=_episode(data["episode"]),
            size_px=_whole(data["size_px"], 16, 8192),
            depth_unit_m=_number(data["depth_unit_m"], 1e-6, 1e3),
            poses=poses,
        )


@dataclass(frozen=True)
class ViewRecord:
    """What has been done for one view: SHA-256 of the files, None where there is none yet."""

    seed: int
    render_sha256: str | None = None
    depth_sha256: str | None = None
    refined_sha256: str | None = None
    weight_sha256: str | None = None
    kept_render: bool = False
    """The refiner's answer had numbers that are none, so the refined image is the render."""


@dataclass
class Manifest:
    """manifest.json: what has been done, with which refiner, at which cost. Grows with every file."""

    scene: dict[str, Any]
    episode: int
    views: dict[str, ViewRecord]
    refiner: dict[str, Any] | None = None
    """Identity of the refiner that made the refined images."""
    generative: bool | None = None
    """Whether that refiner can invent what no image shows."""
    refiner_options: dict[str, Any] | None = None
    """The options that whoever made the episode wants it refined with."""
    consistency: dict[str, Any] = field(default_factory=dict)
    phases: dict[str, dict[str, float | None]] = field(default_factory=dict)
    """Per phase {"seconds", "peak_memory_bytes"}, all runs together."""

    def to_json(self) -> str:
        """Text of manifest.json."""
        return _text({"version": VERSION, **vars(self), "views": {name: vars(v) for name, v in self.views.items()}})

    @classmethod
    def fresh(cls, shots: Shots) -> "Manifest":
        """Nothing has been done."""
        views = {pose.name: ViewRecord(pose.seed) for pose in shots.poses}
        return cls(scene=shots.scene, episode=shots.episode.number, views=views)

    @classmethod
    def from_json(cls, text: str, shots: Shots) -> "Manifest":
        """Checked, and of the same views as `shots`."""
        data = _parsed(text)
        views = {name: _record(entry) for name, entry in _mapping(data["views"]).items()}
        if {pose.name: pose.seed for pose in shots.poses} != {name: view.seed for name, view in views.items()}:
            raise ValueError("its views are not those of poses.json")
        if data["generative"] not in (None, True, False):
            raise ValueError("generative is neither true nor false")
        return cls(
            scene=_mapping(data["scene"]),
            episode=_whole(data["episode"], 1, 9999),
            views=views,
            refiner=None if data["refiner"] is None else _mapping(data["refiner"]),
            generative=data["generative"],
            refiner_options=None if data["refiner_options"] is None else _mapping(data["refiner_options"]),
            consistency=_mapping(data["consistency"]),
            phases={name: _phase(entry) for name, entry in _mapping(data["phases"]).items()},
        )


def plain(data: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON: tuples are lists. ValueError or TypeError for what JSON cannot say."""
    return json.loads(json.dumps(dict(data), allow_nan=False))


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=1, allow_nan=False) + "\n"


def _parsed(text: str) -> dict[str, Any]:
    data = _mapping(json.loads(text, parse_constant=_no_number))
    if data["version"] != VERSION:
        raise OtherVersion(str(data["version"])[:20])
    return data


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number")


def _mapping(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a list or a value stands where names with values should")
    return value


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{str(value)[:40]} is no number from {low:g} to {high:g}")
    return float(value)


def _whole(value: Any, low: int, high: int) -> int:
    if not isinstance(value, int) or _number(value, low, high) != value:
        raise ValueError(f"{str(value)[:40]} is no whole number")
    return value


def _point(value: Any) -> Point:
    x, y, z = (_number(v, -1e7, 1e7) for v in value)
    return x, y, z


def _pose(data: Any) -> Pose:
    if not isinstance(data["name"], str) or not _NAME.fullmatch(data["name"]):
        raise ValueError(f"{str(data['name'])[:40]!r} is no name of a view")
    pose = Pose(
        name=data["name"],
        eye_m=_point(data["eye_m"]),
        target_m=_point(data["target_m"]),
        elevation_deg=_number(data["elevation_deg"], 0, 90),
        azimuth_deg=_number(data["azimuth_deg"], 0, 360),
        target=_whole(data["target"], 0, 2**31),
        view=_whole(data["view"], 0, 2**31),
        sample=_whole(data["sample"], 0, 2**31),
        seed=_whole(data["seed"], 0, 2**63 - 1),
    )
    if math.dist(pose.eye_m, pose.target_m) < 1e-3:
        raise ValueError(f"view {pose.name} looks nowhere")
    return pose


def _episode(data: Any) -> Episode:
    return Episode(
        number=_whole(data["number"], 1, 9999),
        elevation_deg=_number(data["elevation_deg"], 0, 90),
        radius_m=_number(data["radius_m"], 0, 1e6),
        fov_deg=_number(data["fov_deg"], 1, 120),
        steps=_whole(data["steps"], 0, 2**31),
    )


def _record(data: Any) -> ViewRecord:
    entry = {f.name: _mapping(data)[f.name] for f in fields(ViewRecord)}
    for name, value in entry.items():
        if name.endswith("sha256") and value is not None and not (isinstance(value, str) and _SHA256.fullmatch(value)):
            raise ValueError(f"{name} is no SHA-256")
    if not isinstance(entry["kept_render"], bool):
        raise ValueError("kept_render is neither true nor false")
    _whole(entry["seed"], 0, 2**63 - 1)
    return ViewRecord(**entry)


def _phase(data: Any) -> dict[str, float | None]:
    peak = data["peak_memory_bytes"]
    return {
        "seconds": _number(data["seconds"], 0, 1e12),
        "peak_memory_bytes": None if peak is None else _number(peak, 0, 1e18),
    }
