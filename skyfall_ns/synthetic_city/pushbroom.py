"""Pushbroom satellites, RPCs fitted to them, and the position of the sun."""

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.rpc import RPC, rpc_monomials

ORBIT_M = 694_000.0  # Pléiades
GSD_M = 0.5
STRIP_DEG = 0.06  # half the side of the strip for which an RPC is fitted
HEIGHTS_M = (0.0, 600.0)  # ellipsoidal height range of the fit


@dataclass(frozen=True)
class Pushbroom:
    """A line camera on a straight orbit: parallel along the track, perspective across it, in a topocentric frame."""

    frame: LocalFrame  # topocentric, at the imaged point
    incidence_deg: float
    azimuth_deg: float  # from the ground to the satellite, from true north
    heading_deg: float = 192.0

    def project(self, lonlath: ndarray) -> Float64[ndarray, "*n 2"]:
        """(col, row) of (lon, lat, ellipsoidal height); (0, 0) is the frame's origin."""
        theta, phi = math.radians(self.incidence_deg), math.radians(self.azimuth_deg)
        distance = ORBIT_M / math.cos(theta)
        up = np.array([math.sin(theta) * math.sin(phi), math.sin(theta) * math.cos(phi), math.cos(theta)])
        heading = math.radians(self.heading_deg)
        track = np.array([math.sin(heading), math.cos(heading), 0.0])
        bore = -up
        normal = track - (track @ bore) * bore
        normal /= np.linalg.norm(normal)
        across = np.cross(normal, bore)
        across *= math.copysign(1.0, across[0])
        offset = self.frame.from_geodetic(lonlath) - distance * up
        along = offset @ normal / (track @ normal)
        in_line = offset - along[..., None] * track
        gsd = GSD_M / math.sqrt(math.cos(theta))
        column = distance / gsd * (in_line @ across) / (in_line @ bore)
        return np.stack([column, along / gsd], -1)


def fit_rpc(camera: Pushbroom, lonlath: Float64[ndarray, "3"]) -> tuple[RPC, float]:
    """Fit the RPC of a strip around a point (lon, lat, height); the RPC and its largest residual in pixels.

    Least squares on the rational form, reweighted by the denominator."""
    lon, lat, _ = lonlath
    middle, half = sum(HEIGHTS_M) / 2, (HEIGHTS_M[1] - HEIGHTS_M[0]) / 2
    ticks, levels = np.linspace(-1, 1, 15), np.linspace(-1, 1, 7)
    L, P, H = (a.ravel() for a in np.meshgrid(ticks, ticks, levels, indexing="ij"))
    points = np.stack([lon + STRIP_DEG * L, lat + STRIP_DEG * P, middle + half * H], -1)
    colrow = camera.project(points)
    offset, scale = (colrow.min(0) + colrow.max(0)) / 2, (colrow.max(0) - colrow.min(0)) / 2
    terms = rpc_monomials(L, P, H)
    coefficients = [_fit_rational(terms, (colrow[:, k] - offset[k]) / scale[k]) for k in (0, 1)]
    rpc = RPC(
        line_off=float(offset[1]), samp_off=float(offset[0]), lat_off=float(lat), long_off=float(lon),
        height_off=middle, line_scale=float(scale[1]), samp_scale=float(scale[0]), lat_scale=STRIP_DEG,
        long_scale=STRIP_DEG, height_scale=half,
        line_num_coeff=coefficients[1][0], line_den_coeff=coefficients[1][1],
        samp_num_coeff=coefficients[0][0], samp_den_coeff=coefficients[0][1],
    )  # fmt: skip
    return rpc, float(np.abs(rpc.project(points) - colrow).max())


def _fit_rational(terms: Float64[ndarray, "20 n"], values: Float64[ndarray, " n"]):
    """Fit numerator and denominator coefficients with a weak ridge; the denominator's constant is 1."""
    design = np.concatenate([terms.T, -values[:, None] * terms[1:].T], 1)
    weight = np.ones(len(values))
    ridge = 1e-7 * np.eye(39, 40)
    for _ in range(4):
        rows = np.column_stack([design * weight[:, None], values * weight])
        triangle = _triangular_factor(np.concatenate([rows, ridge]))
        solution = np.linalg.lstsq(triangle[:39, :39], triangle[:39, 39], rcond=None)[0]
        weight = 1.0 / (1.0 + terms[1:].T @ solution[20:])
    return tuple(map(float, solution[:20])), (1.0, *map(float, solution[20:]))


def _triangular_factor(rows: Float64[ndarray, "m n"]) -> Float64[ndarray, "n n"]:
    """R of a QR decomposition, in blocks that BLAS processes in one thread: on a busy machine its threads wait for each
    other a hundred times longer than they compute."""
    n = rows.shape[1]
    while len(rows) > 4 * n:
        padded = np.pad(rows, ((0, -len(rows) % (4 * n)), (0, 0)))
        rows = np.linalg.qr(padded.reshape(-1, 4 * n, n)).R.reshape(-1, n)
    return np.linalg.qr(rows).R


def sun_position(moment: datetime, lon_deg: float, lat_deg: float) -> tuple[float, float]:
    """(azimuth from true north, elevation) of the sun in degrees at a UTC time, by NOAA's low-precision formulas, which
    are accurate to about 0.1 degrees."""
    day = (moment - datetime(2000, 1, 1, 12)).total_seconds() / 86400.0
    mean, anomaly = math.radians((280.460 + 0.9856474 * day) % 360), math.radians((357.528 + 0.9856003 * day) % 360)
    ecliptic = mean + math.radians(1.915) * math.sin(anomaly) + math.radians(0.020) * math.sin(2 * anomaly)
    tilt = math.radians(23.439 - 4e-7 * day)
    right_ascension = math.atan2(math.cos(tilt) * math.sin(ecliptic), math.cos(ecliptic))
    declination = math.asin(math.sin(tilt) * math.sin(ecliptic))
    sidereal = math.radians((280.46062 + 360.98564737 * day + lon_deg) % 360)
    hour, lat = sidereal - right_ascension, math.radians(lat_deg)
    elevation = math.asin(
        math.sin(lat) * math.sin(declination) + math.cos(lat) * math.cos(declination) * math.cos(hour)
    )
    azimuth = math.atan2(-math.sin(hour), math.tan(declination) * math.cos(lat) - math.sin(lat) * math.cos(hour))
    return math.degrees(azimuth) % 360, math.degrees(elevation)
