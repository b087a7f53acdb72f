"""When, under which sun and from where an image was taken: from the vendor's metadata, or a STAC item beside it."""

import json
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

import rasterio

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc_files.beside import rpc_files_beside
from skyfall_ns.geo.rpc_files.reading import read_text
from skyfall_ns.geo.rpc_files.xmls import parse_xml

Tags = Mapping[str, str]  # names in upper case without path and punctuation: SUNAZIMUTH

_SUN_NAMES = (("SUNAZIMUTH", "SUNELEVATION"), ("MEANSUNAZ", "MEANSUNEL"), ("SUNAZ", "SUNEL"))
_SUN_NAMES += (("SOLARAZIMUTH", "SOLARELEVATION"), ("AZIMUTHANGLE", "ELEVATIONANGLE"))
_TIME_NAMES = ("ACQUISITIONDATETIME", "DATETIME", "FIRSTLINETIME", "TLCTIME", "STARTDATETIME", "TIMERANGESTART")
_TIME_NAMES += ("ACQUISITIONSTARTTIME", "CENTERTIME", "IMAGEDATE", "ACQUIRED")
_OFF_NADIR_NAMES = (
    "OFFNADIR",
    "MEANOFFNADIRVIEWANGLE",
    "OFFNADIRVIEWANGLE",
    "VIEWINGANGLE",
    "SATELLITEOFFNADIR",
    "VIEWANGLE",
)
_VIEW_AZIMUTH_NAMES = ("VIEWAZIMUTH", "MEANSATAZ", "SATELLITEAZIMUTH", "SATAZIMUTH", "AZIMUTH")
_GSD_NAMES = ("GSD", "MEANCOLLECTEDGSD", "MEANPRODUCTGSD", "COLLECTEDGSD", "PIXELRESOLUTION")
_SENSOR_NAMES = ("PLATFORM", "SATELLITE", "SATID", "SENSORID", "CONSTELLATION", "MISSION")


@dataclass(frozen=True)
class Acquisition:
    """Metadata of one image; None where no file has them."""

    acquired: str | None = None  # ISO 8601, UTC
    sun_deg: tuple[float, float] | None = None  # azimuth from true north, elevation
    off_nadir_deg: float | None = None
    view_azimuth_deg: float | None = None  # from the ground to the satellite, or as the vendor defines it
    gsd_m: float | None = None
    sensor: str | None = None


def read_acquisition(source: rasterio.DatasetReader, path: Path) -> Acquisition:
    """Metadata of an image: from GDAL's tags, then from the vendor's files and STAC items beside it."""
    found = parse_acquisition(_tags_of_dataset(source))
    for file in _metadata_files(path):
        found = merge_acquisitions(found, parse_acquisition(read_tags(file)))
    return found


def parse_acquisition(tags: Tags) -> Acquisition:
    """Metadata from tags, whose names are those of any vendor."""
    tags = {plain_name(name): value for name, value in tags.items()}
    return Acquisition(
        parse_acquisition_time(tags),
        parse_sun_angles(tags),
        _first_number(tags, _OFF_NADIR_NAMES, 0.0, 90.0),
        _first_number(tags, _VIEW_AZIMUTH_NAMES, -360.0, 360.0),
        _first_number(tags, _GSD_NAMES, 1e-3, 1e3),
        next((tags[name].strip('" ') for name in _SENSOR_NAMES if tags.get(name, "").strip('" ')), None),
    )


def merge_acquisitions(first: Acquisition, second: Acquisition) -> Acquisition:
    """The first's values, and the second's where it has none; a time of day completes a day."""
    values = {name: getattr(first, name) or getattr(second, name) for name in Acquisition.__dataclass_fields__}
    if first.acquired and second.acquired and second.acquired.startswith(f"{first.acquired}T"):
        values["acquired"] = second.acquired
    return replace(first, **values)


def parse_acquisition_time(tags: Tags) -> str | None:
    """Acquisition time (or day) as ISO 8601 from a file's tags; None if they do not contain it."""
    tags = {plain_name(name): value for name, value in tags.items()}
    imaging = f"{tags.get('IMAGINGDATE', '')} {tags.get('IMAGINGTIME', '')}"
    texts = [tags.get(name, "") for name in _TIME_NAMES]
    for text in (*texts, imaging, tags.get("ACQUISITIONDATE", ""), tags.get("TIFFTAGDATETIME", "")):
        match = re.match(r"\W*(\d{4})[:-]?(\d\d)[:-]?(\d\d)(?:[ T]?(\d\d):?(\d\d):?(\d\d))?", text)
        if match and 1 <= int(match[2]) <= 12 and 1 <= int(match[3]) <= 31:
            day = f"{match[1]}-{match[2]}-{match[3]}"
            return f"{day}T{match[4]}:{match[5]}:{match[6]}" if match[4] else day
    return None


def parse_sun_angles(tags: Tags) -> tuple[float, float] | None:
    """(azimuth from true north, elevation) in degrees from a file's tags; None if they do not contain them."""
    tags = {plain_name(name): value for name, value in tags.items()}
    for azimuth_name, elevation_name in _SUN_NAMES:
        azimuth = _first_number(tags, (azimuth_name,), -360.0, 360.0)
        elevation = _first_number(tags, (elevation_name,), -90.0, 90.0)
        if azimuth is not None and elevation is not None:
            return azimuth % 360.0, elevation
    return None


def plain_name(name: str) -> str:
    """A tag's name in upper case, without the path before it and without punctuation."""
    return re.sub(r"[^A-Z0-9]", "", re.split(r"[.:/]", name)[-1].upper())


def _first_number(tags: Tags, names: tuple[str, ...], low: float, high: float) -> float | None:
    """The first number among tags that is in a range; of several numbers in one tag the middle one."""
    for name in names:
        numbers = re.findall(r"[-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?", tags.get(name, ""))
        if numbers and low <= float(numbers[len(numbers) // 2]) <= high:
            return float(numbers[len(numbers) // 2])
    return None


def _tags_of_dataset(source: rasterio.DatasetReader) -> dict[str, str]:
    """The file's tags, and those that GDAL finds in the vendor's metadata files beside it."""
    found: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for space in ("IMD", "IMAGERY", None):
            found |= {plain_name(name): value for name, value in source.tags(ns=space).items()}
    return found


def _metadata_files(path: Path) -> list[Path]:
    """Files beside an image that describe it: those that carry RPCs, .IMD files, and STAC items."""
    own = [path.with_suffix(suffix) for suffix in (".IMD", ".imd", ".stac.json", ".STAC.json")]
    own += [path.with_name(f"{path.stem}_metadata.json"), path.with_name(f"{path.name}.json")]
    return list(dict.fromkeys([*rpc_files_beside(path), *(file for file in own if file.is_file())]))


def read_tags(path: Path) -> dict[str, str]:
    """Tags of a metadata file, of several with one name the first; no tags from a file that is damaged or of no use."""
    try:
        text = read_text(path)
        start = text.lstrip()[:1]
        if start == "<":
            pairs = _xml_pairs(parse_xml(text, path))
        elif start == "{":
            pairs = _json_pairs(json.loads(text))
        else:
            pairs = re.findall(r"^\s*([\w.]+)\s*[:=]\s*(.+?)\s*;?\s*$", text, re.MULTILINE)
        found: dict[str, str] = {}
        for name, value in pairs:
            found.setdefault(plain_name(name), value)
    except (RasterError, ValueError, RecursionError):
        return {}
    return found


def _xml_pairs(root: Element) -> Iterator[tuple[str, str]]:
    for element in root.iter():
        if len(element) == 0 and element.text:
            yield str(element.tag), element.text


def _json_pairs(data: Any) -> Iterator[tuple[str, str]]:
    """Numbers and texts of a JSON object and of the objects in it; of a STAC item, its properties come first."""
    if not isinstance(data, dict):
        return
    inner = data.get("properties")
    if isinstance(inner, dict):
        yield from _json_pairs(inner)
    for name, value in data.items():
        if isinstance(value, str | int | float):
            yield name, str(value)
