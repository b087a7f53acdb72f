"""Binary glTF containers: one JSON part and one binary part."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy import ndarray

_MAGIC, _VERSION, _JSON, _BINARY = 0x46546C67, 2, 0x4E4F534A, 0x004E4942
_COMPONENTS = {"<f4": 5126, "<u4": 5125, "|u1": 5121}
_TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
VERTICES, INDICES = 34962, 34963
Z_UP_TO_Y_UP = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
"""Matrix of a node (column-major) whose children have z up: (x, y, z) becomes (x, z, -y), as glTF requires."""


@dataclass
class GlbBuffer:
    """The binary part while it grows, with the views and accessors that refer to it."""

    data: bytearray = field(default_factory=bytearray)
    views: list[dict[str, Any]] = field(default_factory=list)
    accessors: list[dict[str, Any]] = field(default_factory=list)

    def add_view(self, data: bytes, target: int | None = None) -> int:
        """Append bytes; the index of their buffer view."""
        view: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(view if target is None else view | {"target": target})
        self.data += data + bytes(-len(data) % 4)
        return len(self.views) - 1

    def add_accessor(self, values: ndarray, *, normalized: bool = False, target: int = VERTICES) -> int:
        """Append an array "n" or "n c" of float32, uint32 or uint8; the index of its accessor. Its limits are stored
        if it has three columns of floats, as positions require."""
        values = np.ascontiguousarray(values)
        columns = 1 if values.ndim == 1 else values.shape[1]
        accessor: dict[str, Any] = {
            "bufferView": self.add_view(values.tobytes(), target),
            "componentType": _COMPONENTS[values.dtype.str],
            "count": len(values),
            "type": _TYPES[columns],
        }
        if normalized:
            accessor["normalized"] = True
        if columns == 3 and values.dtype.kind == "f":
            accessor |= {"min": values.min(0).tolist(), "max": values.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def encode_glb(document: Mapping[str, Any], buffer: GlbBuffer) -> bytes:
    """Bytes of a GLB file; buffers, views and accessors of the buffer are added to the document."""
    parts: dict[str, Any] = dict(document)
    parts |= {"buffers": [{"byteLength": len(buffer.data)}], "bufferViews": buffer.views}
    if buffer.accessors:
        parts["accessors"] = buffer.accessors
    text = json.dumps(parts, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), _JSON) + text + struct.pack("<II", len(buffer.data), _BINARY)
    total = 12 + len(chunks) + len(buffer.data)
    return struct.pack("<III", _MAGIC, _VERSION, total) + chunks + bytes(buffer.data)
