"""Tiles of one delivery: the first pixel of a tile in the whole image, whose RPC the vendor delivers."""

import re
from pathlib import Path

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc_files.reading import read_text
from skyfall_ns.geo.rpc_files.xmls import parse_xml

_TILE = re.compile(r"^IMG_(.+)_R(\d+)C(\d+)$", re.IGNORECASE)


def first_pixel_of_tile(image: Path, rpc_file: Path) -> tuple[int, int]:
    """(column, row) of a DIMAP tile's first pixel in the whole image; (0, 0) for files of other names.

    Tiles are called IMG_NAME_RrCc, and DIM_NAME.XML beside the RPC file has their size. Raises RasterError for a tile
    other than the first whose size is unknown."""
    match = _TILE.match(image.stem)
    if match is None or not re.match(r"(RPC|DIM)_", rpc_file.name, re.IGNORECASE):
        return 0, 0
    row, column = int(match[2]) - 1, int(match[3]) - 1
    if (row, column) == (0, 0):
        return 0, 0
    size = _tile_size(rpc_file.with_name(f"DIM_{match[1]}.XML"))
    if size is None:
        raise RasterError(
            f"{image} is a tile of a larger image, and DIM_{match[1]}.XML, which has the size of tiles, is not beside "
            "it. Copy the whole delivery, and pass the DIM file to --images."
        )
    return column * size[0], row * size[1]


def _tile_size(dim_file: Path) -> tuple[int, int] | None:
    """Columns and rows of a tile, of regular tiles without an overlap; None without them."""
    if not dim_file.is_file():
        return None
    root = parse_xml(read_text(dim_file), dim_file)
    size, tiling = next(root.iter("NTILES_SIZE"), None), next(root.iter("Regular_Tiling"), None)
    if size is None or tiling is None:
        return None
    numbers = [size.get("ncols"), size.get("nrows")]
    overlaps = [tiling.findtext(name) or "0" for name in ("OVERLAP_COL", "OVERLAP_ROW")]
    if any(number is None or not number.isdigit() for number in numbers) or any(o.strip() != "0" for o in overlaps):
        return None
    return int(str(numbers[0])), int(str(numbers[1]))
