"""Layout of a random city: streets, blocks, flat and pitched roofs, and trees on sloping terrain."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numba.extending import register_jitable
from numpy import ndarray

STREET_M, SIDEWALK_M = 9.0, 2.5
BLOCK_M = 46.0
PITCH_M = BLOCK_M + STREET_M + 2 * SIDEWALK_M  # distance of street axes
FLAT, GABLE, HIP = 0, 1, 2
UNPAINTED = -1.0
NO_RELIEF = (0.0,) * 8  # the part of City.slope that is only used by difficult cities


@dataclass(frozen=True)
class Boxes:
    """Upright boxes with flat or pitched roofs, rotated by a few degrees; everything in local meters."""

    center: Float64[ndarray, "n 2"]
    half: Float64[ndarray, "n 2"]
    angle: Float64[ndarray, " n"]
    base: Float64[ndarray, " n"]  # z of the ground at the center
    eave: Float64[ndarray, " n"]  # z where the wall ends
    ridge: Float64[ndarray, " n"]  # z of the highest part
    roof: Int64[ndarray, " n"]  # FLAT, GABLE or HIP
    seed: Int64[ndarray, " n"]  # of colors and textures
    paint: Float64[ndarray, "n 3"]  # reflectance of a roof of one color; UNPAINTED for a texture


@dataclass(frozen=True)
class Trees:
    """Crowns of trees as ellipsoids of revolution above the ground."""

    center: Float64[ndarray, "n 3"]
    radius: Float64[ndarray, "n 2"]  # horizontal, vertical
    seed: Int64[ndarray, " n"]
    leaves: Float64[ndarray, " n"]  # opaque fraction of the crown, in 0..1
    brown: Float64[ndarray, " n"]  # 0 green to 1 brown


@dataclass(frozen=True)
class City:
    """A square city of `size_m` around the origin; everything in local meters.

    `slope` holds: rise east, rise north, amplitude and length of the undulation; grade of the steep slope to the
    south-west, its distance from the origin and its length; the pond's center (x, y), half axes (x, y) and level.
    """

    size_m: float
    slope: tuple[float, ...]
    pitch_m: float  # distance of street axes
    boxes: Boxes
    trees: Trees
    seed: int
    sky: float = 0.32  # ambient irradiance of a surface that faces up, relative to that of the sun
    water: tuple[float, float, float] = (0.0, 0.0, 0.0)  # light reflected by the pond

    def ground_height(self, x: ndarray, y: ndarray) -> ndarray:
        """z of the terrain."""
        return terrain_height(x, y, self.slope)


def terrain_height(x, y, slope):
    """Height of the terrain in meters: a slope with an undulation, and by `slope` (see City) a grade and a pond."""
    wave = slope[3]
    z = slope[0] * x + slope[1] * y + slope[2] * np.sin(2 * np.pi / wave * x) * np.cos(2 * np.pi / (1.3 * wave) * y)
    if slope[4] > 0:
        z = z + slope[4] * np.minimum(np.maximum(-0.7071067811865476 * (x + y) - slope[5], 0.0), slope[6])
    if slope[9] > 0:
        shore = np.minimum(np.maximum(2.0 * pond_radius(x, y, slope) - 2.0, 0.0), 1.0)
        z = shore * z + (1.0 - shore) * slope[11]
    return z


@register_jitable(error_model="numpy")  # called by kernels, directly and through `terrain_height`
def pond_radius(x, y, slope):
    """Squared distance from the pond's center in units of its half axes: water below 1, land from 1.5."""
    return ((x - slope[7]) / slope[9]) ** 2 + ((y - slope[8]) / slope[10]) ** 2


def plan_city(size_m: float, seed: int) -> City:
    """Plan a random city. It extends 40 m beyond the square, so that images do not show its edge."""
    rng = np.random.default_rng(seed)
    slope = (*draw_slope(rng), *NO_RELIEF)
    rows: list[tuple] = []
    trees: list[tuple] = []
    for center in block_centers(size_m):
        fill_block(rng, center, rows, trees)
    return City(size_m, slope, PITCH_M, make_boxes(rows, slope), make_trees(trees, slope), seed)


def draw_slope(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """Draw the first part of City.slope: rise east, rise north, amplitude and length of the undulation."""
    return float(rng.uniform(0.012, 0.02)), float(rng.uniform(-0.015, -0.008)), 0.8, 140.0


def block_centers(size_m: float) -> list[tuple[float, float]]:
    """Centers of the blocks, from the south-west."""
    count = int(np.ceil((size_m / 2 + 40.0) / PITCH_M)) + 1
    ticks = [(i + 0.5) * PITCH_M for i in range(-count, count)]
    return [(x, y) for x in ticks for y in ticks]


def fill_block(rng: np.random.Generator, center: tuple[float, float], rows: list, trees: list) -> None:
    """Place one block: a park, wings around a courtyard, rows of pitched houses, or towers."""
    kind = rng.choice(4, p=[0.12, 0.33, 0.35, 0.2])
    cx, cy = center
    half = BLOCK_M / 2
    if kind == 0:
        for _ in range(14):
            trees.append((*(np.array(center) + rng.uniform(-half + 3, half - 3, 2)), rng.uniform(2.2, 4.2)))
        return
    if kind == 1:
        _place_courtyard(rng, cx, cy, half, rows)
        for _ in range(3):
            trees.append((cx + rng.uniform(-6, 6), cy + rng.uniform(-6, 6), rng.uniform(1.8, 3.0)))
    elif kind == 2:
        place_houses(rng, cx, cy, half, rows, trees)
    else:
        _place_towers(rng, cx, cy, half, rows)
        for _ in range(4):
            trees.append((cx + rng.uniform(-half + 2, half - 2), cy + rng.choice([-1, 1]) * (half - 2), 2.0))


def _place_courtyard(rng, cx: float, cy: float, half: float, rows: list) -> None:
    """Place four wings around a courtyard, each with its own height and roof."""
    depth = 11.0
    for side in range(4):
        height, roof = rng.uniform(9, 20), rng.choice([FLAT, GABLE])
        long, short = (half - depth) if side % 2 else half, depth / 2
        offset = half - short
        dx, dy = ((0, offset), (offset, 0), (0, -offset), (-offset, 0))[side]
        size = (long, short) if side % 2 == 0 else (short, long)
        rows.append((cx + dx, cy + dy, *size, 0.0, height, roof, rng.uniform(2.0, 3.5)))


def place_houses(rng, cx: float, cy: float, half: float, rows: list, trees: list) -> None:
    """Place six houses in two rows, most with pitched roofs, slightly rotated, with trees between them."""
    for row in (-1, 1):
        for k in (-1, 0, 1):
            size = rng.uniform(4.5, 6.2), rng.uniform(5.0, 7.5)
            position = cx + k * (half * 0.66), cy + row * half * 0.52
            roof = rng.choice([GABLE, HIP, FLAT], p=[0.5, 0.35, 0.15])
            rows.append((*position, *size, rng.normal(0, 0.06), rng.uniform(5, 9), roof, rng.uniform(1.8, 3.2)))
            if rng.random() < 0.7:
                trees.append(
                    (position[0] + half * 0.33, cy + row * half * rng.uniform(0.1, 0.8), rng.uniform(1.6, 2.8))
                )


def _place_towers(rng, cx: float, cy: float, half: float, rows: list) -> None:
    """Place one or two tall buildings on a low podium, with machines on their roofs."""
    rows.append((cx, cy, half * 0.85, half * 0.62, 0.0, rng.uniform(4, 6), FLAT, 0.0))
    for k in range(int(rng.integers(1, 3))):
        size = rng.uniform(7, 9.5), rng.uniform(7, 10)
        x, y = cx + (k - 0.5) * half * 0.85, cy + rng.uniform(-3, 3)
        height = rng.uniform(20, 40)
        rows.append((x, y, *size, 0.0, height, FLAT, 0.0))
        rows.append((x + rng.uniform(-3, 3), y + rng.uniform(-3, 3), 2.2, 1.6, 0.0, height + 2.4, FLAT, 0.0))


def make_boxes(rows: list, slope: tuple[float, ...]) -> Boxes:
    """Make boxes on the terrain of rows (x, y, two half widths, angle, height, roof, rise of the roof)."""
    table = np.array([[*r[:6], r[7]] for r in rows], np.float64).reshape(-1, 7)
    base = terrain_height(table[:, 0], table[:, 1], slope)
    roof = np.array([r[6] for r in rows], np.int64)
    rise = np.where(roof == FLAT, 0.0, table[:, 6])
    eave = base + table[:, 5]
    paint = np.full((len(rows), 3), UNPAINTED)
    return Boxes(table[:, :2], table[:, 2:4], table[:, 4], base, eave, eave + rise, roof, np.arange(len(rows)), paint)


def make_trees(rows: list, slope: tuple[float, ...]) -> Trees:
    """Make crowns in full green leaf on the terrain, of rows (x, y, radius)."""
    table = np.array(rows, np.float64).reshape(-1, 3)
    vertical = table[:, 2] * 1.15
    z = terrain_height(table[:, 0], table[:, 1], slope) + vertical + 0.8
    radius = np.stack([table[:, 2], vertical], 1)
    count = len(rows)
    return Trees(np.column_stack([table[:, :2], z]), radius, np.arange(count), np.ones(count), np.zeros(count))
