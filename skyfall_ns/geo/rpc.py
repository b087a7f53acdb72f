"""Rational polynomial cameras (RPC00B): projection of ground points to pixels, and localization of pixels.

    row = LINE_SCALE (a.m)/(b.m) + LINE_OFF        col = SAMP_SCALE (c.m)/(d.m) + SAMP_OFF

with the 20 monomials m of normalized lon L, lat P and height H in RPC00B order. Pixels are (col, row), (0, 0) is the
center of the first pixel. Only this ground-to-image model is used; it is inverted by Newton's method.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.rpc
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.errors import RasterError
from skyfall_ns.io.files import atomic_write

COEFFICIENTS = ("line_num_coeff", "line_den_coeff", "samp_num_coeff", "samp_den_coeff")
NORMALIZATION = tuple(
    f"{axis}_{part}" for part in ("off", "scale") for axis in ("line", "samp", "lat", "long", "height")
)
_ODD_MONOMIALS = {  # indices of the monomials of odd degree in each coordinate
    "long": {1, 4, 5, 10, 11, 12, 13},
    "lat": {2, 4, 6, 10, 14, 15, 16},
    "height": {3, 5, 6, 10, 17, 18, 19},
}
NEWTON_STEPS = 20
NEWTON_PX = 1e-8


def rpc_monomials(lon: ndarray, lat: ndarray, height: ndarray) -> Float64[ndarray, "20 *n"]:
    """The 20 monomials of normalized lon, lat and height, in RPC00B order."""
    L, P, H = lon, lat, height
    rows = [np.ones_like(L), L, P, H, L * P, L * H, P * H, L * L, P * P, H * H]
    rows += [P * L * H, L**3, L * P * P, L * H * H, L * L * P, P**3, P * H * H, L * L * H, P * P * H, H**3]
    return np.stack(rows)


def _monomial_derivatives(lon: ndarray, lat: ndarray, height: ndarray) -> tuple[ndarray, ndarray]:
    """Derivatives of the monomials with respect to normalized lon and to normalized lat."""
    L, P, H = lon, lat, height
    zero, one = np.zeros_like(L), np.ones_like(L)
    by_lon = [zero, one, zero, zero, P, H, zero, 2 * L, zero, zero]
    by_lon += [P * H, 3 * L * L, P * P, H * H, 2 * L * P, zero, zero, 2 * L * H, zero, zero]
    by_lat = [zero, zero, one, zero, L, zero, H, zero, 2 * P, zero]
    by_lat += [L * H, zero, 2 * L * P, zero, L * L, 3 * P * P, H * H, zero, 2 * P * H, zero]
    return np.stack(by_lon), np.stack(by_lat)


def _with_positive_scales(values: dict[str, Any]) -> dict[str, Any]:
    """The values of the same camera with positive scales.

    Monomials of odd degree in a coordinate change their sign with its scale; a numerator does with that of its axis."""
    values = dict(values)
    for axis, odd in _ODD_MONOMIALS.items():
        if values[f"{axis}_scale"] < 0:
            values[f"{axis}_scale"] *= -1
            for name in COEFFICIENTS:
                values[name] = tuple(-v if k in odd else v for k, v in enumerate(values[name]))
    for axis in ("line", "samp"):
        if values[f"{axis}_scale"] < 0:
            values[f"{axis}_scale"] *= -1
            values[f"{axis}_num_coeff"] = tuple(-v for v in values[f"{axis}_num_coeff"])
    return values


@dataclass(frozen=True)
class RPC:
    """Rational polynomial camera of one image; offsets and scales in degrees, meters and pixels."""

    line_off: float
    samp_off: float
    lat_off: float
    long_off: float
    height_off: float
    line_scale: float
    samp_scale: float
    lat_scale: float
    long_scale: float
    height_scale: float
    line_num_coeff: tuple[float, ...]
    line_den_coeff: tuple[float, ...]
    samp_num_coeff: tuple[float, ...]
    samp_den_coeff: tuple[float, ...]

    def __post_init__(self) -> None:
        values = [getattr(self, name) for name in NORMALIZATION] + [v for c in COEFFICIENTS for v in getattr(self, c)]
        if any(len(getattr(self, name)) != 20 for name in COEFFICIENTS) or not np.isfinite(values).all():
            raise ValueError("an RPC has ten finite offsets and scales and four times 20 finite coefficients")
        if any(getattr(self, name) <= 0 for name in NORMALIZATION if name.endswith("scale")):
            raise ValueError("the scales of an RPC are positive")

    @classmethod
    def from_rasterio(cls, rpcs: rasterio.rpc.RPC) -> "RPC":
        """RPC from rasterio's record, in which (line, samp) of the center of the first pixel are already 0."""
        return cls.from_dict({k: getattr(rpcs, k) for k in (*NORMALIZATION, *COEFFICIENTS)})

    def to_rasterio(self) -> rasterio.rpc.RPC:
        """Rasterio's record of this RPC, for writing."""
        values = self.to_dict()
        return rasterio.rpc.RPC(**values, err_bias=None, err_rand=None)  # pyright: ignore[reportCallIssue]  # untyped attrs

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RPC":
        """RPC from {"line_off": ..., ..., "samp_den_coeff": [...]}; ValueError or KeyError if it is incomplete.

        Negative scales, which some vendors write, become positive ones of the same camera."""
        values: dict[str, Any] = {name: float(data[name]) for name in NORMALIZATION}
        values |= {name: tuple(float(v) for v in data[name]) for name in COEFFICIENTS}
        return cls(**_with_positive_scales(values))

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, for JSON."""
        numbers: dict[str, Any] = {name: getattr(self, name) for name in NORMALIZATION}
        return numbers | {name: list(getattr(self, name)) for name in COEFFICIENTS}

    @property
    def height_range_m(self) -> tuple[float, float]:
        """Range of ellipsoidal heights for which the RPC was fitted."""
        return self.height_off - self.height_scale, self.height_off + self.height_scale

    def _normalize_ground(self, lonlath: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """Normalized lon, lat and height."""
        lonlath = np.asarray(lonlath, np.float64)
        lon = (lonlath[..., 0] - self.long_off + 180.0) % 360.0 - 180.0  # also across the antimeridian
        return (
            lon / self.long_scale,
            (lonlath[..., 1] - self.lat_off) / self.lat_scale,
            (lonlath[..., 2] - self.height_off) / self.height_scale,
        )

    def _coefficient_matrix(self) -> Float64[ndarray, "4 20"]:
        """Coefficients of the column's numerator and denominator, and of the row's."""
        return np.array([self.samp_num_coeff, self.samp_den_coeff, self.line_num_coeff, self.line_den_coeff])

    def project(self, lonlath: ndarray) -> Float64[ndarray, "*n 2"]:
        """(col, row) of points given as (lon deg, lat deg, ellipsoidal height m)."""
        sums = np.tensordot(self._coefficient_matrix(), rpc_monomials(*self._normalize_ground(lonlath)), 1)
        col = self.samp_scale * sums[0] / sums[1] + self.samp_off
        return np.stack([col, self.line_scale * sums[2] / sums[3] + self.line_off], -1)

    def localize(self, colrow: ndarray, height_m: ndarray | float) -> Float64[ndarray, "*n 3"]:
        """(lon, lat, height) of pixels at given ellipsoidal heights, by Newton's method to 1e-8 px.

        Raises RasterError if it does not converge (pixels far outside the image, heights far outside the range).
        """
        colrow = np.asarray(colrow, np.float64)
        shape = np.broadcast_shapes(colrow.shape[:-1], np.shape(height_m))
        target = np.broadcast_to(colrow, (*shape, 2))
        height = (np.broadcast_to(np.asarray(height_m, np.float64), shape) - self.height_off) / self.height_scale
        normalized_target = (target - [self.samp_off, self.line_off]) / [self.samp_scale, self.line_scale]
        tolerance = NEWTON_PX / np.array([self.samp_scale, self.line_scale])
        lon, lat = np.zeros(shape), np.zeros(shape)
        for _ in range(NEWTON_STEPS):
            value, by_lon, by_lat = self._project_normalized(lon, lat, height)
            residual = normalized_target - value
            determinant = by_lon[..., 0] * by_lat[..., 1] - by_lon[..., 1] * by_lat[..., 0]
            lon = lon + (residual[..., 0] * by_lat[..., 1] - residual[..., 1] * by_lat[..., 0]) / determinant
            lat = lat + (residual[..., 1] * by_lon[..., 0] - residual[..., 0] * by_lon[..., 1]) / determinant
            if np.all(np.abs(residual) < tolerance):
                break
        else:
            raise RasterError(
                "Some pixels have no point on the ground in this RPC. Check the height range and the area of interest."
            )
        degrees = (lon * self.long_scale + self.long_off + 180.0) % 360.0 - 180.0
        return np.stack([degrees, lat * self.lat_scale + self.lat_off, np.broadcast_to(height_m, shape)], -1)

    def _project_normalized(self, lon: ndarray, lat: ndarray, height: ndarray) -> tuple[ndarray, ndarray, ndarray]:
        """Normalized (col, row) and its derivatives with respect to normalized lon and lat."""
        matrices = self._coefficient_matrix()
        value = np.tensordot(matrices, rpc_monomials(lon, lat, height), 1)
        derivatives = [np.tensordot(matrices, m, 1) for m in _monomial_derivatives(lon, lat, height)]
        ratio = np.stack([value[0] / value[1], value[2] / value[3]], -1)
        by = [
            np.stack([(s[0] - ratio[..., 0] * s[1]) / value[1], (s[2] - ratio[..., 1] * s[3]) / value[3]], -1)
            for s in derivatives
        ]
        return ratio, by[0], by[1]

    def with_offset(self, dcol: float, drow: float) -> "RPC":
        """The RPC whose pixels are offset by (dcol, drow), as for a bias correction."""
        return replace(self, samp_off=self.samp_off + dcol, line_off=self.line_off + drow)

    def for_crop(self, col0: float, row0: float) -> "RPC":
        """The RPC of the crop of the image that starts at pixel (col0, row0). Exact."""
        return self.with_offset(-col0, -row0)

    def for_scale(self, factor: float) -> "RPC":
        """The RPC of the image resampled by `factor` (0.5: half as many pixels per side). Exact."""
        return replace(
            self,
            samp_off=(self.samp_off + 0.5) * factor - 0.5,
            line_off=(self.line_off + 0.5) * factor - 0.5,
            samp_scale=self.samp_scale * factor,
            line_scale=self.line_scale * factor,
        )

    def write_rpb(self, path: str | os.PathLike[str]) -> None:
        """Write the DigitalGlobe `.RPB` text form that GDAL and most programs read; through a temporary file."""
        lines = ['satId = "????";', 'bandId = "?";', 'SpecId = "RPC00B";', "BEGIN_GROUP = IMAGE"]
        lines += ["\terrBias = 0.0;", "\terrRand = 0.0;"]
        lines += [f"\t{name}Offset = {float(getattr(self, key + '_off'))!r};" for name, key in _RPB_NAMES]
        lines += [f"\t{name}Scale = {float(getattr(self, key + '_scale'))!r};" for name, key in _RPB_NAMES]
        for name, key in zip(_RPB_COEFFICIENTS, COEFFICIENTS, strict=True):
            values = ",\n".join(f"\t\t\t{float(v)!r}" for v in getattr(self, key))
            lines.append(f"\t{name} = (\n{values});")
        text = "\n".join([*lines, "END_GROUP = IMAGE", "END;", ""])
        atomic_write(Path(path), text.encode())


_RPB_NAMES = (("line", "line"), ("samp", "samp"), ("lat", "lat"), ("long", "long"), ("height", "height"))
_RPB_COEFFICIENTS = ("lineNumCoef", "lineDenCoef", "sampNumCoef", "sampDenCoef")
