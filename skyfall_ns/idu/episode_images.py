"""Pictures of an episode as PNG bytes and back: colours, depths and weights of square views.

Reading raises ValueError for bytes that are no picture of the wanted size and kind; sizes are looked at before pixels
are unpacked, because files may come from elsewhere.
"""

import struct

import cv2
import numpy as np
from jaxtyping import Float
from numpy import ndarray

_HEAD = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
_RGB, _GRAY = 2, 0  # colour types of PNG
DEEPEST = 65535


def encode_rgb(rgb: Float[ndarray, "s s 3"]) -> bytes:
    """8 bits per channel, of values in 0..1."""
    return _encode(np.round(255 * np.clip(rgb, 0, 1)).astype(np.uint8)[..., ::-1])


def decode_rgb(data: bytes, size_px: int) -> Float[ndarray, "s s 3"]:
    """Values in 0..1."""
    return _decode(data, size_px, 8, _RGB)[..., ::-1].astype(np.float32) / 255


def encode_depth(depth_m: Float[ndarray, "s s"], unit_m: float) -> bytes:
    """16 bits, in units of `unit_m`; 0 where it is 0 or not finite. Depths beyond the last number are that one."""
    known = np.isfinite(depth_m) & (depth_m > 0)
    units = np.round(np.where(known, depth_m, 0.0) / unit_m)
    return _encode(np.where(known, np.clip(units, 1, DEEPEST), 0).astype(np.uint16))


def decode_depth(data: bytes, size_px: int, unit_m: float) -> Float[ndarray, "s s"]:
    """Metres; 0 where void."""
    return _decode(data, size_px, 16, _GRAY).astype(np.float32) * np.float32(unit_m)


def encode_weight(weight: Float[ndarray, "s s"]) -> bytes:
    """8 bits, of values in 0..1; what is not finite is 0."""
    return _encode(np.round(255 * np.clip(np.nan_to_num(weight), 0, 1)).astype(np.uint8))


def decode_weight(data: bytes, size_px: int) -> Float[ndarray, "s s"]:
    """Values in 0..1."""
    return _decode(data, size_px, 8, _GRAY).astype(np.float32) / 255


def _encode(pixels: ndarray) -> bytes:
    done, data = cv2.imencode(".png", np.ascontiguousarray(pixels))
    assert done
    return data.tobytes()


def _decode(data: bytes, size_px: int, bits: int, kind: int) -> ndarray:
    if len(data) < len(_HEAD) + 10 or not data.startswith(_HEAD):
        raise ValueError("is no PNG")
    head = struct.unpack_from(">IIBB", data, len(_HEAD))
    if head != (size_px, size_px, bits, kind):
        width, height, depth, _ = head
        raise ValueError(f"is {width} x {height} px with {depth} bits, not {size_px} x {size_px} with {bits}")
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if (
        pixels is None
        or pixels.shape[:2] != (size_px, size_px)
        or pixels.dtype != (np.uint16 if bits == 16 else np.uint8)
    ):
        raise ValueError("cannot be decoded")
    return pixels
