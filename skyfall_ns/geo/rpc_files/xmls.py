"""RPCs from XML files: DIMAP of versions 1 to 3, WorldView, EnMAP, and GDAL's own metadata."""

import re
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from skyfall_ns.errors import RasterError
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.geo.rpc_files.fields import Fields, rpc_from_fields
from skyfall_ns.geo.rpc_files.texts import standard_fields

_DIMAP1_AXES = {"LONG": "Lon", "LAT": "Lat", "HEIGHT": "Alt", "SAMP": "Col", "LINE": "Row"}


def parse_xml(text: str, path: Path) -> Element:
    """Root of an XML document, without namespaces; RasterError if it is damaged or declares entities."""
    if "<!ENTITY" in text or "<!DOCTYPE" in text:  # entities that expand each other fill the memory
        raise RasterError(f"{path} declares XML entities, which no vendor's RPC does. Copy the vendor's file again.")
    try:
        root = ElementTree.fromstring(text.encode())
    except (ElementTree.ParseError, ValueError) as error:
        raise RasterError(f"{path} is damaged XML ({error}). Copy the vendor's file again.") from error
    for element in root.iter():
        element.tag = re.sub(r"^\{.*?\}", "", str(element.tag))
    return root


def read_rpc_xml(text: str, path: Path) -> RPC | None:
    """RPC of an XML file; None if it has none. Raises RasterError, which names the field, if it is damaged."""
    root = parse_xml(text, path)
    for read in (_dimap_fields, _dimap1_fields, _worldview_fields, _enmap_fields, _gdal_fields):
        fields = read(root)
        if fields is not None:
            return rpc_from_fields(fields, path)
    return None


def _dimap_fields(root: Element) -> Fields | None:
    """DIMAP 2 and 3: the model from ground to image, called inverse in version 2.

    Rows and columns count from 1 in version 2, from the first ones of the validity domain in version 3."""
    model = next((m for tag in ("Inverse_Model", "GroundtoImage_Values") for m in root.iter(tag)), None)
    validity = next(root.iter("RFM_Validity"), None)
    if model is None or validity is None or model.find("F_COL") is not None:
        return None
    pairs = [(e.tag, e.text or "") for e in (*model.iter(), *validity.iter())]
    return _from_first_pixel(standard_fields(pairs), next(root.iter("ImagetoGround_Validity_Domain"), None))


def _dimap1_fields(root: Element) -> Fields | None:
    """DIMAP 1: numerator and denominator in one list, scale A and offset B; rows and columns count from 1."""
    model, validity = next(root.iter("Inverse_Model"), None), next(root.iter("RFM_Validity"), None)
    if model is None or validity is None or model.find("F_COL") is None:
        return None
    fields = {}
    for name, tag in (("SAMP", "F_COL"), ("LINE", "F_ROW")):
        words = (model.findtext(tag) or "").split()
        fields |= {f"{name}_NUM_COEFF": " ".join(words[:20]), f"{name}_DEN_COEFF": " ".join(words[20:])}
    for name, tag in _DIMAP1_AXES.items():
        for part, key in (("SCALE", "A"), ("OFF", "B")):
            value = validity.findtext(f"{tag}/{key}")
            if value is not None:
                fields[f"{name}_{part}"] = value
    return _from_first_pixel(fields, None)


def _from_first_pixel(fields: dict[str, str], domain: Element | None) -> Fields:
    """Offsets from the first pixel's center, given those from the first row and column of a validity domain, or 1."""
    for name, tag in (("LINE_OFF", "FIRST_ROW"), ("SAMP_OFF", "FIRST_COL")):
        first = (domain.findtext(tag) if domain is not None else None) or "1"
        try:
            fields[name] = repr(float(fields[name]) - float(first))
        except (KeyError, ValueError):
            continue  # the check of all fields names it
    return fields


def _worldview_fields(root: Element) -> Fields | None:
    """WorldView and GeoEye: the element RPB."""
    model = next((e for tag in ("RPB", "rpb") for e in root.iter(tag)), None)
    if model is None:
        return None
    return standard_fields([(e.tag, e.text or "") for e in model.iter() if not e.tag.endswith("List")])


def _enmap_fields(root: Element) -> Fields | None:
    """EnMAP: each band has its own RPC, of which the first is read."""
    model = next((band for rpc in root.iter("RPC") for band in rpc.iter("bandID")), None)
    return None if model is None else standard_fields([(e.tag, e.text or "") for e in model])


def _gdal_fields(root: Element) -> Fields | None:
    """GDAL's `.aux.xml` and `.vrt`: the metadata domain RPC."""
    model = next((m for m in root.iter("Metadata") if m.get("domain") == "RPC"), None)
    return None if model is None else standard_fields([(e.get("key", ""), e.text or "") for e in model.iter("MDI")])
