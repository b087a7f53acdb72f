"""Frames of exported files: meters from an origin in a CRS, with heights above a vertical datum."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.errors import CrsError
from skyfall_ns.geo.frame import GEODETIC, TOPOCENTRIC, LocalFrame, check_frame_crs, parse_crs
from skyfall_ns.geo.vertical import VerticalDatum, check_vertical, compound_crs, geoid_undulation_m

GEOCENTRIC = "EPSG:4978"
LOCAL = "local"  # of --crs: the frame of the scene
_STEP_M = 50.0  # of numerical derivatives: map projections are linear over it to micrometers


@dataclass(frozen=True)
class TargetFrame:
    """A local frame whose z is measured from its origin's height above a vertical datum."""

    frame: LocalFrame
    vertical: VerticalDatum = "ellipsoid"

    @property
    def crs(self) -> str:
        """CRS of the coordinates after the origin is added; "topocentric" if there is none."""
        return compound_crs(self.frame.crs, self.vertical)

    def origin(self) -> tuple[float, float, float]:
        """Origin in the CRS; the height is above the vertical datum."""
        x, y, height = self.frame.origin
        return x, y, height - float(geoid_undulation_m(self.frame.to_geodetic(np.zeros(3)), self.vertical))

    def from_local(self, source: LocalFrame, xyz_m: ndarray) -> Float64[ndarray, "*n 3"]:
        """Coordinates in this frame of points of another local frame."""
        xyz_m = np.asarray(xyz_m, np.float64)
        if source == self.frame and self.vertical == "ellipsoid":
            return xyz_m
        lonlath = source.to_geodetic(xyz_m)
        moved = self.frame.from_geodetic(lonlath)
        if self.vertical != "ellipsoid":
            at_origin = geoid_undulation_m(self.frame.to_geodetic(np.zeros(3)), self.vertical)
            moved[..., 2] -= geoid_undulation_m(lonlath, self.vertical) - at_origin
        return moved

    def to_geodetic(self, xyz_m: ndarray) -> Float64[ndarray, "*n 3"]:
        """(lon deg, lat deg, ellipsoidal height m) of coordinates in this frame."""
        lonlath = self.frame.to_geodetic(xyz_m)
        if self.vertical != "ellipsoid":
            at_origin = geoid_undulation_m(self.frame.to_geodetic(np.zeros(3)), self.vertical)
            lonlath[..., 2] += geoid_undulation_m(lonlath, self.vertical) - at_origin
        return lonlath

    def rotation_and_scale_at(self, source: LocalFrame, xyz_m: ndarray) -> tuple[Float64[ndarray, "3 3"], float]:
        """Rotation and scale that take directions of another local frame to this one at a point, by numerical
        derivatives; map projections in use are conformal, or nearly so."""
        steps = _STEP_M * np.eye(3)
        ahead = self.from_local(source, np.asarray(xyz_m) + steps)
        behind = self.from_local(source, np.asarray(xyz_m) - steps)
        derivative = (ahead - behind).T / (2 * _STEP_M)
        u, singular_values, vt = np.linalg.svd(derivative)
        return u @ vt, float(np.prod(singular_values) ** (1 / 3))

    def ecef_from_file(self) -> Float64[ndarray, "4 4"]:
        """Affine map from coordinates in this frame to geocentric ones (EPSG:4978), exact at the origin."""
        samples = np.concatenate([np.zeros((1, 3)), _STEP_M * np.eye(3), -_STEP_M * np.eye(3)])
        geocentric = geodetic_to_crs(self.to_geodetic(samples), GEOCENTRIC)
        matrix = np.eye(4)
        matrix[:3, :3] = (geocentric[1:4] - geocentric[4:7]).T / (2 * _STEP_M)
        matrix[:3, 3] = geocentric[0]
        return matrix


def choose_target_frame(
    source: LocalFrame, box_m: ndarray, crs: str = LOCAL, vertical: VerticalDatum = "ellipsoid"
) -> TargetFrame:
    """The frame of an export: that of the scene (`local`), or one in a projected CRS with its origin at the center of
    the scene's box, rounded to whole meters.

    Raises CrsError for a CRS that is unknown, not projected in meters, or used outside its area, and for heights above
    a geoid without a grid or in a topocentric frame.
    """
    check_vertical(vertical)
    if crs == LOCAL:
        if vertical != "ellipsoid" and source.crs == TOPOCENTRIC:
            raise CrsError(
                f"--vertical {vertical} needs a projected CRS, and the scene's frame is topocentric. Give --crs EPSG:N."
            )
        return TargetFrame(source, vertical)
    check_target_crs(crs, source, box_m)
    if crs == source.crs:
        return TargetFrame(source, vertical)
    low, high = np.asarray(box_m, np.float64)
    center = np.array([*(low[:2] + high[:2]) / 2, 0.0])
    return TargetFrame(LocalFrame.at_point(source.to_geodetic(center), crs), vertical)


def check_target_crs(crs: str, source: LocalFrame, box_m: ndarray) -> None:
    """Raise CrsError unless a CRS is projected in meters, horizontal, and valid at the center of the scene's box."""
    parsed = parse_crs(crs)
    if parsed.is_compound:
        raise CrsError(f"{crs} has a vertical component. Give its horizontal part, and the heights with --vertical.")
    check_frame_crs(crs)
    low, high = np.asarray(box_m, np.float64)
    lon, lat, _ = source.to_geodetic(np.array([*(low[:2] + high[:2]) / 2, 0.0]))
    area = parsed.area_of_use
    if area is None:
        return
    west, south, east, north = area.bounds
    inside_lon = west <= lon <= east if west <= east else lon >= west or lon <= east
    if not (inside_lon and south <= lat <= north):
        raise CrsError(
            f"--crs {crs} is made for {west:g} to {east:g} degrees east and {south:g} to {north:g} degrees north, and "
            f"the scene is at {lon:.3f}, {lat:.3f}. Give a CRS of that place, or leave --crs out."
        )


def geodetic_to_crs(lonlath: ndarray, crs: str) -> Float64[ndarray, "*n 3"]:
    """Coordinates in a CRS, (x, y) = (east or lon, north or lat) order, of (lon deg, lat deg, ellipsoidal height)."""
    from pyproj import Transformer

    lonlath = np.asarray(lonlath, np.float64)
    transformer = Transformer.from_crs(parse_crs(GEODETIC), parse_crs(crs).to_3d(), always_xy=True)
    return np.stack(transformer.transform(lonlath[..., 0], lonlath[..., 1], lonlath[..., 2]), -1)
