"""PNG encoding and decoding of the images of an episode: colors, depths and weights of square views.

Decoding raises ValueError for data that is not a PNG of the expected size and pixel format. The header is checked
before pixels are decompressed, because the files may come from other machines.
"""

import struct

import cv2
import numpy as np
from jaxtyping import Float
from numpy import ndarray

from skyfall_ns.io.images import encode_png

_PNG_HEADER = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_RGB, _GRAY = 2, 0  # PNG color types
MAX_DEPTH_UNITS = 65535


def encode_rgb(rgb: Float[ndarray, "s s 3"]) -> bytes:
    """Encode colors in 0..1 with 8 bits per channel."""
    return encode_png(np.round(255 * np.clip(rgb, 0, 1)).astype(np.uint8)[..., ::-1])


def decode_rgb(data: bytes, size_px: int) -> Float[ndarray, "s s 3"]:
    """Decode colors in 0..1."""
    return _decode_png(data, size_px, 8, _RGB)[..., ::-1].astype(np.float32) / 255


def encode_depth(depth_m: Float[ndarray, "s s"], unit_m: float) -> bytes:
    """Encode depth with 16 bits in units of `unit_m`; 0 where it is 0 or not finite. Larger depths are clamped."""
    known = np.isfinite(depth_m) & (depth_m > 0)
    units = np.round(np.where(known, depth_m, 0.0) / unit_m)
    return encode_png(np.where(known, np.clip(units, 1, MAX_DEPTH_UNITS), 0).astype(np.uint16))


def decode_depth(data: bytes, size_px: int, unit_m: float) -> Float[ndarray, "s s"]:
    """Decode depth in meters; 0 in empty pixels."""
    return _decode_png(data, size_px, 16, _GRAY).astype(np.float32) * np.float32(unit_m)


def encode_weight(weight: Float[ndarray, "s s"]) -> bytes:
    """Encode weights in 0..1 with 8 bits; NaN is 0."""
    return encode_png(np.round(255 * np.clip(np.nan_to_num(weight), 0, 1)).astype(np.uint8))


def decode_weight(data: bytes, size_px: int) -> Float[ndarray, "s s"]:
    """Decode weights in 0..1."""
    return _decode_png(data, size_px, 8, _GRAY).astype(np.float32) / 255


def _decode_png(data: bytes, size_px: int, bits: int, color_type: int) -> ndarray:
    if len(data) < len(_PNG_HEADER) + 10 or not data.startswith(_PNG_HEADER):
        raise ValueError("is not a PNG")
    header = struct.unpack_from(">IIBB", data, len(_PNG_HEADER))
    if header != (size_px, size_px, bits, color_type):
        width, height, depth, _ = header
        raise ValueError(f"is {width} x {height} px with {depth} bits, not {size_px} x {size_px} with {bits}")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if (
        pixels is None
        or pixels.shape[:2] != (size_px, size_px)
        or pixels.dtype != (np.uint16 if bits == 16 else np.uint8)
    ):
        raise ValueError("cannot be decoded")
    return pixels
