"""RPCs from the named fields of a file: every field is checked, and errors name the file and the field."""

import math
from collections.abc import Mapping
from pathlib import Path

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import COEFFICIENTS, NORMALIZATION, RPC

COEFFICIENT_COUNT = 20
Fields = Mapping[str, str]  # names as in `RPC`, in upper case; coefficients are numbers separated by white space or ","


def rpc_from_fields(fields: Fields, path: Path) -> RPC:
    """RPC from LINE_OFF, ..., SAMP_DEN_COEFF (one field, or LINE_NUM_COEFF_1 to LINE_NUM_COEFF_20).

    Words after a number, as in "+005124.00 pixels", are units. Fields that no RPC needs (ERR_BIAS) are ignored. Raises
    RasterError, which names the file and the field, for a field that is missing, not a number, or a scale of 0."""
    values: dict[str, float | list[float]] = {name: _read_number(fields, name.upper(), path) for name in NORMALIZATION}
    for name in COEFFICIENTS:
        values[name] = _read_coefficients(fields, name.upper(), path)
    return RPC.from_dict(values)


def _read_number(fields: Fields, name: str, path: Path) -> float:
    text = fields.get(name)
    if text is None:
        raise RasterError(f"{path} has no {name}. Copy the vendor's RPC file again, or give another one with --rpc.")
    words = text.split()
    number = _parse_float(words[0]) if words else None
    if number is None or any(_parse_float(word) is not None for word in words[1:]):
        raise field_error(path, name, f"is {text!r}, which is not a number")
    if number == 0 and name.endswith("_SCALE"):
        raise field_error(path, name, "is 0, and no scale of an RPC is")
    return number


def _read_coefficients(fields: Fields, name: str, path: Path) -> list[float]:
    if name not in fields:
        return [_read_number(fields, f"{name}_{k + 1}", path) for k in range(COEFFICIENT_COUNT)]
    words = fields[name].replace(",", " ").split()
    numbers = [_parse_float(word) for word in words]
    for word, number in zip(words, numbers, strict=True):
        if number is None:
            raise field_error(path, name, f"contains {word!r}, which is not a number")
    if len(numbers) != COEFFICIENT_COUNT:
        raise field_error(path, name, f"has {len(numbers)} coefficients instead of {COEFFICIENT_COUNT}")
    return [number for number in numbers if number is not None]


def field_error(path: Path, name: str, problem: str) -> RasterError:
    """The error of a field with a wrong value."""
    return RasterError(f"{name} of {path} {problem}. Correct the field, or copy the vendor's RPC file again.")


def _parse_float(text: str) -> float | None:
    """A finite number, None for anything else."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
