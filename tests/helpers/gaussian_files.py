"""Files of Gaussians, read by other programs or from their specification: positions, covariances, opacities, colors."""

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

SH_C0 = 0.28209479177387814


@dataclass
class ReadGaussians:
    xyz: np.ndarray
    quats: np.ndarray  # wxyz, as in the file
    scales: np.ndarray
    opacity: np.ndarray
    rgb: np.ndarray

    def covariances(self) -> np.ndarray:
        axes = Rotation.from_quat(self.quats[:, [1, 2, 3, 0]]).as_matrix()
        return np.einsum("nij,nj,nkj->nik", axes, self.scales**2, axes)


def read_gaussian_file(path: Path) -> ReadGaussians:
    return {".ply": _read_ply, ".spz": _read_spz, ".splat": _read_byte_rows, ".glb": _read_glb}[path.suffix](path)


def _read_ply(path):
    from plyfile import PlyData

    rows = PlyData.read(str(path))["vertex"]

    def columns(*names):
        return np.stack([rows[name].astype(float) for name in names], 1)

    return ReadGaussians(
        columns("x", "y", "z"),
        columns(*(f"rot_{i}" for i in range(4))),
        np.exp(columns(*(f"scale_{i}" for i in range(3)))),
        1 / (1 + np.exp(-rows["opacity"].astype(float))),
        0.5 + SH_C0 * columns(*(f"f_dc_{i}" for i in range(3))),
    )


def _read_spz(path):
    """From the description of the format (nianticlabs/spz)."""
    data = gzip.decompress(path.read_bytes())
    magic, version, n, _degree, bits, _flags, _ = struct.unpack_from("<IIIBBBB", data)
    assert magic == 0x5053474E
    sections, start = {}, 16
    for name, size in (("xyz", 9), ("alpha", 1), ("color", 3), ("scale", 3), ("rotation", 3 if version == 2 else 4)):
        sections[name] = np.frombuffer(data, np.uint8, n * size, start).reshape(n, size)
        start += n * size
    parts = sections["xyz"].reshape(n, 3, 3).astype(np.int32)
    fixed = parts[..., 0] | parts[..., 1] << 8 | parts[..., 2] << 16
    fixed = np.where(fixed >= 1 << 23, fixed - (1 << 24), fixed)
    quats = np.zeros((n, 4))
    if version == 2:
        quats[:, 1:] = sections["rotation"] / 127.5 - 1
        quats[:, 0] = np.sqrt(np.maximum(0, 1 - (quats[:, 1:] ** 2).sum(1)))
    else:
        packed = sections["rotation"].copy().view("<u4")[:, 0]
        largest = packed >> 30
        for axis in reversed(range(4)):  # xyzw
            row = largest != axis
            magnitude = (packed & 511) / 511 * np.sqrt(0.5)
            value = np.where(packed >> 9 & 1, -magnitude, magnitude)
            quats[row, (axis + 1) % 4] = value[row]
            packed = np.where(row, packed >> 10, packed)
        rest = np.sqrt(np.maximum(0, 1 - (quats**2).sum(1)))
        quats[np.arange(n), (largest.astype(int) + 1) % 4] = rest
    rgb = 0.5 + SH_C0 * (sections["color"] / 255 - 0.5) / 0.15
    return ReadGaussians(
        fixed / 2.0**bits, quats, np.exp(sections["scale"] / 16 - 10), sections["alpha"][:, 0] / 255, rgb
    )


def _read_byte_rows(path):
    rows = np.frombuffer(path.read_bytes(), [("f", "<f4", 6), ("rgba", "u1", 4), ("q", "u1", 4)])
    quats = (rows["q"].astype(float) - 128) / 128
    return ReadGaussians(
        rows["f"][:, :3].astype(float), quats, rows["f"][:, 3:].astype(float), rows["rgba"][:, 3] / 255,
        rows["rgba"][:, :3] / 255,
    )  # fmt: skip


def _read_glb(path):
    """By pygltflib; the node's matrix is applied and y up turned back to z up."""
    import pygltflib

    gltf = pygltflib.GLTF2().load(str(path))
    primitive, blob = gltf.meshes[0].primitives[0], gltf.binary_blob()
    names = primitive.attributes.__dict__

    def column(name):
        accessor = gltf.accessors[names[name]]
        view = gltf.bufferViews[accessor.bufferView]
        width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[accessor.type]
        return np.frombuffer(blob, "<f4", accessor.count * width, view.byteOffset).reshape(-1, width).astype(float)

    matrix = np.reshape(gltf.nodes[0].matrix, (4, 4)).T  # column-major
    y_up = column("POSITION") @ matrix[:3, :3].T + matrix[:3, 3]
    assert "KHR_gaussian_splatting" in gltf.extensionsUsed and primitive.mode == 0
    quats = column("KHR_gaussian_splatting:ROTATION")[:, [3, 0, 1, 2]]
    return ReadGaussians(
        np.stack([y_up[:, 0], -y_up[:, 2], y_up[:, 1]], 1),
        quats,
        column("KHR_gaussian_splatting:SCALE"),
        column("KHR_gaussian_splatting:OPACITY")[:, 0],
        0.5 + SH_C0 * column("KHR_gaussian_splatting:SH_DEGREE_0_COEF_0"),
    )
