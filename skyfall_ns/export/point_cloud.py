"""Point clouds of a run as LAZ 1.4: one point per cell of its rendered heights, with color and source."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from skyfall_ns.errors import MissingExtraError, SkyfallError
from skyfall_ns.export.dsm import Dsm
from skyfall_ns.geo.frame import parse_crs
from skyfall_ns.geo.surface_evidence import FILLED, MATCHED, UNKNOWN
from skyfall_ns.geo.vertical import VerticalDatum, compound_crs
from skyfall_ns.io.files import atomic_write

CLASSES = {UNKNOWN: 1, MATCHED: 64, FILLED: 65}  # LAS: 1 unclassified; 64 and above are for users
RESOLUTION_M = 0.001  # of LAS coordinates
POINT_FORMAT = 7  # with color


@dataclass(frozen=True)
class MapPoints:
    """Points in a CRS: easting, northing and height; 8-bit colors; source (0 unknown, 1 matched, 2 filled)."""

    xyz: Float[ndarray, "n 3"]
    rgb: UInt8[ndarray, "n 3"]
    source: UInt8[ndarray, " n"]
    crs: str
    vertical: VerticalDatum = "ellipsoid"


def check_laspy() -> None:
    """Raise MissingExtraError if the packages for LAZ files are missing."""
    try:
        import laspy  # noqa: F401
        import lazrs  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "The package laspy[lazrs], which writes LAZ files, is missing. Run pip install 'skyfall-ns[export]'."
        ) from error


def points_of_cells(dsm: Dsm, rgb: Float[ndarray, "h w 3"], source: UInt8[ndarray, "h w"]) -> MapPoints:
    """The cells of a DSM with a height and a color, as points. Raises SkyfallError if there is none."""
    known = np.isfinite(dsm.height_m) & np.isfinite(rgb).all(-1)
    if not known.any():
        raise SkyfallError("The run renders no height in its box. Train it for more steps.")
    rows, columns = np.nonzero(known)
    x = dsm.transform.c + (columns + 0.5) * dsm.transform.a
    y = dsm.transform.f + (rows + 0.5) * dsm.transform.e
    colors = np.round(255 * rgb[known].clip(0, 1)).astype(np.uint8)
    return MapPoints(np.stack([x, y, dsm.height_m[known]], 1), colors, source[known], dsm.crs, dsm.vertical)


def write_laz(path: Path, points: MapPoints, attribution: str) -> None:
    """Write points as LAZ 1.4, with the CRS as WKT and the attribution as a record; colors have 16 bits."""
    import laspy
    from laspy.vlrs.known import WktCoordinateSystemVlr

    header = laspy.LasHeader(version="1.4", point_format=POINT_FORMAT)
    header.generating_software = "skyfall-ns"
    header.scales, header.offsets = np.full(3, RESOLUTION_M), np.floor(points.xyz.min(0))
    header.global_encoding.wkt = True
    header.vlrs.append(WktCoordinateSystemVlr(parse_crs(compound_crs(points.crs, points.vertical)).to_wkt("WKT1_GDAL")))
    header.vlrs.append(laspy.VLR("skyfall-ns", 1, "attribution", attribution.encode()))
    header.add_extra_dim(laspy.ExtraBytesParams("source", "uint8", "0 unknown 1 matched 2 filled"))
    cloud = laspy.LasData(header)
    cloud.x, cloud.y, cloud.z = points.xyz.T
    cloud.red, cloud.green, cloud.blue = points.rgb.T.astype(np.uint16) * 257
    table = np.zeros(256, np.uint8)
    table[list(CLASSES)] = list(CLASSES.values())
    cloud.classification, cloud["source"] = table[points.source], points.source
    buffer = io.BytesIO()
    cloud.write(buffer, do_compress=True, laz_backend=laspy.LazBackend.Lazrs)
    atomic_write(path, buffer.getvalue())
