"""Windows of vendor images: digital numbers, the pixels that have data, and those that are saturated."""

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Bool
from numpy import ndarray
from rasterio.enums import MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from skyfall_ns.errors import RasterError

FULL_WELL_BITS = (8, 10, 11, 12, 14, 16)


@dataclass(frozen=True)
class Crop:
    """A window of a vendor image."""

    dn: ndarray  # digital numbers "h w b", 1 or 3 bands; 8 or 16 bits, or float32
    valid: Bool[ndarray, "h w"]  # False where there is no data
    saturated: Bool[ndarray, "h w"]  # True where the digital number is only a lower bound
    col0: int  # first column and row in the vendor's image
    row0: int

    @property
    def size_px(self) -> tuple[int, int]:
        """Width and height."""
        return self.dn.shape[1], self.dn.shape[0]

    @property
    def full_well(self) -> float:
        """Digital number of saturated pixels; infinite if there is none."""
        return float(self.dn[self.saturated].max()) if self.saturated.any() else math.inf


@dataclass(frozen=True)
class PixelSource:
    """What is read of a file, and what of it counts as data."""

    path: Path
    bands: tuple[int, ...]  # from 1: gray, or red, green, blue
    nodata: float
    mask: Path | None = None  # image of the file's size, 0 where pixels are not to be used


class WindowCache:
    """The last window read from a file: windows within it are not read from disk again."""

    def __init__(self) -> None:
        self._dn: ndarray | None = None  # "h w b"
        self._valid: ndarray = np.zeros((0, 0), bool)
        self._col0, self._row0 = 0, 0

    def read_window(
        self, source: PixelSource, col0: int, row0: int, width: int, height: int
    ) -> tuple[ndarray, ndarray]:
        """Digital numbers "h w b" of a window, and which pixels have data; see `read_pixels`."""
        left, top = col0 - self._col0, row0 - self._row0
        if (
            self._dn is None
            or left < 0
            or top < 0
            or left + width > self._dn.shape[1]
            or top + height > self._dn.shape[0]
        ):
            self._dn, self._valid = read_pixels(source, col0, row0, width, height)
            self._col0, self._row0 = col0, row0
            return self._dn, self._valid
        inner = np.s_[top : top + height, left : left + width]
        return self._dn[inner].copy(), self._valid[inner].copy()


def read_pixels(source: PixelSource, col0: int, row0: int, width: int, height: int) -> tuple[ndarray, ndarray]:
    """Digital numbers "h w b" of a window, and which pixels have data: neither nodata, NaN, transparent nor masked.

    Pixels without data that are NaN become 0. Raises RasterError if the file or its mask cannot be read.
    """
    window = Window(col0, row0, width, height)  # pyright: ignore[reportCallIssue]  # untyped attrs
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(source.path) as file:
                dn = np.ascontiguousarray(np.moveaxis(file.read(indexes=list(source.bands), window=window), 0, -1))
                valid = _file_mask(file, window)
    except RasterioError as error:
        raise RasterError(f"{source.path} cannot be read to its end. Copy the vendor's file again.") from error
    valid &= ~np.all(dn == source.nodata, axis=-1)
    if dn.dtype.kind == "f":
        valid &= np.isfinite(dn).all(-1)
        dn = np.where(np.isfinite(dn), dn, 0)
    if source.mask is not None:
        valid &= read_mask(source.mask, window)
    return to_storable(dn), valid


def _file_mask(file: rasterio.DatasetReader, window: Window) -> Bool[ndarray, "h w"]:
    """Pixels that the file's alpha band, internal mask or .msk file do not exclude."""
    flags = {flag for band in file.mask_flag_enums for flag in band}
    if not flags & {MaskFlags.per_dataset, MaskFlags.alpha}:
        return np.ones((int(window.height), int(window.width)), bool)
    return file.dataset_mask(window=window) > 0


def read_mask(path: Path, window: Window) -> Bool[ndarray, "h w"]:
    """Pixels of a window in which the first band of a mask is not 0; RasterError if it cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                return file.read(1, window=window) != 0
    except RasterioError as error:
        raise RasterError(f"{path} cannot be read as a mask. Give an image of one band to --mask.") from error


def to_storable(dn: ndarray) -> ndarray:
    """Digital numbers as 8 or 16-bit unsigned integers, or float32 where those cannot hold them."""
    if dn.dtype in (np.uint8, np.uint16, np.float32):
        return dn
    is_whole = dn.dtype.kind in "ui"
    if is_whole and dn.size and dn.min() >= 0 and dn.max() <= np.iinfo(np.uint16).max:
        return dn.astype(np.uint16)
    return dn.astype(np.float32)


def saturation_mask(dn: ndarray) -> Bool[ndarray, "h w"]:
    """Saturated pixels of "h w b": those at the full well in any band.

    The full well is the largest value, if it is the maximum of one of FULL_WELL_BITS; otherwise none is saturated."""
    top = float(np.nanmax(dn))
    return np.any(dn == top, axis=-1) & (top in [2.0**bits - 1 for bits in FULL_WELL_BITS])
