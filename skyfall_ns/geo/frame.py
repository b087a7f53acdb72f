"""The local frame: metres that know where on Earth they are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from pyproj import CRS, Proj, Transformer
from pyproj.exceptions import CRSError as ProjCrsError

from skyfall_ns.errors import CrsError

GEODETIC = "EPSG:4979"  # lon, lat (degrees), ellipsoidal height (metres), WGS84
TOPOCENTRIC = "topocentric"


def parse_crs(text: str) -> CRS:
    """The CRS called `text`; CrsError if there is none."""
    try:
        return CRS.from_user_input(text)
    except ProjCrsError as error:
        raise CrsError(f"{text!r} is not a known coordinate reference system. Name one as EPSG:NNNNN.") from error


def utm_crs(lon_deg: float, lat_deg: float) -> str:
    """The UTM zone of a point: EPSG:326xx in the north, EPSG:327xx in the south."""
    zone = math.floor((lon_deg + 180.0) / 6.0) % 60 + 1
    return f"EPSG:{(32600 if lat_deg >= 0 else 32700) + zone}"


@lru_cache(maxsize=64)
def _transformer(source: str, target: str) -> Transformer:
    """Coordinates in (x, y, z) = (east or lon, north or lat, height) order; two-dimensional CRSs carry ellipsoidal
    heights."""
    return Transformer.from_crs(parse_crs(source).to_3d(), parse_crs(target).to_3d(), always_xy=True)


@lru_cache(maxsize=64)
def _topocentric(lon_deg: float, lat_deg: float, height_m: float) -> Transformer:
    """Geodetic degrees to east, north, up at the origin."""
    return Transformer.from_pipeline(
        "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad +step +proj=cart +ellps=WGS84 "
        f"+step +proj=topocentric +ellps=WGS84 +lon_0={lon_deg!r} +lat_0={lat_deg!r} +h_0={height_m!r}"
    )


def _apply(transformer: Transformer, xyz: ndarray, inverse: bool = False) -> Float64[ndarray, "*n 3"]:
    xyz = np.asarray(xyz, np.float64)
    direction = "INVERSE" if inverse else "FORWARD"
    return np.stack(transformer.transform(xyz[..., 0], xyz[..., 1], xyz[..., 2], direction=direction), -1)


@dataclass(frozen=True)
class LocalFrame:
    """Metric z-up frame tied to the Earth: x east, y north, z up, in metres from `origin`.

    UTM (or any projected CRS in metres): `origin` is easting, northing, ellipsoidal height, axes are the grid's, so
    tiles of one city share them. "topocentric": `origin` is lon, lat, height, axes are true east, north and up there.
    Raises CrsError for a CRS that is unknown, geographic, or not in metres.
    """

    crs: str
    origin: tuple[float, float, float]

    def __post_init__(self) -> None:
        if self.crs == TOPOCENTRIC:
            return
        crs = parse_crs(self.crs)
        units = {axis.unit_name for axis in crs.axis_info[:2]}
        if not crs.is_projected or units != {"metre"}:
            raise CrsError(f"{self.crs} is not a projected system in metres. Use a UTM zone or 'topocentric'.")

    @classmethod
    def at(cls, lonlath: ndarray, crs: str | None = None) -> "LocalFrame":
        """A frame with its origin at a point: its UTM zone by default, rounded to whole metres; or the given CRS."""
        lon, lat, height = (float(v) for v in np.asarray(lonlath, np.float64))
        if crs == TOPOCENTRIC:
            return cls(TOPOCENTRIC, (lon, lat, height))
        crs = crs or utm_crs(lon, lat)
        cls(crs, (0.0, 0.0, 0.0))  # complain about the CRS before using it
        east, north, _ = _apply(_transformer(GEODETIC, crs), np.array([lon, lat, height]))
        return cls(crs, (float(round(east)), float(round(north)), height))

    def from_geodetic(self, lonlath: ndarray) -> Float64[ndarray, "*n 3"]:
        """Local metres of (lon deg, lat deg, ellipsoidal height m)."""
        if self.crs == TOPOCENTRIC:
            return _apply(_topocentric(*self.origin), lonlath)
        return _apply(_transformer(GEODETIC, self.crs), lonlath) - np.array(self.origin)

    def to_geodetic(self, xyz_m: ndarray) -> Float64[ndarray, "*n 3"]:
        """(lon deg, lat deg, ellipsoidal height m) of local metres."""
        if self.crs == TOPOCENTRIC:
            return _apply(_topocentric(*self.origin), xyz_m, inverse=True)
        return _apply(_transformer(GEODETIC, self.crs), np.asarray(xyz_m) + np.array(self.origin), inverse=True)

    def to_crs(self, xyz_m: ndarray, crs: str) -> Float64[ndarray, "*n 3"]:
        """Coordinates in another CRS, (x, y) = (east or lon, north or lat) order; heights stay ellipsoidal unless the
        CRS has a vertical part."""
        if crs == self.crs:
            return np.asarray(xyz_m, np.float64) + np.array(self.origin)
        return _apply(_transformer(GEODETIC, crs), self.to_geodetic(xyz_m))

    def from_crs(self, xyz: ndarray, crs: str) -> Float64[ndarray, "*n 3"]:
        """Local metres of coordinates in another CRS."""
        if crs == self.crs:
            return np.asarray(xyz, np.float64) - np.array(self.origin)
        return self.from_geodetic(_apply(_transformer(GEODETIC, crs), xyz, inverse=True))

    def convergence_deg(self) -> float:
        """Meridian convergence at the origin: what to subtract from an azimuth from true north to get one from the
        frame's y axis, degrees, clockwise positive. 0 for topocentric frames."""
        if self.crs == TOPOCENTRIC:
            return 0.0
        lon, lat, _ = self.to_geodetic(np.zeros(3))
        return float(Proj(parse_crs(self.crs)).get_factors(lon, lat).meridian_convergence)

    def direction(self, azimuth_deg: float, elevation_deg: float) -> tuple[float, float, float]:
        """Unit vector in the frame of an azimuth from true north (clockwise) and an elevation at the origin."""
        azimuth, elevation = math.radians(azimuth_deg - self.convergence_deg()), math.radians(elevation_deg)
        flat = math.cos(elevation)
        return flat * math.sin(azimuth), flat * math.cos(azimuth), math.sin(elevation)

    def to_dict(self) -> dict[str, Any]:
        """{"crs", "origin"}, as in scene.json."""
        return {"crs": self.crs, "origin": list(self.origin)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LocalFrame":
        """The frame written by `to_dict`."""
        x, y, z = (float(v) for v in data["origin"])
        return cls(str(data["crs"]), (x, y, z))
