"""Rendering of the city by ray casting, with sun, ambient light and cast shadows; and its exact heights."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Float32, Float64
from numba import get_num_threads
from numpy import ndarray

from skyfall_ns.synthetic_city.layout import City
from skyfall_ns.synthetic_city.surface import BUILDING, CELL_M, GROUND, TREE, WATER, render_rows

BAND_ROWS = 16


def render_parallel(
    city: City, high: Float64[ndarray, "r c 3"], low: Float64[ndarray, "r c 3"], step: int, size: tuple[int, int],
    sun: Float64[ndarray, "3"], samples: int = 3,
) -> Float32[ndarray, "h w 3"]:  # fmt: skip
    """Render the reflected light along lines of sight from `high` to `low` (local meters).

    They are given at every `step`-th pixel corner; `size` is (width, height), `sun` the unit vector to the sun. Each
    pixel is the mean of `samples` x `samples` rays."""
    return _render_in_bands(city, high, low, step, size, sun, samples)[0]


def render_pinhole(
    city: City, camera_from_local: Float64[ndarray, "4 4"], intrinsics: Float64[ndarray, "3 3"], size: tuple[int, int],
    sun: Float64[ndarray, "3"], samples: int = 3,
) -> Float32[ndarray, "h w 3"]:  # fmt: skip
    """Render the reflected light in a pinhole camera (OpenCV axes, (0, 0) the center of the first pixel)."""
    pose, step = np.linalg.inv(camera_from_local), max(size)
    corners = np.array([[[x, y, 1.0] for x in (-0.5, step - 0.5)] for y in (-0.5, step - 0.5)])
    eye = np.broadcast_to(pose[:3, 3], (2, 2, 3))
    low = eye + corners @ np.linalg.inv(intrinsics).T @ pose[:3, :3].T
    return _render_in_bands(city, eye, low, step, size, sun, samples)[0]


def render_heights(city: City, x: Float64[ndarray, " w"], y: Float64[ndarray, " h"]):
    """Render the height of the highest surface (local meters) and its class (GROUND, BUILDING, TREE, WATER) over a grid
    of evenly spaced x and y."""
    step, top = max(len(x), len(y)), 1000.0
    ends = [a[0] + (a[1] - a[0]) * np.array([-0.5, step - 0.5]) for a in (x, y)]
    high = np.stack([*np.meshgrid(*ends), np.full((2, 2), top)], -1)
    up = np.array([0.0, 0.0, 1.0])
    hits = _render_in_bands(city, high, high - up, step, (len(x), len(y)), up, 1)[1]
    return top - hits[..., 0], hits[..., 1].astype(np.uint8)


def _render_in_bands(
    city: City, high: ndarray, low: ndarray, step: int, size: tuple[int, int], sun: ndarray, samples: int
):
    """The image, and the distance and class of the surface hit by each pixel's last sample.

    Threads render bands of rows independently, so that the result does not depend on their number."""
    image, hits = np.zeros((size[1], size[0], 3), np.float32), np.zeros((size[1], size[0], 2))
    high, low, sun = (np.ascontiguousarray(a, np.float64) for a in (high, low, sun))
    scene: list = [high, low, float(step), samples, sun, image, hits, *_pack_city(city)]
    bands = [(row, min(row + BAND_ROWS, size[1])) for row in range(0, size[1], BAND_ROWS)]
    with ThreadPoolExecutor(get_num_threads()) as pool:
        list(pool.map(lambda rows: render_rows(rows, *scene), bands))
    return image, hits


def _pack_city(city: City) -> tuple[ndarray, ...]:
    """Arrays of the city for the kernels: boxes [n, 14], trees [m, 8], slope [12], cells (see below), misc [8]."""
    b, t = city.boxes, city.trees
    boxes = np.column_stack(
        [b.center, b.half, np.cos(b.angle), np.sin(b.angle), b.base, b.eave, b.ridge, b.roof, b.seed, b.paint]
    )
    trees = np.column_stack([t.center, 1 / t.radius, t.seed, t.leaves, t.brown])
    reach = float(np.abs(b.center).max() + 40.0) if len(boxes) else city.size_m
    cos, sin = np.abs(boxes[:, 4:6, None]).transpose(1, 0, 2)
    spread = np.concatenate([cos * b.half + sin * b.half[:, ::-1], np.repeat(t.radius[:, :1], 2, 1)])
    top = np.concatenate([b.ridge, t.center[:, 2] + t.radius[:, 1]])
    first, items, tops = _index_cells(np.concatenate([b.center, t.center[:, :2]]), spread, top, reach)
    misc = np.array([reach, top.max(initial=5.0), city.pitch_m, float(city.seed), city.sky, *city.water])
    return boxes.astype(np.float64), trees.astype(np.float64), np.array(city.slope), first, items, tops, misc


def _index_cells(center: ndarray, spread: ndarray, top: ndarray, reach: float) -> tuple[ndarray, ...]:
    """Index the objects (boxes, then trees) that touch each cell of a square grid, with their greatest height.

    Objects of cell i are items[first[i]:first[i + 1]]."""
    side = math.ceil(2 * reach / CELL_M)
    lists: list[list[int]] = [[] for _ in range(side * side)]
    low, high = (
        np.clip((center + sign * (spread + 1e-6) + reach) // CELL_M, 0, side - 1).astype(int) for sign in (-1, 1)
    )
    for number in range(len(center)):
        for row in range(low[number, 1], high[number, 1] + 1):
            for column in range(low[number, 0], high[number, 0] + 1):
                lists[row * side + column].append(number)
    first = np.cumsum([0] + [len(cell) for cell in lists]).astype(np.int64)
    tops = np.array([max((top[i] for i in cell), default=-np.inf) for cell in lists])
    return first, np.array([i for cell in lists for i in cell], np.int64), tops


__all__ = ["BUILDING", "GROUND", "TREE", "WATER", "render_heights", "render_parallel", "render_pinhole"]
