"""The local frame: georeferenced coordinates in meters."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.errors import CrsError

if TYPE_CHECKING:  # scenes are read where pyproj may be absent, so only the functions that convert import it
    from pyproj import CRS, Transformer

GEODETIC = "EPSG:4979"  # lon, lat (degrees), ellipsoidal height (meters), WGS84
TOPOCENTRIC = "topocentric"


def parse_crs(text: str) -> "CRS":
    """Parse the name of a CRS; CrsError if it is unknown."""
    from pyproj import CRS
    from pyproj.exceptions import CRSError as ProjCrsError

    try:
        return CRS.from_user_input(text)
    except ProjCrsError as error:
        raise CrsError(f"{text!r} is not a known coordinate reference system. Pass one as EPSG:NNNNN.") from error


def utm_crs(lon_deg: float, lat_deg: float) -> str:
    """CRS of the UTM zone of a point: EPSG:326xx in the north, EPSG:327xx in the south."""
    zone = math.floor((lon_deg + 180.0) / 6.0) % 60 + 1
    return f"EPSG:{(32600 if lat_deg >= 0 else 32700) + zone}"


@lru_cache(maxsize=64)
def check_frame_crs(crs: str) -> None:
    """Raise CrsError unless `crs` is "topocentric" or a projected CRS in meters."""
    if crs == TOPOCENTRIC:
        return
    parsed = parse_crs(crs)
    units = {axis.unit_name for axis in parsed.axis_info[:2]}
    if not parsed.is_projected or units != {"metre"}:
        raise CrsError(f"{crs} is not a projected system in meters. Use a UTM zone or 'topocentric'.")


@lru_cache(maxsize=64)
def _crs_transformer(source: str, target: str) -> "Transformer":
    """Transformer of (x, y, z) = (east or lon, north or lat, height); heights of 2-D CRSs are ellipsoidal."""
    from pyproj import Transformer

    return Transformer.from_crs(parse_crs(source).to_3d(), parse_crs(target).to_3d(), always_xy=True)


@lru_cache(maxsize=64)
def _topocentric_transformer(lon_deg: float, lat_deg: float, height_m: float) -> "Transformer":
    """Transformer from geodetic degrees to east, north, up at the origin."""
    from pyproj import Transformer

    return Transformer.from_pipeline(
        "+proj=pipeline +step +proj=unitconvert +xy_in=deg +xy_out=rad +step +proj=cart +ellps=WGS84 "
        f"+step +proj=topocentric +ellps=WGS84 +lon_0={lon_deg!r} +lat_0={lat_deg!r} +h_0={height_m!r}"
    )


def unwrap_longitudes(
    positions: Float64[ndarray, "*n d"], reference_deg: float | None = None
) -> Float64[ndarray, "*n d"]:
    """Positions (lon, lat, ...) with longitudes within 180 degrees of a reference, by default of the first one, so that
    they can be compared and averaged across the antimeridian; they may exceed 180."""
    unwrapped = np.array(positions, np.float64)
    reference = float(unwrapped.reshape(-1, unwrapped.shape[-1])[0, 0]) if reference_deg is None else reference_deg
    unwrapped[..., 0] = reference + (unwrapped[..., 0] - reference + 180.0) % 360.0 - 180.0
    return unwrapped


def _transform_points(transformer: "Transformer", xyz: ndarray, inverse: bool = False) -> Float64[ndarray, "*n 3"]:
    """Transform points of any shape "*n 3"."""
    xyz = np.asarray(xyz, np.float64)
    direction = "INVERSE" if inverse else "FORWARD"
    return np.stack(transformer.transform(xyz[..., 0], xyz[..., 1], xyz[..., 2], direction=direction), -1)


@dataclass(frozen=True)
class LocalFrame:
    """Georeferenced z-up frame: x east, y north, z up, in meters from `origin`.

    UTM (or any projected CRS in meters): `origin` is easting, northing, ellipsoidal height; axes are the grid's, so
    tiles of one city share them. "topocentric": `origin` is lon, lat, height; axes are true east, north and up there.
    Conversions need pyproj and raise CrsError for a CRS that is unknown, geographic, or not in meters; a frame itself
    is only data, so that scenes can be read without pyproj.
    """

    crs: str
    origin: tuple[float, float, float]

    @classmethod
    def at_point(cls, lonlath: ndarray, crs: str | None = None) -> "LocalFrame":
        """The frame with its origin at a point: in its UTM zone, rounded to whole meters, or in a given CRS."""
        lon, lat, height = (float(value) for value in np.asarray(lonlath, np.float64))
        if crs == TOPOCENTRIC:
            return cls(TOPOCENTRIC, (lon, lat, height))
        crs = crs or utm_crs(lon, lat)
        check_frame_crs(crs)
        east, north, _ = _transform_points(_crs_transformer(GEODETIC, crs), np.array([lon, lat, height]))
        return cls(crs, (float(round(east)), float(round(north)), height))

    def from_geodetic(self, lonlath: ndarray) -> Float64[ndarray, "*n 3"]:
        """Local coordinates of (lon deg, lat deg, ellipsoidal height m)."""
        if self.crs == TOPOCENTRIC:
            return _transform_points(_topocentric_transformer(*self.origin), lonlath)
        check_frame_crs(self.crs)
        return _transform_points(_crs_transformer(GEODETIC, self.crs), lonlath) - np.array(self.origin)

    def to_geodetic(self, xyz_m: ndarray) -> Float64[ndarray, "*n 3"]:
        """(lon deg, lat deg, ellipsoidal height m) of local coordinates."""
        if self.crs == TOPOCENTRIC:
            return _transform_points(_topocentric_transformer(*self.origin), xyz_m, inverse=True)
        check_frame_crs(self.crs)
        return _transform_points(
            _crs_transformer(GEODETIC, self.crs), np.asarray(xyz_m) + np.array(self.origin), inverse=True
        )

    def to_crs(self, xyz_m: ndarray, crs: str) -> Float64[ndarray, "*n 3"]:
        """Coordinates in another CRS, (x, y) = (east or lon, north or lat) order; heights stay ellipsoidal unless the
        CRS has a vertical part."""
        if crs == self.crs:
            check_frame_crs(crs)
            return np.asarray(xyz_m, np.float64) + np.array(self.origin)
        return _transform_points(_crs_transformer(GEODETIC, crs), self.to_geodetic(xyz_m))

    def from_crs(self, xyz: ndarray, crs: str) -> Float64[ndarray, "*n 3"]:
        """Local coordinates of coordinates in another CRS."""
        if crs == self.crs:
            check_frame_crs(crs)
            return np.asarray(xyz, np.float64) - np.array(self.origin)
        return self.from_geodetic(_transform_points(_crs_transformer(GEODETIC, crs), xyz, inverse=True))

    def convergence_deg(self) -> float:
        """Meridian convergence at the origin, degrees, clockwise positive; 0 for topocentric frames. An azimuth from
        true north minus the convergence is an azimuth from the y axis of the frame."""
        if self.crs == TOPOCENTRIC:
            return 0.0
        from pyproj import Proj

        lon, lat, _ = self.to_geodetic(np.zeros(3))
        return float(Proj(parse_crs(self.crs)).get_factors(lon, lat).meridian_convergence)

    def direction_vector(self, azimuth_deg: float, elevation_deg: float) -> tuple[float, float, float]:
        """Unit vector in the frame from an azimuth from true north (clockwise) and an elevation at the origin."""
        azimuth, elevation = math.radians(azimuth_deg - self.convergence_deg()), math.radians(elevation_deg)
        horizontal = math.cos(elevation)
        return horizontal * math.sin(azimuth), horizontal * math.cos(azimuth), math.sin(elevation)

    def to_dict(self) -> dict[str, Any]:
        """Dictionary {"crs", "origin"} for scene.json."""
        return {"crs": self.crs, "origin": list(self.origin)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LocalFrame":
        """The frame of a dictionary from `to_dict`; LookupError, TypeError or ValueError if it is damaged."""
        crs, (x, y, z) = data["crs"], (float(value) for value in data["origin"])
        if not isinstance(crs, str) or not all(map(math.isfinite, (x, y, z))):
            raise ValueError("a frame needs a crs and an origin of three numbers")
        return cls(crs, (x, y, z))
