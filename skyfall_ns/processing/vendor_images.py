"""Vendor images as delivered: pixels, RPC, date and sun; read by window, because strips are large."""

import fnmatch
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Bool, Float64
from numpy import ndarray
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_readers import read_rpc

MAX_MEGAPIXELS = 100  # of one image's window: 5 km at half a meter
FULL_WELL_BITS = (8, 10, 11, 12, 14, 16)


class WindowCache:
    """The last window read from a file: windows within it are not read from disk again."""

    def __init__(self) -> None:
        self._dn: ndarray | None = None  # "h w b"
        self._col0, self._row0 = 0, 0

    def read_window(self, path: Path, bands: tuple[int, ...], col0: int, row0: int, width: int, height: int) -> ndarray:
        """Digital numbers "h w b" of a window. Raises RasterioIOError if they cannot be read."""
        left, top = col0 - self._col0, row0 - self._row0
        if (
            self._dn is None
            or left < 0
            or top < 0
            or left + width > self._dn.shape[1]
            or top + height > self._dn.shape[0]
        ):
            self._dn, self._col0, self._row0 = _read_from_disk(path, bands, col0, row0, width, height), col0, row0
            return self._dn
        return self._dn[top : top + height, left : left + width].copy()


def _read_from_disk(path: Path, bands: tuple[int, ...], col0: int, row0: int, width: int, height: int) -> ndarray:
    window = Window(col0, row0, width, height)  # pyright: ignore[reportCallIssue]  # untyped attrs
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            dn = source.read(indexes=list(bands), window=window)
    return np.ascontiguousarray(np.moveaxis(dn, 0, -1))


@dataclass(frozen=True)
class VendorImage:
    """One delivered file: its path, size, RPC and metadata."""

    name: str
    path: Path
    width: int
    height: int
    rpc: RPC
    bands: tuple[int, ...]  # of the file, from 1: gray, or red, green, blue
    nodata: float
    acquired: str | None  # ISO 8601
    sun_deg: tuple[float, float] | None  # azimuth from true north, elevation
    windows: WindowCache = field(default_factory=WindowCache, compare=False, repr=False)


@dataclass(frozen=True)
class Crop:
    """A window of a vendor image."""

    dn: ndarray  # digital numbers "h w b", 1 or 3 bands
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


def open_images(paths: Sequence[Path]) -> list[VendorImage]:
    """Read the headers of all images, in the given order.

    Raises RasterError for fewer than two images, files without RPC, and two files with the same name.
    """
    if len(paths) < 2:
        raise RasterError(
            f"Heights need at least two images, --images names {len(paths)}. Add another view of the same place."
        )
    images = [_open_image(Path(path)) for path in paths]
    names = [image.name for image in images]
    for image in images:
        if names.count(image.name) > 1:
            raise RasterError(f"Two of the --images are called {image.name}. Give the files different names.")
    return images


def _open_image(path: Path) -> VendorImage:
    rpc = read_rpc(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            nodata = 0.0 if source.nodata is None else float(source.nodata)
            if np.dtype(source.dtypes[0]).kind not in "uif":
                raise RasterError(f"{path} holds {source.dtypes[0]} pixels. Convert it to 8 or 16 bit integers.")
            name, tags = re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem), _read_tags(source)
            size, bands = (source.width, source.height), _color_bands(source.colorinterp)
            return VendorImage(
                name, path, *size, rpc, bands, nodata, parse_acquisition_time(tags), parse_sun_angles(tags)
            )


def _color_bands(colors: Sequence[ColorInterp]) -> tuple[int, ...]:
    """Indices (from 1) of the red, green and blue band, by default the first three; of one band if there are fewer."""
    named = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(color in colors for color in named):
        return tuple(colors.index(color) + 1 for color in named)
    return (1, 2, 3) if len(colors) >= 3 else (1,)


def _read_tags(source: rasterio.DatasetReader) -> dict[str, str]:
    """Read the file's tags, and those that GDAL finds in the vendor's metadata files beside it; names without path."""
    found: dict[str, str] = {}
    for space in ("IMD", "IMAGERY", None):
        found |= {name.rpartition(".")[2].upper(): value for name, value in source.tags(ns=space).items()}
    return found


def parse_acquisition_time(tags: Mapping[str, str]) -> str | None:
    """Acquisition time (or day) as ISO 8601 from a file's tags; None if they do not contain it."""
    imaging = f"{tags.get('IMAGING_DATE', '')} {tags.get('IMAGING_TIME', '')}"
    date_times = [tags.get(name, "") for name in ("ACQUISITION_DATETIME", "ACQUISITIONDATETIME")]
    for text in (*date_times, imaging, tags.get("ACQUISITION_DATE", ""), tags.get("TIFFTAG_DATETIME", "")):
        match = re.match(r"(\d{4})[:-](\d\d)[:-](\d\d)(?:[ T](\d\d:\d\d:\d\d))?", text)
        if match:
            day = f"{match[1]}-{match[2]}-{match[3]}"
            return f"{day}T{match[4]}" if match[4] else day
    return None


def parse_sun_angles(tags: Mapping[str, str]) -> tuple[float, float] | None:
    """(azimuth from true north, elevation) in degrees from a file's tags; None if they do not contain them."""
    for names in (("SUN_AZIMUTH", "SUN_ELEVATION"), ("MEANSUNAZ", "MEANSUNEL")):
        try:
            azimuth, elevation = (float(tags[name]) for name in names)
        except (KeyError, ValueError):
            continue
        if -360 <= azimuth <= 360 and -90 <= elevation <= 90:
            return azimuth % 360.0, elevation
    return None


def override_sun_angles(images: Sequence[VendorImage], sun_texts: Sequence[str]) -> list[VendorImage]:
    """Replace the sun angles of images by those of "NAME=AZIMUTH,ELEVATION" (degrees; NAME is a name or a glob).

    Later texts take precedence. Raises RasterError for a text of another form, and for a name without an image."""
    suns: dict[str, tuple[float, float]] = {}
    for text in sun_texts:
        pattern, _, angles = text.rpartition("=")
        azimuth, _, elevation = angles.partition(",")
        degrees = parse_sun_angles({"SUN_AZIMUTH": azimuth, "SUN_ELEVATION": elevation})
        if not pattern or degrees is None:
            raise RasterError(
                f"--sun {text} is not a sun position. "
                "Write NAME=AZIMUTH,ELEVATION in degrees, such as --sun 'post_*=151.2,59.2'."
            )
        names = fnmatch.filter([image.name for image in images], pattern)
        if not names:
            known = ", ".join(image.name for image in images)
            raise RasterError(f"--sun {text} matches none of the images. They are: {known}.")
        suns |= dict.fromkeys(names, degrees)
    return [replace(image, sun_deg=suns.get(image.name, image.sun_deg)) for image in images]


def read_crop(image: VendorImage, corners_px: Float64[ndarray, "n 2"], margin_px: int) -> Crop:
    """Read the window that contains the given (col, row) positions with a margin, clipped to the image.

    Raises RasterError if it lies outside the image, if it is too large, or if it cannot be read.
    """
    low = np.floor(corners_px.min(0)).astype(int) - margin_px
    high = np.ceil(corners_px.max(0)).astype(int) + margin_px + 1
    col0, row0 = (int(v) for v in np.clip(low, 0, [image.width, image.height]))
    col1, row1 = (int(v) for v in np.clip(high, 0, [image.width, image.height]))
    if col1 - col0 < 32 or row1 - row0 < 32:
        raise RasterError(
            f"The area of interest lies outside {image.path}. Check --aoi or --center, or leave the image out."
        )
    megapixels = (col1 - col0) * (row1 - row0) / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise RasterError(
            f"{megapixels:.0f} megapixels of {image.path} are too many for one scene. "
            f"Choose a part of at most {MAX_MEGAPIXELS} with --aoi, or with --center and --size."
        )
    try:
        dn = image.windows.read_window(image.path, image.bands, col0, row0, col1 - col0, row1 - row0)
    except RasterioIOError as error:
        raise RasterError(f"{image.path} cannot be read to its end. Copy the vendor's file again.") from error
    valid = ~np.all(dn == image.nodata, axis=-1)
    if dn.dtype.kind == "f":
        valid &= np.isfinite(dn).all(-1)
    return Crop(dn, valid, saturation_mask(dn), col0, row0)


def saturation_mask(dn: ndarray) -> Bool[ndarray, "h w"]:
    """Saturated pixels of "h w b": those at the full well in any band.

    The full well is the largest value, if it is the maximum of one of FULL_WELL_BITS; otherwise none is saturated."""
    top = float(np.nanmax(dn))
    return np.any(dn == top, axis=-1) & (top in [2.0**bits - 1 for bits in FULL_WELL_BITS])
