"""The RPC of an image file: every source of one is read, the first is used, and the others are compared with it."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError, RPCError

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_files.beside import misnamed_rpc_files, rpc_files_beside
from skyfall_ns.geo.rpc_files.reading import read_rpc_file
from skyfall_ns.geo.rpc_files.tiles import first_pixel_of_tile

SAME_RPC_PX = 0.01  # RPCs that differ by less are the same, written with fewer digits


@dataclass(frozen=True)
class FoundRpc:
    """An RPC and the file that it was read from: the image itself, or one beside it."""

    rpc: RPC
    file: Path


@dataclass(frozen=True)
class ChosenRpc:
    """The RPC that is used for an image, and notes for the user on those that are not."""

    rpc: RPC
    file: Path
    notes: tuple[str, ...] = ()


RpcReader = Callable[[Path], Sequence[FoundRpc]]


def read_rpcs_beside(path: Path) -> list[FoundRpc]:
    """RPCs of the files beside an image: .RPB, _RPC.TXT, DIMAP and WorldView XML, OSSIM .geom, CSV and JSON.

    Raises RasterError, which names the file and the field, for a damaged one."""
    found = []
    for file in rpc_files_beside(path):
        rpc = read_rpc_file(file)
        if rpc is not None:
            found.append(FoundRpc(rpc.for_crop(*first_pixel_of_tile(path, file)), file))
    return found


def read_embedded_rpc(path: Path) -> list[FoundRpc]:
    """The RPC within an image: GeoTIFF's tag, NITF's RPC00B, or that of the tiles that a .TIL or DIM_ file lists.

    Raises RasterError if the file is no image, or if its RPC is damaged."""
    try:
        with warnings.catch_warnings(), _only_own_metadata(path):
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                record = source.rpcs
        return [] if record is None else [FoundRpc(RPC.from_rasterio(record), path)]
    except RasterioIOError as error:
        raise _not_an_image(path) from error
    except (ValueError, TypeError, KeyError, AttributeError, RPCError) as error:
        raise RasterError(
            f"{path} has a damaged RPC ({error}). Copy the vendor's image again, or give an RPC file with --rpc."
        ) from error


def _only_own_metadata(path: Path) -> rasterio.Env:
    """Make GDAL ignore files beside the image, except those of a list of tiles, which is nothing without them."""
    if path.suffix.casefold() in (".til", ".xml", ".vrt"):
        return rasterio.Env()
    return rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR")


RPC_READERS: dict[str, RpcReader] = {
    "beside": read_rpcs_beside,
    "embedded": read_embedded_rpc,
}
"""Name to reader, in the order of precedence: as in GDAL, a file beside the image takes precedence over its tag. A
reader returns nothing where its source of RPCs does not exist, and raises RasterError where it is damaged. How to add
one: docs/extending/add_an_rpc_reader.md."""


def read_rpc(path: Path) -> RPC:
    """Read the RPC of an image file; see `choose_rpc`."""
    return choose_rpc(path).rpc


def choose_rpc(path: Path, rpc_file: Path | None = None) -> ChosenRpc:
    """Choose the RPC of an image: that of `rpc_file`, or the first that `RPC_READERS` find; the others are compared.

    Raises RasterError if the file is no image, if an RPC is damaged, or if there is none; the message names
    orthoimages (files with a CRS) as such, and files that are named almost like an RPC file.
    """
    size, has_crs = _read_header(path)
    if rpc_file is not None:
        rpc = read_rpc_file(rpc_file)
        if rpc is None:
            raise RasterError(f"{rpc_file} has no RPC. Give a file with one to --rpc, or leave the image out.")
        return ChosenRpc(rpc, rpc_file)
    found = [rpc for read in RPC_READERS.values() for rpc in read(path)]
    if found:
        first, others = found[0], found[1:]
        notes = tuple(note for other in others if (note := compare_rpcs(path, first, other, size)))
        return ChosenRpc(first.rpc, first.file, notes)
    if has_crs:
        raise RasterError(
            f"{path} is an orthoimage: it has a CRS but no RPC. "
            "Use the vendor's primary product (L1A/L1B, 'basic', 'ortho ready' with RPC) instead."
        )
    similar = misnamed_rpc_files(path)
    if similar:
        raise RasterError(
            f"{path} has no RPC, and {similar[0].name} beside it is not named after it. "
            f"Rename it to {path.stem}_RPC.TXT, or pass --rpc {path.stem}={similar[0]}."
        )
    raise RasterError(
        f"{path} has no RPC. Put the vendor's .RPB, _RPC.TXT or RPC XML file beside it, or pass it with --rpc."
    )


def compare_rpcs(path: Path, used: FoundRpc, other: FoundRpc, size: tuple[int, int]) -> str | None:
    """A note on the pixels by which two RPCs of an image differ; None if they are the same."""
    difference = rpc_difference_px(used.rpc, other.rpc, size)
    if difference <= SAME_RPC_PX:
        return None
    names = ["the RPC in the image" if rpc.file == path else rpc.file.name for rpc in (used, other)]
    if not np.isfinite(difference):
        return f"{path.name}: {names[1]} belongs to another image than {names[0]}, which is used"
    pixels = f"{difference:.0f}" if difference >= 10 else f"{difference:.2f}"
    return f"{path.name}: {names[0]} and {names[1]} differ by {pixels} pixels; {names[0]} is used"


def rpc_difference_px(first: RPC, second: RPC, size: tuple[int, int]) -> float:
    """Largest distance of the pixels at which two RPCs show the same ground; infinite if one does not show it."""
    columns, rows = (np.linspace(0, n - 1, 5) for n in size)
    colrow = np.stack(np.meshgrid(columns, rows), -1)
    try:
        ground = [first.localize(colrow, first.height_off + part * first.height_scale) for part in (-0.5, 0.0, 0.5)]
    except RasterError:
        return float("inf")
    moved = np.stack([second.project(points) for points in ground]) - colrow
    largest = float(np.linalg.norm(moved, axis=-1).max())
    return largest if np.isfinite(largest) and largest < 1e6 else float("inf")


def _read_header(path: Path) -> tuple[tuple[int, int], bool]:
    """The file's size in pixels, and whether it has a CRS; RasterError if it cannot be read as an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                return (source.width, source.height), bool(source.crs)
    except RasterioIOError as error:
        raise _not_an_image(path) from error


def _not_an_image(path: Path) -> RasterError:
    if not path.exists():
        return RasterError(f"{path} does not exist. Check the path given to --images.")
    return RasterError(f"{path} is not an image that can be read. Pass the vendor's GeoTIFF, JP2 or NITF.")
