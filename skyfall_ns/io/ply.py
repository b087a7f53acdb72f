"""Point clouds as binary PLY: positions in local meters, normals, colors and confidence."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from skyfall_ns.errors import SceneError
from skyfall_ns.io.files import atomic_write

_FIELDS = [(name, "<f4") for name in ("x", "y", "z", "nx", "ny", "nz")]
_FIELDS += [(name, "u1") for name in ("red", "green", "blue")] + [("confidence", "<f4")]
_DTYPE = np.dtype(_FIELDS)
_NAMES = {"<f4": "float", "u1": "uchar"}
_TYPES = {"float": "<f4", "float32": "<f4", "double": "<f8", "uchar": "u1", "uint8": "u1", "int": "<i4", "uint": "<u4"}
_MAX_HEADER = 64


@dataclass(frozen=True)
class PlyPoints:
    """Points with unit normals (zero where unknown), 8-bit colors and confidence in 0..1."""

    xyz_m: Float[ndarray, "n 3"]
    normals: Float[ndarray, "n 3"]
    rgb: UInt8[ndarray, "n 3"]
    confidence: Float[ndarray, " n"]


def write_ply(path: Path, points: PlyPoints) -> None:
    """Write points with `atomic_write`."""
    rows = np.empty(len(points.xyz_m), _DTYPE)
    for index, name in enumerate("xyz"):
        rows[name] = points.xyz_m[:, index]
        rows[f"n{name}"] = points.normals[:, index]
    for index, name in enumerate(("red", "green", "blue")):
        rows[name] = points.rgb[:, index]
    rows["confidence"] = points.confidence
    header = ["ply", "format binary_little_endian 1.0", "comment meters in the frame of scene.json"]
    header += [f"element vertex {len(rows)}", *(f"property {_NAMES[kind]} {name}" for name, kind in _FIELDS)]
    atomic_write(path, ("\n".join([*header, "end_header"]) + "\n").encode() + rows.tobytes())


def read_ply(path: Path) -> PlyPoints:
    """Read a binary little-endian PLY whose vertices have at least x, y, z and red, green, blue.

    Raises SceneError if the file is missing, damaged or of another kind.
    """
    try:
        with open(path, "rb") as file:
            count, dtype = _read_header(file)
            if count * dtype.itemsize > os.fstat(file.fileno()).st_size - file.tell():
                raise ValueError("it ends too early")
            rows = np.frombuffer(file.read(count * dtype.itemsize), dtype)
        xyz = np.stack([rows[name] for name in "xyz"], 1).astype(np.float64)
        rgb = np.stack([rows[name] for name in ("red", "green", "blue")], 1).astype(np.uint8)
        if not np.isfinite(xyz).all():
            raise ValueError("positions are not finite")
    except (OSError, ValueError, KeyError, UnicodeDecodeError) as error:
        raise SceneError(f"{path} cannot be read as a point cloud ({error}). Run skyfall-process again.") from error
    names = dtype.names or ()
    normals = [rows[n] if n in names else np.zeros(count) for n in ("nx", "ny", "nz")]
    confidence = rows["confidence"] if "confidence" in names else np.ones(count)
    return PlyPoints(xyz, np.stack(normals, 1).astype(np.float32), rgb, confidence.astype(np.float32))


def _read_header(file) -> tuple[int, np.dtype]:
    """Number of vertices and their layout; ValueError if the header is not that of a binary point cloud."""
    lines: list[list[str]] = []
    while not lines or lines[-1] != ["end_header"]:
        lines.append(file.readline(1024).decode("ascii").split())
        if len(lines) > _MAX_HEADER:
            raise ValueError("its header does not end")
    if lines[0] != ["ply"] or ["format", "binary_little_endian", "1.0"] not in lines:
        raise ValueError("it is not a binary little-endian PLY")
    count = next((int(w[2]) for w in lines if w[:2] == ["element", "vertex"]), -1)
    if count < 0:
        raise ValueError("it has no vertices")
    properties = [w for w in lines if w and w[0] == "property"]
    return count, np.dtype([(w[2], _TYPES[w[1]]) for w in properties])
