"""Pictures of the city: rays per pixel, several samples each, sun, sky and cast shadows; and its exact heights."""

import math

import numpy as np
from jaxtyping import Float32, Float64
from numba import njit, prange
from numpy import ndarray

from skyfall_ns.data.city.layout import City
from skyfall_ns.data.city.surface import BUILDING, GROUND, TREE, albedo_normal, cast, pack

SUN, SKY = 1.0, 0.32  # light on a surface that faces it
SKY_COLOR = (0.62, 0.72, 0.86)  # of a ray that meets nothing
_FAR_M = 1e5


@njit(cache=True)
def _shade(o, d, arrays, sun, out):
    """Add the light that comes along one ray to `out` [3]."""
    boxes, trees, slope, first, items, misc = arrays
    t, kind, number = cast(o, d, 0.0, _FAR_M, boxes, trees, slope, first, items, misc, False)
    if kind < 0:
        for k in range(3):
            out[k] += SKY_COLOR[k]
        return
    p, color, normal = np.empty(3), np.empty(3), np.empty(3)
    for k in range(3):
        p[k] = o[k] + t * d[k]
    albedo_normal(p, kind, number, boxes, trees, slope, misc, color, normal)
    facing = normal[0] * sun[0] + normal[1] * sun[1] + normal[2] * sun[2]
    light = SKY * (0.6 + 0.4 * normal[2])
    if facing > 0:
        for k in range(3):
            p[k] += 0.03 * normal[k] + 0.01 * sun[k]
        if cast(p, sun, 0.0, _FAR_M, boxes, trees, slope, first, items, misc, True)[1] < 0:
            light += SUN * facing
    for k in range(3):
        out[k] += color[k] * light


@njit(parallel=True, cache=True)
def _parallel(high, low, step, samples, arrays, sun, image):
    """Render from lines of sight given at every `step`-th pixel corner: points above [r, c, 3] and below the city."""
    height, width = image.shape[:2]
    for row in prange(height):
        a, b, d, value = np.empty(3), np.empty(3), np.empty(3), np.empty(3)
        for column in range(width):
            value[:] = 0.0
            for k in range(samples * samples):
                x = (column + (k % samples + 0.5) / samples) / step
                y = (row + (k // samples + 0.5) / samples) / step
                _interpolate(high, x, y, a)
                _interpolate(low, x, y, b)
                length = math.sqrt((b[0] - a[0]) ** 2 + (b[1] - a[1]) ** 2 + (b[2] - a[2]) ** 2)
                for i in range(3):
                    d[i] = (b[i] - a[i]) / length
                _shade(a, d, arrays, sun, value)
            for i in range(3):
                image[row, column, i] = value[i] / (samples * samples)


@njit(cache=True)
def _interpolate(grid, x, y, out):
    i, j = min(int(y), grid.shape[0] - 2), min(int(x), grid.shape[1] - 2)
    fy, fx = y - i, x - j
    for k in range(3):
        above = grid[i, j, k] * (1 - fx) + grid[i, j + 1, k] * fx
        below = grid[i + 1, j, k] * (1 - fx) + grid[i + 1, j + 1, k] * fx
        out[k] = above * (1 - fy) + below * fy


@njit(parallel=True, cache=True)
def _pinhole(local_from_camera, fx, fy, cx, cy, samples, arrays, sun, image):
    height, width = image.shape[:2]
    for row in prange(height):
        d, value = np.empty(3), np.empty(3)
        origin = local_from_camera[:3, 3].copy()
        for column in range(width):
            value[:] = 0.0
            for k in range(samples * samples):
                x = (column - 0.5 + (k % samples + 0.5) / samples - cx) / fx
                y = (row - 0.5 + (k // samples + 0.5) / samples - cy) / fy
                length = math.sqrt(x * x + y * y + 1)
                for i in range(3):
                    r = local_from_camera[i]
                    d[i] = (r[0] * x + r[1] * y + r[2]) / length
                _shade(origin, d, arrays, sun, value)
            for i in range(3):
                image[row, column, i] = value[i] / (samples * samples)


@njit(parallel=True, cache=True)
def _heights(x, y, arrays, top, height, kinds):
    boxes, trees, slope, first, items, misc = arrays
    down = np.array([0.0, 0.0, -1.0])
    for row in prange(y.shape[0]):
        o = np.empty(3)
        for column in range(x.shape[0]):
            o[0], o[1], o[2] = x[column], y[row], top
            t, kind, _ = cast(o, down, 0.0, _FAR_M, boxes, trees, slope, first, items, misc, False)
            height[row, column], kinds[row, column] = top - t, kind


def render_parallel(
    city: City, high: Float64[ndarray, "r c 3"], low: Float64[ndarray, "r c 3"], step: int, size: tuple[int, int],
    sun: Float64[ndarray, "3"], samples: int = 3,
) -> Float32[ndarray, "h w 3"]:  # fmt: skip
    """Reflected light along lines of sight from `high` to `low` (local metres), given at every `step`-th pixel corner;
    `size` is (width, height), `sun` points to the sun."""
    image = np.zeros((size[1], size[0], 3), np.float32)
    _parallel(high, low, float(step), samples, pack(city), np.asarray(sun, np.float64), image)
    return image


def render_pinhole(
    city: City, camera_from_local: Float64[ndarray, "4 4"], intrinsics: Float64[ndarray, "3 3"], size: tuple[int, int],
    sun: Float64[ndarray, "3"], samples: int = 3,
) -> Float32[ndarray, "h w 3"]:  # fmt: skip
    """Reflected light in a pinhole (OpenCV axes, (0, 0) the centre of the first pixel)."""
    image = np.zeros((size[1], size[0], 3), np.float32)
    k = intrinsics
    pose = np.ascontiguousarray(np.linalg.inv(camera_from_local))
    _pinhole(pose, k[0, 0], k[1, 1], k[0, 2], k[1, 2], samples, pack(city), np.asarray(sun, np.float64), image)
    return image


def heights(city: City, x: Float64[ndarray, " w"], y: Float64[ndarray, " h"]):
    """Height of the highest surface (local metres) and what it is (GROUND, BUILDING, TREE) over a grid of x and y."""
    arrays = pack(city)
    height, kinds = np.zeros((len(y), len(x))), np.zeros((len(y), len(x)), np.uint8)
    _heights(x, y, arrays, float(arrays[5][1]) + 10.0, height, kinds)
    return height, kinds


__all__ = ["BUILDING", "GROUND", "TREE", "heights", "render_parallel", "render_pinhole"]
