"""Vendor images of high relief with exact geometry: a textured plane and a textured tower in parallel projection."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from helpers.vendor_files import LAT, LON, METERS_PER_DEGREE, vendor_rpc, write_vendor_image
from skyfall_ns.geo.rpc import RPC

Slope = tuple[float, float]  # meters east and north that move a pixel as much as a meter of height


@dataclass(frozen=True)
class Relief:
    """A plane through `ground_m` (ellipsoidal) at (LON, LAT) that rises `rise` meters per meter east, and a block on
    it: (west, south, east, north, top) in local meters and meters of ellipsoidal height."""

    ground_m: float = 100.0
    rise: float = 0.0
    tower: tuple[float, float, float, float, float] | None = None

    def height_m(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Ellipsoidal heights of the surface."""
        height = self.ground_m + self.rise * x
        if self.tower is None:
            return height
        west, south, east, north, top = self.tower
        return np.where((x > west) & (x < east) & (y > south) & (y < north), top, height)


@dataclass(frozen=True)
class ImageGeometry:
    """Geometry of an image: col = pixels_per_m * (east - slope[0] (h - ground)) + width / 2, rows to the south."""

    width: int
    height: int
    pixels_per_m: float
    ground_m: float
    heights_m: tuple[float, float]  # height range of the RPCs

    def make_rpc(self, slope: Slope) -> RPC:
        """The exact RPC of a view."""
        base_rpc = vendor_rpc((0.0, 0.0))
        column, row = np.zeros(20), np.zeros(20)
        middle, half = np.mean(self.heights_m), np.ptp(self.heights_m) / 2
        scale = self.pixels_per_m / 2  # of an RPC of two pixels a meter
        column[:4] = (middle - self.ground_m) * -slope[0] * self.pixels_per_m / 1000, scale, 0, 0
        row[:4] = (middle - self.ground_m) * slope[1] * self.pixels_per_m / 1000, 0, -scale, 0
        column[3], row[3] = (s * self.pixels_per_m * half / 1000 for s in (-slope[0], slope[1]))
        return replace(
            base_rpc, samp_off=self.width / 2, line_off=self.height / 2, height_off=float(middle),
            height_scale=float(half), samp_num_coeff=tuple(column), line_num_coeff=tuple(row),
        )  # fmt: skip


def render_relief(relief: Relief, geometry: ImageGeometry, slope: Slope, seed: int = 0) -> np.ndarray:
    """Render digital numbers "h w", uint16, from the exact intersections of the lines of sight with the relief."""
    col, row = np.meshgrid(np.arange(geometry.width, dtype=float), np.arange(geometry.height, dtype=float))
    east = (col - geometry.width / 2) / geometry.pixels_per_m  # of the line of sight at the ground's height
    north = (geometry.height / 2 - row) / geometry.pixels_per_m
    up = relief.rise * east / (1 - relief.rise * slope[0])  # above ground_m, where it meets the plane
    image = _sample_texture(seed, geometry, east + slope[0] * up, north + slope[1] * up)
    if relief.tower is None:
        return image
    west, south, right, top_y, top = relief.tower
    first, last = np.full(col.shape, -np.inf), np.full(col.shape, top - relief.ground_m)
    for start, low, high, lean in ((east, west, right, slope[0]), (north, south, top_y, slope[1])):
        if abs(lean) < 1e-9:
            first = np.where((start < low) | (start > high), np.inf, first)
            continue
        ends = np.sort([(low - start) / lean, (high - start) / lean], axis=0)
        first, last = np.maximum(first, ends[0]), np.minimum(last, ends[1])
    on_tower = (last >= first) & (last > up)
    x, y = east + slope[0] * last, north + slope[1] * last
    roof = np.isclose(last, top - relief.ground_m)
    tower = np.where(roof, _sample_texture(seed + 1, geometry, x, y), _sample_texture(seed + 2, geometry, x + y, last))
    return np.where(on_tower, tower, image)


def _sample_texture(seed: int, geometry: ImageGeometry, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Digital numbers of a surface at points in meters, uint16."""
    maps = [(512 + geometry.pixels_per_m * v).astype(np.float32) for v in (x, y)]
    values = cv2.remap(_noise_texture(seed), *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP)
    return values.clip(1, 4000).astype(np.uint16)


@lru_cache
def _noise_texture(seed: int) -> np.ndarray:
    """Noise of three scales, float32."""
    noise = np.random.default_rng(seed).normal(size=(1024, 1024))
    blurred = [gaussian_filter(noise, sigma, mode="wrap") for sigma in (1.0, 2.5, 6.0)]
    return np.clip(900 + 150 * sum(b / b.std() for b in blurred), 100, 1900).astype(np.float32)


def write_relief_images(
    directory: Path, relief: Relief, geometry: ImageGeometry, slopes: Sequence[Slope]
) -> list[Path]:
    """Write one image file per view."""
    return [
        write_vendor_image(
            directory / f"view_{k + 1}.tif", render_relief(relief, geometry, slope), geometry.make_rpc(slope)
        )
        for k, slope in enumerate(slopes)
    ]


def to_local_m(lonlath: np.ndarray) -> np.ndarray:
    """East and north of (LON, LAT) in meters, and ellipsoidal height, from (lon, lat, height)."""
    east = (lonlath[..., 0] - LON) * METERS_PER_DEGREE * np.cos(np.deg2rad(LAT))
    return np.stack([east, (lonlath[..., 1] - LAT) * METERS_PER_DEGREE, lonlath[..., 2]], -1)
