"""Vendor images as delivered: size, RPC, bands, date and sun; pixels are read by window, because strips are large."""

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import rasterio
from jaxtyping import Float64
from numpy import ndarray
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_readers import choose_rpc
from skyfall_ns.processing.acquisition import Acquisition, parse_sun_angles, read_acquisition
from skyfall_ns.processing.image_bands import choose_bands
from skyfall_ns.processing.image_windows import Crop, PixelSource, WindowCache, saturation_mask
from skyfall_ns.processing.named_values import assign_files, assign_values

MAX_MEGAPIXELS = 100  # of one image's window: 5 km at half a meter
MIN_WINDOW_PX = 32
_FORBIDDEN_IN_NAMES = r'[\x00-\x1f\x7f/\\:*?"<>|\[\]]+'


@dataclass(frozen=True)
class ImageFlags:
    """Flags of the command that concern single images."""

    rpc: tuple[str, ...] = ()  # NAME=FILE
    mask: tuple[str, ...] = ()  # NAME=FILE
    bands: tuple[int, ...] = ()


@dataclass(frozen=True)
class VendorImage:
    """One delivered file: its path, size, RPC and metadata; `notes` are what was assumed about it."""

    name: str
    width: int
    height: int
    rpc: RPC
    rpc_file: Path  # that the RPC was read from: the image itself, or one beside it
    pixels: PixelSource
    acquisition: Acquisition = field(default_factory=Acquisition)
    notes: tuple[str, ...] = ()
    windows: WindowCache = field(default_factory=WindowCache, compare=False, repr=False)

    @property
    def path(self) -> Path:
        """The file."""
        return self.pixels.path

    @property
    def acquired(self) -> str | None:
        """Time or day of acquisition, ISO 8601."""
        return self.acquisition.acquired

    @property
    def sun_deg(self) -> tuple[float, float] | None:
        """Azimuth of the sun from true north, and its elevation."""
        return self.acquisition.sun_deg


def open_images(paths: Sequence[Path], flags: ImageFlags | None = None) -> list[VendorImage]:
    """Read the headers of all images, in the given order.

    Raises RasterError for fewer than two images, files without RPC, two files with the same name, and flags that
    match no image.
    """
    flags = flags or ImageFlags()
    if len(paths) < 2:
        raise RasterError(
            f"Heights need at least two images, --images names {len(paths)}. Add another view of the same place."
        )
    names = [image_name(Path(path)) for path in paths]
    repeated = next((name for name, count in Counter(names).items() if count > 1), None)
    if repeated is not None:
        raise RasterError(f"Two of the --images are called {repeated}. Give the files different names.")
    rpcs, masks = assign_files(flags.rpc, names, "--rpc"), assign_files(flags.mask, names, "--mask")
    return [
        _open_image(name, Path(path), rpcs.get(name), masks.get(name), flags.bands)
        for name, path in zip(names, paths, strict=True)
    ]


def image_name(path: Path) -> str:
    """An image's name: that of its file without extension, in any script; characters that no file may have become _."""
    name = re.sub(_FORBIDDEN_IN_NAMES, "_", unicodedata.normalize("NFC", path.stem))
    return name.strip(". ") or "_"


def _open_image(name: str, path: Path, rpc_file: Path | None, mask: Path | None, bands: tuple[int, ...]) -> VendorImage:
    chosen = choose_rpc(path, rpc_file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as source:
            nodata = 0.0 if source.nodata is None else float(source.nodata)
            if np.dtype(source.dtypes[0]).kind not in "uif":
                raise RasterError(f"{path} holds {source.dtypes[0]} pixels. Convert it to 8 or 16 bit integers.")
            size, choice = (source.width, source.height), choose_bands(source, path, bands)
            acquisition = read_acquisition(source, path)
    if mask is not None:
        _check_mask_size(mask, path, size)
    notes = (*chosen.notes, *([choice.note] if choice.note else []))
    pixels = PixelSource(path, choice.bands, nodata, mask)
    return VendorImage(name, *size, chosen.rpc, chosen.file, pixels, acquisition, notes)


def _check_mask_size(mask: Path, image: Path, size: tuple[int, int]) -> None:
    """Raise RasterError unless a mask is an image of the same size as its image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(mask) as source:
                found = (source.width, source.height)
    except RasterioIOError as error:
        raise RasterError(f"{mask} cannot be read as a mask. Give an image of one band to --mask.") from error
    if found != size:
        raise RasterError(
            f"{mask} has {found[0]} x {found[1]} pixels, and {image} {size[0]} x {size[1]}. "
            "Give a mask of the image's size to --mask."
        )


def override_sun_angles(images: Sequence[VendorImage], sun_texts: Sequence[str]) -> list[VendorImage]:
    """Replace the sun angles of images by those of "NAME=AZIMUTH,ELEVATION" (degrees; NAME is a name or a glob).

    Later texts take precedence. Raises RasterError for a text of another form, and for a name without an image."""
    suns: dict[str, tuple[float, float]] = {}
    for text in sun_texts:
        azimuth, _, elevation = text.rpartition("=")[2].partition(",")
        degrees = parse_sun_angles({"SUN_AZIMUTH": azimuth, "SUN_ELEVATION": elevation})
        if degrees is None or not text.rpartition("=")[0]:
            raise RasterError(
                f"--sun {text} is not a sun position. "
                "Write NAME=AZIMUTH,ELEVATION in degrees, such as --sun 'post_*=151.2,59.2'."
            )
        suns |= dict.fromkeys(assign_values([text], [image.name for image in images], "--sun"), degrees)
    return [
        replace(image, acquisition=replace(image.acquisition, sun_deg=suns.get(image.name, image.sun_deg)))
        for image in images
    ]


def read_crop(image: VendorImage, corners_px: Float64[ndarray, "n 2"], margin_px: int) -> Crop:
    """Read the window that contains the given (col, row) positions with a margin, clipped to the image.

    Raises RasterError if it lies outside the image, if it is too large, or if it cannot be read.
    """
    low = np.floor(corners_px.min(0)).astype(int) - margin_px
    high = np.ceil(corners_px.max(0)).astype(int) + margin_px + 1
    col0, row0 = (int(v) for v in np.clip(low, 0, [image.width, image.height]))
    col1, row1 = (int(v) for v in np.clip(high, 0, [image.width, image.height]))
    if col1 - col0 < MIN_WINDOW_PX or row1 - row0 < MIN_WINDOW_PX:
        raise RasterError(
            f"The area of interest lies outside {image.path}. Check --aoi or --center, or leave the image out."
        )
    megapixels = (col1 - col0) * (row1 - row0) / 1e6
    if megapixels > MAX_MEGAPIXELS:
        raise RasterError(
            f"{megapixels:.0f} megapixels of {image.path} are too many for one scene. "
            f"Choose a part of at most {MAX_MEGAPIXELS} with --aoi, or with --center and --size."
        )
    dn, valid = image.windows.read_window(image.pixels, col0, row0, col1 - col0, row1 - row0)
    return Crop(dn, valid, saturation_mask(dn), col0, row0)
