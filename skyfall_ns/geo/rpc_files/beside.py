"""Files beside an image that carry its RPC, by the vendors' names; and files that are named almost like them."""

import re
from pathlib import Path

SUFFIXES = (
    ".rpb",
    "_rpc.txt",
    "-rpc.txt",
    ".rpc",
    "_rpc.rpb",
    "_metadata_rpc.txt",
    ".pvl",
    ".xml",
    "_rpc.xml",
    ".geom",
)
SUFFIXES += (".aux.xml", "_rpc.csv", ".rpc.csv", ".csv", ".json", "_rpc.json")
_TILE = re.compile(r"^(?:img_)?(.+?)(?:_r\d+c\d+)?$", re.IGNORECASE)


def rpc_files_beside(image: Path) -> list[Path]:
    """Files beside an image that may carry its RPC, in the order of SUFFIXES; letter case does not matter.

    Names are those of the image without its extension (or with it, for GDAL's `.aux.xml`), followed by one of SUFFIXES.
    DIMAP's are RPC_NAME.XML and DIM_NAME.XML for the tiles IMG_NAME_RrCc, DIGITALGLOBE's .RPB is also that of a .TIL.
    """
    stem = image.stem.casefold()
    names = [stem + suffix for suffix in SUFFIXES] + [image.name.casefold() + ".aux.xml"]
    match = _TILE.match(stem)
    dimap = match[1] if match else stem
    base = dimap.removeprefix("dim_")
    names += [f"{prefix}{base}.xml" for prefix in ("rpc_", "dim_")]
    found = _siblings(image)
    return [found[name] for name in dict.fromkeys(names) if name in found]


def misnamed_rpc_files(image: Path) -> list[Path]:
    """Files beside an image that look like an RPC's but are not named after the image."""
    whole = image.name.casefold()
    names = [whole + suffix for suffix in ("_rpc.txt", ".rpb", ".rpc")] + ["rpc.txt", "rpc.xml", "rpb.txt"]
    found = _siblings(image)
    return [found[name] for name in names if name in found]


def _siblings(image: Path) -> dict[str, Path]:
    """Files in the directory of an image by their names without letter case, without the image."""
    try:
        entries = sorted(image.parent.iterdir())
    except OSError:
        return {}
    return {entry.name.casefold(): entry for entry in entries if entry.is_file() and entry.name != image.name}
