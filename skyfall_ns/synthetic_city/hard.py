"""A city as difficult as real scenes: a tower, blank roofs, a steep slope, water, seasons, changes.

They are in the four blocks around the middle, so that small cities have them too; the other blocks are ordinary.
"""

import math
from dataclasses import replace
from datetime import datetime

import numpy as np

from skyfall_ns.synthetic_city.layout import (
    FLAT,
    GABLE,
    HIP,
    PITCH_M,
    SIDEWALK_M,
    STREET_M,
    City,
    block_centers,
    draw_slope,
    fill_block,
    make_boxes,
    make_trees,
    place_houses,
    pond_radius,
    terrain_height,
)  # fmt: skip

SKY = 0.015  # ambient light, so low that shadows are black
GRADE, GRADE_START_M = 0.33, 12.0
TOWER_M, TOWER_HALF_M = 60.0, 8.0
WHITE, PALE, DARK = 0.9, 0.55, 0.06  # reflectances of roofs of one color
REPAINTED = datetime(2023, 1, 15)
OLD_PAINT, NEW_PAINT = (0.42, 0.14, 0.09), (0.16, 0.33, 0.5)
CORNER_M = STREET_M / 2 + SIDEWALK_M + 1.0  # distance of a block's buildings from the axis of its street
EVERGREEN_SHARE = 0.3


def plan_hard_city(size_m: float, seed: int) -> City:
    """Plan a city like that of `plan_city`, with the difficult blocks around the middle."""
    rng = np.random.default_rng([seed, 3])
    slope = _make_slope(size_m, draw_slope(rng))
    rows: list[tuple] = []
    trees: list[tuple] = []
    paints: dict[int, tuple[float, float, float]] = {}
    for center in block_centers(size_m):
        if max(map(abs, center)) > PITCH_M:
            fill_block(rng, center, rows, trees)
        elif min(center) > 0:
            _place_tower(rng, rows, paints)
        elif max(center) < 0:
            place_houses(rng, *center, PITCH_M / 2 - CORNER_M, rows, trees)
        elif center[1] > 0:
            _place_blank_roofs(min(1.0, size_m / 120.0), rows, paints)
        else:
            _place_shore(rng, slope, trees)
    boxes = make_boxes(rows, slope)
    for number, chance in enumerate(rng.random(len(rows))):
        if number not in paints and boxes.roof[number] == FLAT and chance < 0.45:
            paints[number] = _gray_reflectance(WHITE if chance < 0.2 else PALE if chance < 0.3 else DARK)
    for number, color in paints.items():
        boxes.paint[number] = color
    return City(size_m, slope, PITCH_M, boxes, make_trees(trees, slope), seed, sky=SKY)


def apply_date(city: City, moment: datetime, rng: np.random.Generator) -> City:
    """Set leaves, water, and the color of the repainted roof to those of a date."""
    leaves, brown = leaf_state(moment)
    green = city.trees.seed % 10 < 10 * EVERGREEN_SHARE
    trees = replace(city.trees, leaves=np.where(green, 1.0, leaves), brown=np.where(green, 0.0, brown))
    paint = city.boxes.paint.copy()
    paint[(paint == OLD_PAINT).all(1)] = OLD_PAINT if moment < REPAINTED else NEW_PAINT
    light = rng.choice([0.01, 0.03, 0.07, 0.25]) * np.array([0.75, 1.0, 1.1]) * rng.uniform(0.8, 1.2, 3)
    water = (float(light[0]), float(light[1]), float(light[2]))
    return replace(city, trees=trees, boxes=replace(city.boxes, paint=paint), water=water)


def leaf_state(moment: datetime) -> tuple[float, float]:
    """(fraction of their leaves, brownness in 0..1) of deciduous trees on a date in Toulouse."""
    days = [0, 75, 115, 265, 305, 335, 366]
    day = moment.timetuple().tm_yday
    leaves = np.interp(day, days, [0.3, 0.3, 1.0, 1.0, 0.8, 0.3, 0.3])
    return float(leaves), float(np.interp(day, days, [1.0, 1.0, 0.0, 0.0, 0.8, 1.0, 1.0]))


def _make_slope(size_m: float, gentle: tuple[float, float, float, float]) -> tuple[float, ...]:
    """Extend City.slope by a grade of a third to the south-west, and a pond in the south-east."""
    half_x = min(17.0, 0.15 * size_m)
    half_y = 0.8 * half_x
    shore = math.sqrt(1.5)
    x, y = CORNER_M + shore * half_x, -(CORNER_M + shore * half_y)
    steep = (*gentle, GRADE, GRADE_START_M, min(0.45 * size_m, 70.0))
    level = float(terrain_height(x, y, (*steep, 0.0, 0.0, 0.0, 0.0, 0.0))) - 0.6
    return (*steep, x, y, half_x, half_y, level)


def _place_tower(rng: np.random.Generator, rows: list, paints: dict) -> None:
    """Place a tower with a machine on its roof among low houses, and the hall whose roof is repainted."""
    middle = CORNER_M + TOWER_HALF_M
    rows.append((middle, middle, TOWER_HALF_M, TOWER_HALF_M, 0.0, TOWER_M, FLAT, 0.0))
    rows.append((middle + 2, middle - 1, 2.2, 1.6, 0.0, TOWER_M + 2.4, FLAT, 0.0))
    paints[len(rows)] = OLD_PAINT
    rows.append((36.0, 14.0, 7.0, 6.0, 0.0, 6.0, FLAT, 0.0))
    paints[len(rows)] = _gray_reflectance(DARK)
    rows.append((14.0, 36.0, 6.0, 7.0, 0.0, 5.0, FLAT, 0.0))
    for x, y in ((48, 13), (34, 33), (47, 32), (14, 48), (32, 47), (47, 47)):
        roof = rng.choice([GABLE, HIP])
        rows.append((x, y, *rng.uniform(4.5, 5.5, 2), rng.normal(0, 0.06), rng.uniform(4, 7), roof, 2.2))


def _place_blank_roofs(scale: float, rows: list, paints: dict) -> None:
    """Place a white roof of 30 x 40 m (at a scale of 1) without texture, and a dark one beside it."""
    half_x, half_y = 15.0 * scale, 20.0 * scale
    paints[len(rows)] = _gray_reflectance(WHITE)
    rows.append((-(CORNER_M + half_x), CORNER_M + half_y, half_x, half_y, 0.0, 9.0, FLAT, 0.0))
    paints[len(rows)] = _gray_reflectance(DARK)
    rows.append((-(CORNER_M + 2 * half_x + 7.5), CORNER_M + 9.0, 4.5, 9.0, 0.0, 6.0, FLAT, 0.0))


def _place_shore(rng: np.random.Generator, slope: tuple[float, ...], trees: list) -> None:
    """Place trees around the pond, and a grove behind it."""
    for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
        distance = rng.uniform(1.35, 1.6)
        x, y = slope[7] + distance * slope[9] * np.cos(angle), slope[8] + distance * slope[10] * np.sin(angle)
        if min(x, -y) > CORNER_M + 1:
            trees.append((x, y, rng.uniform(1.8, 3.2)))
    for x, y in rng.uniform(CORNER_M + 3, PITCH_M - CORNER_M - 3, (60, 2)) * (1, -1):
        if pond_radius(x, y, slope) > 2.0:
            trees.append((x, y, rng.uniform(2.2, 4.2)))


def _gray_reflectance(reflectance: float) -> tuple[float, float, float]:
    return reflectance, reflectance, reflectance
