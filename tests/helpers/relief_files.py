"""Vendor images of high relief with exact geometry: a textured plane and a textured tower, seen by parallel cameras."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from scipy.ndimage import gaussian_filter

from helpers.vendor_files import LAT, LON, METRES_PER_DEGREE, vendor_rpc, write_vendor
from skyfall_ns.geo.rpc import RPC

Slope = tuple[float, float]  # east and north per meter up: what moves a pixel as much as a meter of height


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
class Frame:
    """Image geometry: col = pixels_per_m * (east - slope[0] (h - ground)) + width / 2, rows to the south."""

    width: int
    height: int
    pixels_per_m: float
    ground_m: float
    heights_m: tuple[float, float]  # the RPCs' range

    def rpc(self, slope: Slope) -> RPC:
        """The exact RPC of a view."""
        unit = vendor_rpc((0.0, 0.0))
        column, row = np.zeros(20), np.zeros(20)
        middle, half = np.mean(self.heights_m), np.ptp(self.heights_m) / 2
        scale = self.pixels_per_m / 2  # of an RPC of two pixels a meter
        column[:4] = (middle - self.ground_m) * -slope[0] * self.pixels_per_m / 1000, scale, 0, 0
        row[:4] = (middle - self.ground_m) * slope[1] * self.pixels_per_m / 1000, 0, -scale, 0
        column[3], row[3] = (s * self.pixels_per_m * half / 1000 for s in (-slope[0], slope[1]))
        return replace(
            unit, samp_off=self.width / 2, line_off=self.height / 2, height_off=float(middle), height_scale=float(half),
            samp_num_coeff=tuple(column), line_num_coeff=tuple(row),
        )  # fmt: skip


def render(relief: Relief, frame: Frame, slope: Slope, seed: int = 0) -> np.ndarray:
    """Digital numbers "h w", uint16: each pixel's line of sight meets the plane or the tower exactly."""
    col, row = np.meshgrid(np.arange(frame.width, dtype=float), np.arange(frame.height, dtype=float))
    east = (col - frame.width / 2) / frame.pixels_per_m  # of the line of sight at the ground's height
    north = (frame.height / 2 - row) / frame.pixels_per_m
    up = relief.rise * east / (1 - relief.rise * slope[0])  # above ground_m, where it meets the plane
    image = _texture(seed, frame, east + slope[0] * up, north + slope[1] * up)
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
    hit = (last >= first) & (last > up)
    x, y = east + slope[0] * last, north + slope[1] * last
    roof = np.isclose(last, top - relief.ground_m)
    tower = np.where(roof, _texture(seed + 1, frame, x, y), _texture(seed + 2, frame, x + y, last))
    return np.where(hit, tower, image)


def _texture(seed: int, frame: Frame, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Digital numbers of a surface at places in meters, uint16."""
    maps = [(512 + frame.pixels_per_m * v).astype(np.float32) for v in (x, y)]
    return cv2.remap(_noise(seed), *maps, cv2.INTER_CUBIC, borderMode=cv2.BORDER_WRAP).clip(1, 4000).astype(np.uint16)


@lru_cache
def _noise(seed: int) -> np.ndarray:
    """Noise of several scales, float32."""
    noise = np.random.default_rng(seed).normal(size=(1024, 1024))
    blurred = [gaussian_filter(noise, sigma, mode="wrap") for sigma in (1.0, 2.5, 6.0)]
    return np.clip(900 + 150 * sum(b / b.std() for b in blurred), 100, 1900).astype(np.float32)


def deliver_relief(folder: Path, relief: Relief, frame: Frame, slopes: Sequence[Slope]) -> list[Path]:
    """One file per view."""
    return [
        write_vendor(folder / f"view_{k + 1}.tif", render(relief, frame, slope), frame.rpc(slope))
        for k, slope in enumerate(slopes)
    ]


def local_m(lonlath: np.ndarray) -> np.ndarray:
    """East and north of (LON, LAT) in the meters of these images, and ellipsoidal height."""
    east = (lonlath[..., 0] - LON) * METRES_PER_DEGREE * np.cos(np.deg2rad(LAT))
    return np.stack([east, (lonlath[..., 1] - LAT) * METRES_PER_DEGREE, lonlath[..., 2]], -1)
