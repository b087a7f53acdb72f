"""What stands where: a seeded city of streets, blocks, flat and pitched roofs, trees and cars on a slope."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

STREET_M, SIDEWALK_M = 9.0, 2.5
BLOCK_M = 46.0
FLAT, GABLE, HIP = 0, 1, 2


@dataclass(frozen=True)
class Boxes:
    """Upright boxes turned by a multiple of a few degrees. Heights are above the ground at the box's centre."""

    centre: Float64[ndarray, "n 2"]
    half: Float64[ndarray, "n 2"]
    angle: Float64[ndarray, " n"]
    base: Float64[ndarray, " n"]  # z of the ground at the centre
    eave: Float64[ndarray, " n"]  # z where the wall ends
    ridge: Float64[ndarray, " n"]  # z of the highest part
    roof: Int64[ndarray, " n"]  # FLAT, GABLE or HIP
    seed: Int64[ndarray, " n"]  # chooses colours and textures


@dataclass(frozen=True)
class Trees:
    """Crowns as ellipsoids of revolution on their ground."""

    centre: Float64[ndarray, "n 3"]
    radius: Float64[ndarray, "n 2"]  # horizontal, vertical
    seed: Int64[ndarray, " n"]


@dataclass(frozen=True)
class City:
    """A square city of `size_m` around the origin; everything in local metres."""

    size_m: float
    slope: tuple[float, float, float, float]  # rise east, rise north, undulation amplitude m, wave length m
    pitch_m: float  # distance of street axes
    boxes: Boxes
    trees: Trees
    seed: int

    def ground(self, x: ndarray, y: ndarray) -> ndarray:
        """z of the terrain."""
        return terrain(x, y, *self.slope)


def terrain(x, y, east, north, amplitude, wave):
    """A slope with a gentle undulation, metres."""
    return east * x + north * y + amplitude * np.sin(2 * np.pi / wave * x) * np.cos(2 * np.pi / (1.3 * wave) * y)


def plan(size_m: float, seed: int) -> City:
    """A city chosen by its seed; it reaches 40 m beyond the square, so that images have no edge of the world."""
    rng = np.random.default_rng(seed)
    slope = (float(rng.uniform(0.012, 0.02)), float(rng.uniform(-0.015, -0.008)), 0.8, 140.0)
    pitch = BLOCK_M + STREET_M + 2 * SIDEWALK_M
    reach = size_m / 2 + 40.0
    count = int(np.ceil(reach / pitch)) + 1
    rows: list[tuple] = []
    trees: list[tuple] = []
    for i in range(-count, count):
        for j in range(-count, count):
            _block(rng, ((i + 0.5) * pitch, (j + 0.5) * pitch), rows, trees)
    city = City(size_m, slope, pitch, _boxes(rows, slope), _trees(trees, slope), seed)
    return city


def _block(rng: np.random.Generator, centre: tuple[float, float], rows: list, trees: list) -> None:
    """One block: a park, a courtyard ring of houses, a row of pitched houses, or towers."""
    kind = rng.choice(4, p=[0.12, 0.33, 0.35, 0.2])
    cx, cy = centre
    half = BLOCK_M / 2
    if kind == 0:
        for _ in range(14):
            trees.append((*(np.array(centre) + rng.uniform(-half + 3, half - 3, 2)), rng.uniform(2.2, 4.2)))
        return
    if kind == 1:
        _ring(rng, cx, cy, half, rows)
        for _ in range(3):
            trees.append((cx + rng.uniform(-6, 6), cy + rng.uniform(-6, 6), rng.uniform(1.8, 3.0)))
    elif kind == 2:
        _houses(rng, cx, cy, half, rows, trees)
    else:
        _towers(rng, cx, cy, half, rows)
        for _ in range(4):
            trees.append((cx + rng.uniform(-half + 2, half - 2), cy + rng.choice([-1, 1]) * (half - 2), 2.0))


def _ring(rng, cx: float, cy: float, half: float, rows: list) -> None:
    """Four wings around a courtyard, each with its own height and roof."""
    depth = 11.0
    for side in range(4):
        height, roof = rng.uniform(9, 20), rng.choice([FLAT, GABLE])
        long, short = (half - depth) if side % 2 else half, depth / 2
        offset = half - short
        dx, dy = ((0, offset), (offset, 0), (0, -offset), (-offset, 0))[side]
        size = (long, short) if side % 2 == 0 else (short, long)
        rows.append((cx + dx, cy + dy, *size, 0.0, height, roof, rng.uniform(2.0, 3.5)))


def _houses(rng, cx: float, cy: float, half: float, rows: list, trees: list) -> None:
    """Six houses with pitched roofs in two rows, turned a little, with trees between."""
    for row in (-1, 1):
        for k in (-1, 0, 1):
            size = rng.uniform(4.5, 6.2), rng.uniform(5.0, 7.5)
            place = cx + k * (half * 0.66), cy + row * half * 0.52
            roof = rng.choice([GABLE, HIP, FLAT], p=[0.5, 0.35, 0.15])
            rows.append((*place, *size, rng.normal(0, 0.06), rng.uniform(5, 9), roof, rng.uniform(1.8, 3.2)))
            if rng.random() < 0.7:
                trees.append((place[0] + half * 0.33, cy + row * half * rng.uniform(0.1, 0.8), rng.uniform(1.6, 2.8)))


def _towers(rng, cx: float, cy: float, half: float, rows: list) -> None:
    """One or two tall buildings on a low podium, with machines on their roofs."""
    rows.append((cx, cy, half * 0.85, half * 0.62, 0.0, rng.uniform(4, 6), FLAT, 0.0))
    for k in range(int(rng.integers(1, 3))):
        size = rng.uniform(7, 9.5), rng.uniform(7, 10)
        x, y = cx + (k - 0.5) * half * 0.85, cy + rng.uniform(-3, 3)
        height = rng.uniform(20, 40)
        rows.append((x, y, *size, 0.0, height, FLAT, 0.0))
        rows.append((x + rng.uniform(-3, 3), y + rng.uniform(-3, 3), 2.2, 1.6, 0.0, height + 2.4, FLAT, 0.0))


def _boxes(rows: list, slope: tuple) -> Boxes:
    table = np.array([[*r[:6], r[7]] for r in rows], np.float64).reshape(-1, 7)
    base = terrain(table[:, 0], table[:, 1], *slope)
    roof = np.array([r[6] for r in rows], np.int64)
    rise = np.where(roof == FLAT, 0.0, table[:, 6])
    eave = base + table[:, 5]
    return Boxes(table[:, :2], table[:, 2:4], table[:, 4], base, eave, eave + rise, roof, np.arange(len(rows)))


def _trees(rows: list, slope: tuple) -> Trees:
    table = np.array(rows, np.float64).reshape(-1, 3)
    vertical = table[:, 2] * 1.15
    z = terrain(table[:, 0], table[:, 1], *slope) + vertical + 0.8
    radius = np.stack([table[:, 2], vertical], 1)
    return Trees(np.column_stack([table[:, :2], z]), radius, np.arange(len(rows)))
