"""Visibility of a surface from a satellite: rays are parallel, so one lowest visible height per cell describes it."""

import math

import cv2
import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray


def lowest_visible_m(
    height_m: Float32[ndarray, "h w"], resolution_m: float, direction: Float64[ndarray, "3"]
) -> Float32[ndarray, "h w"]:
    """Lowest height above each cell at which the surface does not occlude the line of sight to the satellite, meters.

    `height_m` is over a north-up grid; cells with NaN occlude nothing, and -inf is returned where nothing occludes.
    `direction` points from the ground up to the satellite. A cell does not occlude itself: the search begins one cell
    away.
    """
    slope = direction[:2] / direction[2]  # meters east and north per meter up
    slope_length = max(float(np.linalg.norm(slope)), 1e-6)
    known = np.isfinite(height_m)
    lowest = np.full(height_m.shape, -np.inf, np.float32)
    if not known.any():
        return lowest
    relief = float(height_m[known].max() - height_m[known].min())
    surface = np.where(known, height_m, np.float32(-1e6)).astype(np.float32)
    height_step = resolution_m / slope_length
    # Linear interpolation with unknown cells would create false surfaces: the nearest cell is exact enough.
    for step in range(1, math.ceil(relief / height_step) + 1):
        east, north = slope * height_step * step / resolution_m
        shift = np.array([[1, 0, -east], [0, 1, north]], np.float32)  # to the cell that lies `step` cells along the ray
        shifted = cv2.warpAffine(surface, shift, surface.shape[::-1], flags=cv2.INTER_NEAREST, borderValue=[-1e6])
        np.maximum(lowest, shifted - np.float32(height_step * step), out=lowest)
    return np.where(lowest < -1e5, np.float32(-np.inf), lowest)
