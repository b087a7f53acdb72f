"""RPCs from JSON files: those of rpcm, SatNeRF and EOGS ("rpc" with "row_num"), and those that this package writes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_files.fields import rpc_from_fields
from skyfall_ns.geo.rpc_files.texts import standard_fields


def read_rpc_json(text: str, path: Path) -> RPC | None:
    """RPC of a JSON file; None if it has none. Raises RasterError, which names the field, if it is damaged."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RasterError(f"{path} is damaged JSON ({error}). Copy the file again.") from error
    data = data.get("rpc", data) if isinstance(data, dict) else None
    if not isinstance(data, dict):
        return None
    fields = standard_fields([(str(name), _plain_text(value)) for name, value in data.items()])
    return rpc_from_fields(fields, path) if _names_an_rpc(fields) else None


def _plain_text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_plain_text(v) for v in value)
    return repr(value) if isinstance(value, float) else str(value)


def _names_an_rpc(fields: Mapping[str, str]) -> bool:
    return bool({"LINE_OFF", "SAMP_OFF", "LINE_NUM_COEFF"} & fields.keys())
