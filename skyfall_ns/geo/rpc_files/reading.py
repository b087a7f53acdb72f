"""Reading of a file that carries an RPC, in whatever form: the form is recognized by its content."""

import codecs
from pathlib import Path

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_files.jsons import read_rpc_json
from skyfall_ns.geo.rpc_files.texts import is_rpc_table, is_rpc_text, read_rpc_table, read_rpc_text
from skyfall_ns.geo.rpc_files.xmls import read_rpc_xml

MAX_BYTES = 64_000_000  # the metadata of a hyperspectral image is 2 MB


def read_rpc_file(path: Path) -> RPC | None:
    """RPC of a text, XML, JSON or CSV file; None if it has none.

    Raises RasterError for a file that is missing, too large or damaged; the message names the file and the field."""
    text = read_text(path)
    start = text.lstrip()[:1]
    if start == "<":
        return read_rpc_xml(text, path)
    if start in ("{", "["):
        return read_rpc_json(text, path)
    if is_rpc_table(text):
        return read_rpc_table(text, path)
    return read_rpc_text(text, path) if is_rpc_text(text) else None


def read_text(path: Path) -> str:
    """Text of a metadata file; RasterError if it is missing, unreadable or too large for one."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise RasterError(f"{path} is too large for metadata. Give the vendor's RPC file.")
        data = path.read_bytes()
    except OSError as error:
        raise RasterError(f"{path} cannot be read ({error.strerror}). Check the path and its permissions.") from error
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig", errors="replace")
