"""Readers of the RPC of an image file: a table that is tried in order until a reader finds one."""

import warnings
from collections.abc import Callable
from pathlib import Path

import rasterio
import rasterio.rpc
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import RPC

RpcReader = Callable[[Path], RPC | None]


def read_gdal_rpc(path: Path) -> RPC | None:
    """RPC from any source that GDAL reads: GeoTIFF tags, .RPB, _RPC.TXT, DIMAP or WorldView XML, NITF.

    Raises RasterError if the file is no image, or if its RPC is damaged.
    """
    record, _ = _read_header(path)
    if record is None:
        return None
    try:
        return RPC.from_rasterio(record)
    except ValueError as error:
        raise RasterError(f"{path} has a damaged RPC ({error}). Copy the vendor's RPC again.") from error


RPC_READERS: dict[str, RpcReader] = {
    "gdal": read_gdal_rpc,
}
"""Name to reader, tried in this order. A reader returns None where its source of RPCs does not exist, and raises
RasterError where it is damaged. How to add one: docs/extending/add_an_rpc_reader.md."""


def read_rpc(path: Path) -> RPC:
    """Read the RPC of an image file with the first of `RPC_READERS` that finds one.

    Raises RasterError if the file is no image, or if no reader finds an RPC; the message names orthoimages (files with
    a CRS) as such.
    """
    for read in RPC_READERS.values():
        rpc = read(path)
        if rpc is not None:
            return rpc
    if _read_header(path)[1]:
        raise RasterError(
            f"{path} is an orthoimage: it has a CRS but no RPC. "
            "Use the vendor's primary product (L1A/L1B, 'basic', 'ortho ready' with RPC) instead."
        )
    raise RasterError(f"{path} has no RPC. Put the vendor's .RPB, _RPC.TXT or RPC XML file beside it.")


def _read_header(path: Path) -> tuple[rasterio.rpc.RPC | None, bool]:
    """The file's RPC record, and whether it has a CRS; RasterError if it cannot be read as an image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as source:
                return source.rpcs, bool(source.crs)
    except RasterioIOError as error:
        if not path.exists():
            raise RasterError(f"{path} does not exist. Check the path given to --images.") from error
        raise RasterError(
            f"{path} is not an image that can be read. Pass the vendor's GeoTIFF, JP2 or NITF."
        ) from error
