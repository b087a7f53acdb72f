"""Rays against the city: nearest surface, its colour before light, and shadows; Numba, the same for any thread count.

Buildings are looked up in a grid of cells; a ray walks it with exact box, roof-plane, ellipsoid and terrain tests.
"""

import math

import numpy as np
from numba import njit

from skyfall_ns.data.city.layout import FLAT, HIP, SIDEWALK_M, STREET_M, City, terrain

GROUND, BUILDING, TREE = 0, 1, 2
CELL_M = 8.0
_FAR = 1e30
_terrain = njit(terrain, cache=True)


def pack(city: City) -> tuple[np.ndarray, ...]:
    """The city as arrays for the kernels: boxes [n, 11], trees [m, 6], slope [4], index of cells, misc."""
    b, t = city.boxes, city.trees
    boxes = np.column_stack(
        [b.centre, b.half, np.cos(b.angle), np.sin(b.angle), b.base, b.eave, b.ridge, b.roof, b.seed]
    )
    trees = np.column_stack([t.centre, t.radius, t.seed])
    reach = float(np.abs(b.centre).max() + 40.0) if len(boxes) else city.size_m
    first, items = _index(boxes, trees, reach)
    top = max(float(boxes[:, 8].max()), float((trees[:, 2] + trees[:, 4]).max())) if len(boxes) else 5.0
    misc = np.array([reach, top, city.pitch_m, float(city.seed)])
    return boxes.astype(np.float64), trees.astype(np.float64), np.array(city.slope), first, items, misc


def _index(boxes: np.ndarray, trees: np.ndarray, reach: float) -> tuple[np.ndarray, np.ndarray]:
    """For each cell of a square grid, which boxes (numbers) and trees (numbers + len(boxes)) touch it."""
    side = math.ceil(2 * reach / CELL_M)
    lists: list[list[int]] = [[] for _ in range(side * side)]
    for number, (x, y, r) in enumerate(
        [(b[0], b[1], math.hypot(b[2], b[3])) for b in boxes] + [(t[0], t[1], t[3]) for t in trees]
    ):
        c0, c1 = (int(np.clip((x + s * r + reach) // CELL_M, 0, side - 1)) for s in (-1, 1))
        r0, r1 = (int(np.clip((y + s * r + reach) // CELL_M, 0, side - 1)) for s in (-1, 1))
        for row in range(r0, r1 + 1):
            for column in range(c0, c1 + 1):
                lists[row * side + column].append(number)
    first = np.cumsum([0] + [len(cell) for cell in lists]).astype(np.int64)
    return first, np.array([i for cell in lists for i in cell], np.int64)


@njit(cache=True)
def roof_height(box, u, v):
    """z of a box's top at (u, v) in its own axes; the ridge runs along the longer side."""
    if box[9] == FLAT:
        return box[7]
    long_u = box[2] >= box[3]
    across, width = (abs(v), box[3]) if long_u else (abs(u), box[2])
    height = box[8] - (box[8] - box[7]) * across / width
    if box[9] == HIP:
        along, length = (abs(u), box[2]) if long_u else (abs(v), box[3])
        height = min(height, box[8] - (box[8] - box[7]) * max(0.0, (along - (length - width)) / width))
    return height


@njit(cache=True)
def _hit_box(box, o, d, near, far):
    """First point inside the solid under the roof between `near` and `far`; _FAR if none. The roof is concave from
    below, so bisection between the box's entry and exit finds the roof."""
    ox, oy = o[0] - box[0], o[1] - box[1]
    u0, v0 = box[4] * ox + box[5] * oy, -box[5] * ox + box[4] * oy
    du, dv = box[4] * d[0] + box[5] * d[1], -box[5] * d[0] + box[4] * d[1]
    enter, leave = near, far
    for start, step, half in ((u0, du, box[2]), (v0, dv, box[3])):
        if abs(step) < 1e-12:
            if abs(start) > half:
                return _FAR
            continue
        a, b = (-half - start) / step, (half - start) / step
        enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    if abs(d[2]) > 1e-12:
        a, b = (box[6] - 6.0 - o[2]) / d[2], (box[8] - o[2]) / d[2]
        enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    if enter >= leave:
        return _FAR
    if o[2] + enter * d[2] <= roof_height(box, u0 + enter * du, v0 + enter * dv) + 1e-9:
        return enter
    # above the roof at the entry: look for the first of 8 stretches that ends below it
    low = enter
    for k in range(1, 9):
        high = enter + (leave - enter) * k / 8
        if o[2] + high * d[2] <= roof_height(box, u0 + high * du, v0 + high * dv) + 1e-9:
            for _ in range(40):
                middle = 0.5 * (low + high)
                if o[2] + middle * d[2] <= roof_height(box, u0 + middle * du, v0 + middle * dv):
                    high = middle
                else:
                    low = middle
            return high
        low = high
    return _FAR


@njit(cache=True)
def _hit_tree(tree, o, d, near, far):
    """Entry into a crown; _FAR if none."""
    x, y, z = (o[0] - tree[0]) / tree[3], (o[1] - tree[1]) / tree[3], (o[2] - tree[2]) / tree[4]
    dx, dy, dz = d[0] / tree[3], d[1] / tree[3], d[2] / tree[4]
    a, b, c = dx * dx + dy * dy + dz * dz, x * dx + y * dy + z * dz, x * x + y * y + z * z - 1
    inside = b * b - a * c
    if inside <= 0:
        return _FAR
    t = (-b - math.sqrt(inside)) / a
    return t if near < t < far else _FAR


@njit(cache=True)
def _hit_ground(o, d, slope, near, far):
    """Where a descending ray meets the terrain (secant steps; slopes are gentle)."""
    if d[2] >= -1e-9:
        return _FAR
    t = (_terrain(o[0], o[1], slope[0], slope[1], slope[2], slope[3]) - o[2]) / d[2]
    for _ in range(12):
        x, y = o[0] + t * d[0], o[1] + t * d[1]
        t = (_terrain(x, y, slope[0], slope[1], slope[2], slope[3]) - o[2]) / d[2]
    return t if near < t < far else _FAR


@njit(cache=True)
def cast(o, d, near, far, boxes, trees, slope, first, items, misc, any_hit):
    """(distance, kind, number) of the nearest surface along a ray; with `any_hit` the first found will do."""
    best, kind, number = _FAR, -1, -1
    if not any_hit:
        ground = _hit_ground(o, d, slope, near, far)
        if ground < far:
            best, kind, number = ground, GROUND, 0
    reach, top = misc[0], misc[1]
    enter, leave = near, min(far, best)
    if abs(d[2]) > 1e-12:
        above = (top - o[2]) / d[2]
        if d[2] < 0:
            enter = max(enter, above)
        else:
            leave = min(leave, above)
    for axis in range(2):
        if abs(d[axis]) > 1e-12:
            a, b = (-reach - o[axis]) / d[axis], (reach - o[axis]) / d[axis]
            enter, leave = max(enter, min(a, b)), min(leave, max(a, b))
    side = math.ceil(2 * reach / CELL_M)
    t = enter
    while t < leave:
        x, y = o[0] + (t + 1e-7) * d[0], o[1] + (t + 1e-7) * d[1]
        column, row = int((x + reach) // CELL_M), int((y + reach) // CELL_M)
        column, row = min(max(column, 0), side - 1), min(max(row, 0), side - 1)
        step = _FAR
        for axis, cell in ((0, column), (1, row)):
            if d[axis] > 1e-12:
                step = min(step, ((cell + 1) * CELL_M - reach - o[axis]) / d[axis])
            elif d[axis] < -1e-12:
                step = min(step, (cell * CELL_M - reach - o[axis]) / d[axis])
        for k in range(first[row * side + column], first[row * side + column + 1]):
            item = items[k]
            if item < boxes.shape[0]:
                hit = _hit_box(boxes[item], o, d, near, min(far, best))
                which = BUILDING
            else:
                hit = _hit_tree(trees[item - boxes.shape[0]], o, d, near, min(far, best))
                which = TREE
            if hit < best:
                best, kind, number = hit, which, item if which == BUILDING else item - boxes.shape[0]
                if any_hit:
                    return best, kind, number
        if best <= step:
            break
        t = max(step, t + 1e-6)
    return best, kind, number


@njit(cache=True)
def _hash(x, y, z, seed):
    """A number in 0..1 for integer coordinates."""
    h = np.uint64(x * 73856093) ^ np.uint64(y * 19349663) ^ np.uint64(z * 83492791) ^ np.uint64(seed * 2654435761)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    h = h ^ (h >> np.uint64(33))
    return np.float64(h >> np.uint64(11)) / 9007199254740992.0


@njit(cache=True)
def noise(u, v, seed, octaves, length):
    """Value noise in -1..1 with `octaves` halvings from `length` metres down, each 0.65 as strong as the one before."""
    total, weight, size = 0.0, 0.0, 1.0
    for octave in range(octaves):
        x, y = u / length, v / length
        i, j = math.floor(x), math.floor(y)
        fx, fy = x - i, y - j
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        a, b = _hash(i, j, octave, seed), _hash(i + 1, j, octave, seed)
        c, d = _hash(i, j + 1, octave, seed), _hash(i + 1, j + 1, octave, seed)
        total += size * (2 * ((a * (1 - fx) + b * fx) * (1 - fy) + (c * (1 - fx) + d * fx) * fy) - 1)
        weight += size
        size *= 0.65
        length *= 0.5
    return total / weight


@njit(cache=True)
def _ground_albedo(x, y, pitch, seed):
    """Streets with markings, sidewalks, and yards of grass and paving."""
    u, v = x % pitch, y % pitch
    edge = STREET_M / 2
    du, dv = min(u, pitch - u), min(v, pitch - v)
    speckle = noise(x, y, seed + 11, 5, 6.0)
    if min(du, dv) < edge:
        gray = 0.16 + 0.05 * speckle
        along = v if du < dv else u
        if min(du, dv) < 0.14 and max(du, dv) > edge + 1 and along % 6.0 < 3.0:
            gray = 0.62
        if edge < max(du, dv) < edge + 3.2 and min(du, dv) < edge - 0.6 and (u if du < dv else v) % 1.2 < 0.6:
            gray = 0.55
        return gray, gray, gray * 1.03
    if min(du, dv) < edge + SIDEWALK_M:
        gray = 0.38 + 0.07 * speckle - 0.06 * (1.0 if (x % 1.5 < 0.12 or y % 1.5 < 0.12) else 0.0)
        return gray, gray * 0.98, gray * 0.94
    patch = noise(x, y, seed + 5, 3, 24.0)
    if patch > -0.05:
        green = 0.20 + 0.09 * speckle
        return green * 0.72, green, green * 0.5
    paving = 0.32 + 0.10 * speckle
    return paving, paving * 0.93, paving * 0.82


@njit(cache=True)
def _roof_albedo(box, u, v, seed):
    number = int(box[10])
    tint, shade = _hash(number, 1, 0, seed), _hash(number, 2, 0, seed)
    speckle = noise(u, v, seed + 31 * number, 5, 5.0)
    if box[9] == FLAT:
        gray = 0.28 + 0.32 * shade + 0.10 * speckle
        rim = min(box[2] - abs(u), box[3] - abs(v))
        if rim < 0.5:
            gray *= 1.35
        if (math.floor(u / 3.1) + 2 * math.floor(v / 2.7) + number) % 7 == 0:
            gray *= 0.7
        return gray * (1.0 + 0.06 * tint), gray, gray * (1.02 - 0.08 * tint)
    down = v if box[2] >= box[3] else u
    rows = 0.06 if (abs(down) % 0.9) < 0.25 else 0.0
    red = 0.36 + 0.14 * shade + 0.09 * speckle - rows
    return red, red * (0.52 + 0.2 * tint), red * (0.40 + 0.18 * tint)


@njit(cache=True)
def _wall_albedo(box, u, v, z, seed):
    """Plaster or brick with rows of windows."""
    number = int(box[10])
    tint, shade = _hash(number, 3, 0, seed), _hash(number, 4, 0, seed)
    on_u = box[2] - abs(u) < box[3] - abs(v)
    along = v if on_u else u
    base = 0.34 + 0.30 * shade + 0.06 * noise(along, z, seed + 7 * number, 4, 4.0)
    above = z - box[6]
    width, floor = 2.4 + 1.2 * _hash(number, 5, 0, seed), 3.0
    if (
        above > 0.8
        and box[7] - z > 0.7
        and (along % width) > 0.45 * width
        and 0.28 * floor < above % floor < 0.8 * floor
    ):
        glass = 0.09 + 0.14 * _hash(math.floor(along / width), math.floor(above / floor), number, seed)
        return glass * 0.9, glass, glass * 1.15
    return base, base * (0.84 + 0.1 * tint), base * (0.66 + 0.2 * tint)


@njit(cache=True)
def albedo_normal(p, kind, number, boxes, trees, slope, misc, color, normal):
    """Fill the reflectance (0..1, three bands) and the outward normal of a surface point."""
    seed = int(misc[3])
    if kind == GROUND:
        e = 0.2
        x, y = p[0], p[1]
        gx = _terrain(x + e, y, slope[0], slope[1], slope[2], slope[3]) - _terrain(
            x - e, y, slope[0], slope[1], slope[2], slope[3]
        )
        gy = _terrain(x, y + e, slope[0], slope[1], slope[2], slope[3]) - _terrain(
            x, y - e, slope[0], slope[1], slope[2], slope[3]
        )
        normal[0], normal[1], normal[2] = -gx / (2 * e), -gy / (2 * e), 1.0
        color[0], color[1], color[2] = _ground_albedo(x, y, misc[2], seed)
    elif kind == TREE:
        tree = trees[number]
        for k in range(3):
            normal[k] = (p[k] - tree[k]) / (tree[3] ** 2 if k < 2 else tree[4] ** 2)
        leaf = noise(p[0] + 0.7 * p[2], p[1] - 0.7 * p[2], seed + 3 * int(tree[5]), 4, 1.6)
        green = 0.15 + 0.08 * leaf
        color[0], color[1], color[2] = green * 0.62, green, green * 0.42
    else:
        box = boxes[number]
        x, y = p[0] - box[0], p[1] - box[1]
        u, v = box[4] * x + box[5] * y, -box[5] * x + box[4] * y
        top = roof_height(box, u, v)
        if p[2] > top - 0.02:
            e = 0.01
            gu = (roof_height(box, u + e, v) - roof_height(box, u - e, v)) / (2 * e)
            gv = (roof_height(box, u, v + e) - roof_height(box, u, v - e)) / (2 * e)
            nu, nv, normal[2] = -gu, -gv, 1.0
            color[0], color[1], color[2] = _roof_albedo(box, u, v, seed)
        else:
            on_u = box[2] - abs(u) < box[3] - abs(v)
            nu, nv = (math.copysign(1.0, u), 0.0) if on_u else (0.0, math.copysign(1.0, v))
            normal[2] = 0.0
            color[0], color[1], color[2] = _wall_albedo(box, u, v, p[2], seed)
        normal[0], normal[1] = box[4] * nu - box[5] * nv, box[5] * nu + box[4] * nv
    length = math.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
    for k in range(3):
        normal[k] /= length
