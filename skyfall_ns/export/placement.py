"""placement.json: where exported files are, how large, and what they are made of.

One file per directory, with an entry per exported file, so that exports into one directory do not lose each other's
placement.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skyfall_ns import __version__
from skyfall_ns.errors import SkyfallError
from skyfall_ns.export.provenance import GENERATIVE_NOTE, Provenance
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.target_frame import TargetFrame
from skyfall_ns.io.files import write_json

PLACEMENT_FILE, FORMAT, VERSION = "placement.json", "skyfall-placement", 1
SOFTWARE = f"skyfall-ns {__version__}"


@dataclass(frozen=True)
class FilePlacement:
    """Placement of one exported file: meters from the origin of a frame are offset_m + unit_m * (x, y, z).

    In a projected CRS, origin plus these meters are coordinates."""

    target: TargetFrame
    provenance: Provenance
    appearance: str
    unit_m: float = 1.0
    offset_m: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def to_dict(self) -> dict[str, Any]:
        """The entry in placement.json."""
        import numpy as np

        inner = np.diag([self.unit_m, self.unit_m, self.unit_m, 1.0])
        inner[:3, 3] = self.offset_m
        entry: dict[str, Any] = {
            "crs": self.target.crs,
            "vertical": self.target.vertical,
            "origin": list(self.target.origin()),
            "offset_m": list(self.offset_m),
            "unit_m": self.unit_m,
            "axes": ["east", "north", "up"],
            "ecef_from_file": (self.target.ecef_from_file() @ inner).tolist(),
            "appearance": self.appearance,
            "generative": self.provenance.generative,
            "refiners": list(self.provenance.refiners),
            "attribution": self.provenance.attribution,
            "software": SOFTWARE,
        }
        return entry

    def comments(self, content: str = "3D Gaussian splatting") -> list[str]:
        """The same in lines, for headers of files that have room for them; ASCII only."""
        entry = self.to_dict()
        lines = [
            f"{SOFTWARE}, {content}, z up",
            f"crs {entry['crs']}",
            f"vertical {entry['vertical']}",
            "origin {:.9f} {:.9f} {:.6f}".format(*entry["origin"]),
            "offset_m {:.6f} {:.6f} {:.6f}".format(*self.offset_m),
            f"unit_m {self.unit_m:g}",
            "axes east north up",
            f"appearance {self.appearance}",
            f"generative {'yes: ' + GENERATIVE_NOTE if self.provenance.generative else 'no'}",
            f"attribution {self.provenance.attribution}",
        ]
        return [line.encode("ascii", "replace").decode() for line in lines]

    def summary(self) -> str:
        """Words for the last line that an export prints."""
        words = f"{self.target.crs}, {'ellipsoidal' if self.target.vertical == 'ellipsoid' else self.target.vertical}"
        return f"{words} heights, meters{self.provenance.note()}"


@dataclass(frozen=True)
class PlacedFrame:
    """Frame of the coordinates of an exported file in meters, and what placement.json says about its content."""

    frame: LocalFrame
    facts: dict[str, Any]


def find_placement(path: Path) -> PlacedFrame | None:
    """The placement of a file in the placement.json beside it, if it is in meters with ellipsoidal heights; None for
    files without an entry. Raises SkyfallError for other units and heights."""
    try:
        entry = _read_entries(path.parent / PLACEMENT_FILE).get(path.name)
    except SkyfallError:
        return None  # the placement.json of another program
    if entry is None:
        return None
    if entry["unit_m"] != 1.0 or entry["vertical"] != "ellipsoid":
        raise SkyfallError(
            f"{path} is not in meters above the ellipsoid. Export it with skyfall-export ply --vertical ellipsoid."
        )
    x, y, z = (float(value) for value in entry["origin"])
    facts = {key: entry[key] for key in ("appearance", "generative", "attribution")}
    return PlacedFrame(LocalFrame(entry["crs"], (x, y, z)), facts)


def check_placement_file(output: Path) -> None:
    """Raise SkyfallError if the placement.json beside an output belongs to another program."""
    _read_entries(output.parent / PLACEMENT_FILE)


def write_placement(output: Path, placement: FilePlacement) -> None:
    """Write or replace the entry of a file in the placement.json beside it."""
    path = output.parent / PLACEMENT_FILE
    entries = _read_entries(path) | {output.name: placement.to_dict()}
    write_json(path, {"format": FORMAT, "version": VERSION, "files": entries})


def _read_entries(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text())
        if data["format"] != FORMAT or data["version"] != VERSION:
            raise ValueError("another format or version")
        return dict(data["files"])
    except (ValueError, LookupError, TypeError, OSError) as error:
        raise SkyfallError(
            f"{path} is not a placement file of this program ({error}). Move it away, or export to another directory."
        ) from error
