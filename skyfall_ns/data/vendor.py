"""Vendor images as delivered: pixels, RPC, date and sun, read by window so that whole strips are no burden."""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Bool, Float64
from numpy import ndarray
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import RPC

MAX_BANDS = 3


@dataclass(frozen=True)
class VendorImage:
    """One delivered file: where it is, how large, its RPC, and what its tags tell."""

    name: str
    path: Path
    width: int
    height: int
    rpc: RPC
    nodata: float
    acquired: str | None
    sun_deg: tuple[float, float] | None


@dataclass(frozen=True)
class Crop:
    """A window of a vendor image: digital numbers "h w b" (1 or 3 bands), usable pixels, first column and row."""

    dn: ndarray
    valid: Bool[ndarray, "h w"]
    col0: int
    row0: int

    @property
    def size(self) -> tuple[int, int]:
        """Width, height."""
        return self.dn.shape[1], self.dn.shape[0]


def open_images(paths: Sequence[Path]) -> list[VendorImage]:
    """Headers of all images, in the given order.

    Raises RasterError for fewer than two images, files without RPC, and two files with the same name.
    """
    if len(paths) < 2:
        raise RasterError(
            f"Heights need at least two images, --images names {len(paths)}. Add another view of the same place."
        )
    images = [_open(Path(path)) for path in paths]
    names = [image.name for image in images]
    for image in images:
        if names.count(image.name) > 1:
            raise RasterError(f"Two of the --images are called {image.name}. Give the files different names.")
    return images


def _open(path: Path) -> VendorImage:
    rpc = RPC.from_file(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            tags = source.tags()
            nodata = 0.0 if source.nodata is None else float(source.nodata)
            if np.dtype(source.dtypes[0]).kind not in "uif":
                raise RasterError(f"{path} holds {source.dtypes[0]} pixels. Convert it to 8 or 16 bit integers.")
            name = re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem)
            return VendorImage(name, path, source.width, source.height, rpc, nodata, acquired(tags), sun(tags))


def acquired(tags: Mapping[str, str]) -> str | None:
    """Acquisition time as ISO 8601 from a file's tags, None where they do not tell."""
    text = tags.get("ACQUISITION_DATETIME") or tags.get("TIFFTAG_DATETIME")
    match = re.match(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d:\d\d:\d\d)", text or "")
    return f"{match[1]}-{match[2]}-{match[3]}T{match[4]}" if match else None


def sun(tags: Mapping[str, str]) -> tuple[float, float] | None:
    """(azimuth from true north, elevation) in degrees from a file's tags, None where they do not tell."""
    try:
        azimuth, elevation = float(tags["SUN_AZIMUTH"]), float(tags["SUN_ELEVATION"])
    except (KeyError, ValueError):
        return None
    return (azimuth % 360.0, elevation) if -90 <= elevation <= 90 else None


def read_crop(image: VendorImage, corners_px: Float64[ndarray, "n 2"], margin_px: int) -> Crop:
    """The window around given (col, row) positions, within the image.

    Raises RasterError if the image does not show them, or cannot be read.
    """
    low = np.floor(corners_px.min(0)).astype(int) - margin_px
    high = np.ceil(corners_px.max(0)).astype(int) + margin_px + 1
    col0, row0 = (int(v) for v in np.clip(low, 0, [image.width, image.height]))
    col1, row1 = (int(v) for v in np.clip(high, 0, [image.width, image.height]))
    if col1 - col0 < 32 or row1 - row0 < 32:
        raise RasterError(
            f"The area of interest lies outside {image.path}. Check --aoi or --center, or leave the image out."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(image.path) as source:
                bands = list(range(1, MAX_BANDS + 1)) if source.count >= MAX_BANDS else [1]
                dn = source.read(bands, window=Window(col0, row0, col1 - col0, row1 - row0))
    except RasterioIOError as error:
        raise RasterError(f"{image.path} cannot be read to its end. Copy the vendor's file again.") from error
    dn = np.ascontiguousarray(dn.transpose(1, 2, 0))
    return Crop(dn, _usable(dn, image.nodata), col0, row0)


def _usable(dn: ndarray, nodata: float) -> Bool[ndarray, "h w"]:
    """Neither nodata nor saturated in any band."""
    empty = np.all(dn == nodata, axis=-1)
    if dn.dtype.kind == "f":
        return ~empty & np.isfinite(dn).all(-1)
    return ~empty & ~np.any(dn == np.iinfo(dn.dtype).max, axis=-1)
