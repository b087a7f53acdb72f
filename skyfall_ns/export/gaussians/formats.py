"""File formats of Gaussians: PLY of 3DGS and SPZ (by gsply), .splat, and glTF with KHR_gaussian_splatting.

All are in meters with z up, except that glTF has y up, which a node of the file converts.
"""

import gzip
import struct
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from skyfall_ns.errors import MissingExtraError, SkyfallError
from skyfall_ns.export.gaussians.cloud import GaussianCloud
from skyfall_ns.io.glb import Z_UP_TO_Y_UP, GlbBuffer, encode_glb

if TYPE_CHECKING:
    from gsply import GSData

SpzVersion = Literal[2, 3]
SPLATTING = "KHR_gaussian_splatting"
_SPZ_HEADER = struct.Struct("<IIIBBBB")
_SPZ_MAX, _SPZ_FINEST_BITS = (1 << 23) - 1, 12  # positions are 24-bit numbers of 2^-bits meters


def check_gsply() -> None:
    """Raise MissingExtraError if the package for PLY and SPZ files is missing."""
    try:
        import gsply  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "The package gsply, which writes PLY and SPZ files, is missing. Run pip install 'skyfall-ns[export]'."
        ) from error


def encode_ply(cloud: GaussianCloud, comments: Sequence[str]) -> bytes:
    """Bytes of a 3DGS PLY: float32, logarithms of scales, logits of opacities, quaternions wxyz."""
    import gsply

    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "gaussians.ply"
        gsply.plywrite(str(path), _to_gsply(cloud))
        data = path.read_bytes()
    first_lines, rest = data.split(b"element vertex", 1)
    lines = "".join(f"comment {line}\n" for line in comments)
    return first_lines + lines.encode("ascii") + b"element vertex" + rest


def encode_spz(cloud: GaussianCloud, version: SpzVersion) -> bytes:
    """Bytes of an SPZ file. Raises SkyfallError for a scene that is too large for its 24-bit positions.

    gsply writes version 3; version 2, which CesiumJS reads, differs in the quaternions alone: x, y, z in 8 bits each,
    for a positive w."""
    import gsply

    bits = spz_position_bits(cloud)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "gaussians.spz"
        gsply.write_spz(path, _to_gsply(cloud), version=3, fractional_bits=bits)
        data = path.read_bytes()
    return data if version == 3 else _spz_version_2(gzip.decompress(data), cloud)


def spz_position_bits(cloud: GaussianCloud) -> int:
    """Number of fractional bits of SPZ positions with which the whole cloud fits; 12 (a quarter of a millimeter) for
    scenes of up to 4 km."""
    farthest = float(np.abs(cloud.means_m).max())
    bits = int(np.floor(np.log2(_SPZ_MAX / max(farthest, 1e-3))))
    if bits < 6:  # positions of 16 mm
        raise SkyfallError(
            f"A Gaussian is {farthest / 1000:.0f} km from the origin, too far for SPZ. Export a PLY file instead."
        )
    return min(bits, _SPZ_FINEST_BITS)


def _spz_version_2(payload: bytes, cloud: GaussianCloud) -> bytes:
    """An uncompressed SPZ file of version 3 as a compressed one of version 2."""
    magic, _, count, degree, bits, flags, reserved = _SPZ_HEADER.unpack_from(payload)
    start = _SPZ_HEADER.size + (9 + 1 + 3 + 3) * count  # after positions, opacities, colors and scales
    quats = np.where(cloud.quats[:, :1] < 0, -cloud.quats, cloud.quats)
    rotations = np.round(quats[:, 1:] * 127.5 + 127.5).clip(0, 255).astype(np.uint8)
    header = _SPZ_HEADER.pack(magic, 2, count, degree, bits, flags, reserved)
    parts = header, payload[_SPZ_HEADER.size : start], rotations.tobytes(), payload[start + 4 * count :]
    return gzip.compress(b"".join(parts), 6, mtime=0)


def encode_splat(cloud: GaussianCloud) -> bytes:
    """Bytes of a .splat file: per Gaussian three float32 for the center, three for the scales, four bytes for color and
    opacity, four for the quaternion wxyz; the most visible Gaussians first, as viewers load them in this order."""
    rows = np.zeros(len(cloud), [("mean", "<f4", 3), ("scale", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])
    rows["mean"], rows["scale"] = cloud.means_m, cloud.scales_m
    rows["rgba"] = np.round(255 * np.concatenate([cloud.rgb, cloud.opacities[:, None]], 1)).clip(0, 255)
    rows["quat"] = np.round(cloud.quats * 128 + 128).clip(0, 255)
    order = np.argsort(-cloud.opacities * cloud.scales_m.prod(1), kind="stable")
    return rows[order].tobytes()


def encode_gaussian_glb(cloud: GaussianCloud, extras: dict[str, Any]) -> bytes:
    """Bytes of a GLB file with KHR_gaussian_splatting, uncompressed; viewers without it show colored points."""
    buffer = GlbBuffer()
    rest = cloud.harmonics_rest()
    float32 = {
        "POSITION": cloud.means_m,
        f"{SPLATTING}:ROTATION": cloud.quats[:, [1, 2, 3, 0]],
        f"{SPLATTING}:SCALE": cloud.scales_m,
        f"{SPLATTING}:OPACITY": cloud.opacities,
        f"{SPLATTING}:SH_DEGREE_0_COEF_0": cloud.harmonics_dc(),
        **{f"{SPLATTING}:SH_DEGREE_1_COEF_{k}": rest[:, k] for k in range(rest.shape[1])},
    }
    attributes = {name: buffer.add_accessor(values.astype("<f4")) for name, values in float32.items()}
    colors = np.round(255 * np.concatenate([cloud.rgb, cloud.opacities[:, None]], 1)).astype(np.uint8)
    attributes["COLOR_0"] = buffer.add_accessor(colors, normalized=True)
    splatting = {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    primitive = {"attributes": attributes, "mode": 0, "extensions": {SPLATTING: splatting}}
    document = {
        "asset": {"version": "2.0", "generator": extras["software"], "extras": extras},
        "extensionsUsed": [SPLATTING],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "matrix": Z_UP_TO_Y_UP}],
        "meshes": [{"primitives": [primitive]}],
    }
    return encode_glb(document, buffer)


def _to_gsply(cloud: GaussianCloud) -> "GSData":
    import gsply

    rest = cloud.harmonics_rest()
    return gsply.GSData(
        means=cloud.means_m.astype(np.float32),
        scales=np.log(cloud.scales_m).astype(np.float32),
        quats=cloud.quats.astype(np.float32),
        opacities=cloud.opacity_logits(),
        sh0=cloud.harmonics_dc(),
        shN=rest,
    )
