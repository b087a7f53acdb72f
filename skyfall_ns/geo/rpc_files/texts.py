"""RPCs from text files: `_RPC.TXT` and its relatives, `.RPB`, OSSIM `.geom` and CSV."""

import re
from pathlib import Path

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import COEFFICIENTS, NORMALIZATION, RPC
from skyfall_ns.geo.rpc_files.fields import rpc_from_fields

_NUMBERED = re.compile(r"^((?:LINE|SAMP)_(?:NUM|DEN)_COEFF)_(\d+)$")
_AXES = {"LINE": "LINE", "ROW": "LINE", "SAMP": "SAMP", "SAMPLE": "SAMP", "COL": "SAMP", "COLUMN": "SAMP"}
_AXES |= {"LAT": "LAT", "LATITUDE": "LAT", "LON": "LONG", "LONG": "LONG", "LONGITUDE": "LONG"}
_AXES |= {"HEIGHT": "HEIGHT", "ALT": "HEIGHT", "ALTITUDE": "HEIGHT", "H": "HEIGHT"}
_PARTS = {"OFF": "OFF", "OFFSET": "OFF", "SCALE": "SCALE"}
_FRACTIONS = {"NUM": "NUM", "NUMERATOR": "NUM", "DEN": "DEN", "DENOMINATOR": "DEN"}


def standard_name(name: str) -> str:
    """The name of a field as in `RPC`, in upper case: LINE_OFF for lineOffset, row_offset and LINEOFFSET.

    Coefficients keep their number: LINE_NUM_COEFF_1 for ROW_NUM_01. Unknown names are only put in upper case."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name.strip())
    words = [word.upper() for word in words]
    if len(words) == 1:
        match = re.match(r"^([A-Z]+?)(NUM|DEN|OFF|SCALE)(COEF|COEFF|SET)?$", words[0])
        words = [part for part in match.groups() if part and part != "SET"] if match else words
    axis = _AXES.get(words[0]) if words else None
    if axis is None or len(words) < 2:
        return name.strip().upper()
    if len(words) == 2 and words[1] in _PARTS:
        return f"{axis}_{_PARTS[words[1]]}"
    if words[1] in _FRACTIONS and all(w.startswith("COEF") or w == "LIST" or w.isdigit() for w in words[2:]):
        number = f"_{int(words[-1])}" if words[-1].isdigit() else ""
        return f"{axis}_{_FRACTIONS[words[1]]}_COEFF{number}"
    return name.strip().upper()


def standard_fields(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Fields by standard names; of two with the same name the first. Coefficients numbered from 0 are renumbered."""
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields.setdefault(standard_name(name), value.strip())
    for name in COEFFICIENTS:
        first = f"{name.upper()}_0"
        if first in fields:
            numbered = [fields.pop(f"{name.upper()}_{k}", None) for k in range(20)]
            fields |= {f"{name.upper()}_{k + 1}": value for k, value in enumerate(numbered) if value is not None}
    return fields


def is_rpc_text(text: str) -> bool:
    """Whether a text names fields of an RPC."""
    return re.search(r"(line|row)[\s_]*(off|num)", text, re.IGNORECASE) is not None


def read_rpc_text(text: str, path: Path) -> RPC:
    """RPC from "NAME: value", "NAME = value;", "NAME value" or "NAME,value" lines; lists stand in parentheses.

    Raises RasterError, which names the field, for a damaged file."""
    lists = re.compile(r"^[ \t]*([A-Za-z_]+)[ \t]*[:=][ \t]*\(([^()]*)\)[ \t]*;?", re.MULTILINE)
    pairs = [(match[1], match[2].replace(",", " ")) for match in lists.finditer(text)]
    for line in lists.sub("", text).splitlines():
        match = re.match(r"^\s*\"?([A-Za-z]\w*)\"?\s*(?:[:=,;\t]|\s)\s*(.*?)\s*;?\s*$", line)
        if match:
            pairs.append((match[1], match[2].strip('"')))
    fields = standard_fields(pairs)
    if fields.get("POLYNOMIAL_FORMAT", "B").upper() != "B":
        raise RasterError(
            f"{path} is an RPC of polynomial format {fields['POLYNOMIAL_FORMAT']}, not B. Convert it to RPC00B."
        )
    return rpc_from_fields(fields, path)


def read_rpc_table(text: str, path: Path) -> RPC:
    """RPC from a CSV file with the names of the fields in the first row, and their values in the second.

    Raises RasterError for a damaged file."""
    rows = [
        [cell.strip().strip('"') for cell in re.split(r"[,;\t]", line)] for line in text.splitlines() if line.strip()
    ]
    if len(rows) != 2 or len(rows[0]) != len(rows[1]):
        raise RasterError(
            f"{path} is not the table of one RPC. Write its names in one row and its values in a second, "
            "or one name and value per row."
        )
    return rpc_from_fields(standard_fields(list(zip(*rows, strict=True))), path)


def is_rpc_table(text: str) -> bool:
    """Whether the first row of a text has the names of several fields."""
    first = text.strip().splitlines()[:1]
    names = {standard_name(cell.strip().strip('"')) for cell in re.split(r"[,;\t]", first[0])} if first else set()
    return len(names & {name.upper() for name in NORMALIZATION}) > 1
