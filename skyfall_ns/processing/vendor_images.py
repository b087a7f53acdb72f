"""Vendor images as delivered: pixels, RPC, date and sun, read by window so that whole strips are no burden."""

import fnmatch
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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

MAX_MEGAPIXELS = 100  # of one image's window: 5 km at half a metre
FULL_WELL_BITS = (8, 10, 11, 12, 14, 16)


@dataclass(frozen=True)
class VendorImage:
    """One delivered file: where it is, how large, its RPC, and what its tags tell."""

    name: str
    path: Path
    width: int
    height: int
    rpc: RPC
    bands: tuple[int, ...]  # of the file, from 1: gray, or red, green, blue
    nodata: float
    acquired: str | None
    sun_deg: tuple[float, float] | None


@dataclass(frozen=True)
class Crop:
    """A window of a vendor image: digital numbers "h w b" (1 or 3 bands), where there is data, where it is saturated,
    first column and row. Of what is saturated only a lower bound of its color is known."""

    dn: ndarray
    valid: Bool[ndarray, "h w"]
    saturated: Bool[ndarray, "h w"]
    col0: int
    row0: int

    @property
    def size(self) -> tuple[int, int]:
        """Width, height."""
        return self.dn.shape[1], self.dn.shape[0]

    @property
    def full_well(self) -> float:
        """The number at which the image is saturated; infinite where no pixel is."""
        return float(self.dn[self.saturated].max()) if self.saturated.any() else math.inf


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
            nodata = 0.0 if source.nodata is None else float(source.nodata)
            if np.dtype(source.dtypes[0]).kind not in "uif":
                raise RasterError(f"{path} holds {source.dtypes[0]} pixels. Convert it to 8 or 16 bit integers.")
            name, tags = re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem), _tags(source)
            size, bands = (source.width, source.height), _bands(source.colorinterp)
            return VendorImage(name, path, *size, rpc, bands, nodata, acquired(tags), sun(tags))


def _bands(colors: Sequence[ColorInterp]) -> tuple[int, ...]:
    """Red, green, blue as the file names them, else the first three bands; a single one of fewer."""
    named = (ColorInterp.red, ColorInterp.green, ColorInterp.blue)
    if all(color in colors for color in named):
        return tuple(colors.index(color) + 1 for color in named)
    return (1, 2, 3) if len(colors) >= 3 else (1,)


def _tags(source: rasterio.DatasetReader) -> dict[str, str]:
    """The file's tags, and what GDAL reads from the vendor's metadata files beside it; names without their path."""
    found: dict[str, str] = {}
    for space in ("IMD", "IMAGERY", None):
        found |= {name.rpartition(".")[2].upper(): value for name, value in source.tags(ns=space).items()}
    return found


def acquired(tags: Mapping[str, str]) -> str | None:
    """Acquisition time (or day) as ISO 8601 from a file's tags, None where they do not tell."""
    imaging = f"{tags.get('IMAGING_DATE', '')} {tags.get('IMAGING_TIME', '')}"
    told = [tags.get(name, "") for name in ("ACQUISITION_DATETIME", "ACQUISITIONDATETIME")]
    for text in (*told, imaging, tags.get("ACQUISITION_DATE", ""), tags.get("TIFFTAG_DATETIME", "")):
        match = re.match(r"(\d{4})[:-](\d\d)[:-](\d\d)(?:[ T](\d\d:\d\d:\d\d))?", text)
        if match:
            day = f"{match[1]}-{match[2]}-{match[3]}"
            return f"{day}T{match[4]}" if match[4] else day
    return None


def sun(tags: Mapping[str, str]) -> tuple[float, float] | None:
    """(azimuth from true north, elevation) in degrees from a file's tags, None where they do not tell."""
    for names in (("SUN_AZIMUTH", "SUN_ELEVATION"), ("MEANSUNAZ", "MEANSUNEL")):
        try:
            azimuth, elevation = (float(tags[name]) for name in names)
        except (KeyError, ValueError):
            continue
        if -360 <= azimuth <= 360 and -90 <= elevation <= 90:
            return azimuth % 360.0, elevation
    return None


def with_suns(images: Sequence[VendorImage], told: Sequence[str]) -> list[VendorImage]:
    """The images with the suns of "NAME=AZIMUTH,ELEVATION" (degrees; NAME is an image's, or a glob) in place of those
    of their files. Raises RasterError for what is no sun, and for names that no image has."""
    suns: dict[str, tuple[float, float]] = {}
    for text in told:
        pattern, _, angles = text.rpartition("=")
        azimuth, _, elevation = angles.partition(",")
        degrees = sun({"SUN_AZIMUTH": azimuth, "SUN_ELEVATION": elevation})
        if not pattern or degrees is None:
            raise RasterError(
                f"--sun {text} is no sun. Write NAME=AZIMUTH,ELEVATION in degrees, such as --sun 'post_*=151.2,59.2'."
            )
        names = fnmatch.filter([image.name for image in images], pattern)
        if not names:
            known = ", ".join(image.name for image in images)
            raise RasterError(f"--sun {text} matches none of the images. They are called {known}.")
        suns |= dict.fromkeys(names, degrees)
    return [replace(image, sun_deg=suns.get(image.name, image.sun_deg)) for image in images]


def read_crop(image: VendorImage, corners_px: Float64[ndarray, "n 2"], margin_px: int) -> Crop:
    """The window around given (col, row) positions, within the image.

    Raises RasterError if the image does not show them, if they are too many, or if they cannot be read.
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
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(image.path) as source:
                dn = source.read(indexes=list(image.bands), window=Window(col0, row0, col1 - col0, row1 - row0))
    except RasterioIOError as error:
        raise RasterError(f"{image.path} cannot be read to its end. Copy the vendor's file again.") from error
    dn = np.ascontiguousarray(np.moveaxis(dn, 0, -1))
    valid = ~np.all(dn == image.nodata, axis=-1)
    if dn.dtype.kind == "f":
        valid &= np.isfinite(dn).all(-1)
    return Crop(dn, valid, saturated(dn), col0, row0)


def saturated(dn: ndarray) -> Bool[ndarray, "h w"]:
    """Pixels "h w b" at the largest value of a sensor's bits in any band; none where the largest value is another."""
    top = float(np.nanmax(dn))
    return np.any(dn == top, axis=-1) & (top in [2.0**bits - 1 for bits in FULL_WELL_BITS])
