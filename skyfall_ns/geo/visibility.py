"""What a satellite view sees of a surface: rays are parallel, so one height per cell and view answers it."""

import math

import cv2
import numpy as np
from jaxtyping import Float32, Float64
from numpy import ndarray


def lowest_visible_m(
    height_m: Float32[ndarray, "h w"], resolution_m: float, direction: Float64[ndarray, "3"]
) -> Float32[ndarray, "h w"]:
    """Above each cell, the height from which on nothing of the surface stands between it and the satellite.

    `height_m` is over a north-up grid (NaN hides nothing); `direction` points from the ground up to the satellite. A
    cell does not hide itself: the search begins one cell away.
    """
    slope = direction[:2] / direction[2]  # metres east and north per metre up
    lean = max(float(np.linalg.norm(slope)), 1e-6)
    known = np.isfinite(height_m)
    lowest = np.full(height_m.shape, -np.inf, np.float32)
    if not known.any():
        return lowest
    relief = float(height_m[known].max() - height_m[known].min())
    surface = np.where(known, height_m, np.float32(-1e6)).astype(np.float32)
    rise = resolution_m / lean
    # Linear interpolation with what is unknown would invent surfaces: the nearest cell is exact enough.
    for k in range(1, math.ceil(relief / rise) + 1):
        east, north = slope * rise * k / resolution_m
        move = np.array([[1, 0, -east], [0, 1, north]], np.float32)  # the cell that lies k cells along the ray
        there = cv2.warpAffine(surface, move, surface.shape[::-1], flags=cv2.INTER_NEAREST, borderValue=-1e6)
        np.maximum(lowest, there - np.float32(rise * k), out=lowest)
    return np.where(lowest < -1e5, np.float32(-np.inf), lowest)
