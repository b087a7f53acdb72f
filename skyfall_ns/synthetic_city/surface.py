"""Numba kernels that intersect rays with the city: the nearest surface, its color, sun, ambient light, cast shadows.

Objects are indexed by the cells of a grid, which a ray traverses with exact box, roof, ellipsoid and terrain tests.
Rays use scalars and row numbers, because creating, slicing or reference-counting an array would cost more than the ray.
All kernels are in this file, because Numba's cache recompiles a kernel only if the kernel's own file has changed.
"""

import math

import numpy as np

from skyfall_ns.geo.compilation import njit
from skyfall_ns.synthetic_city.layout import FLAT, HIP, SIDEWALK_M, STREET_M, pond_radius, terrain_height

GROUND, BUILDING, TREE, WATER = 0, 1, 2, 3
CELL_M = 8.0
SUN = 1.0  # irradiance of a surface that faces it
SKY_COLOR = (0.62, 0.72, 0.86)  # of a ray without a hit
_FAR, _FAR_M = 1e30, 1e5
_PX, _PY, _PZ, _PS = 73856093, 19349663, 83492791, 2654435761  # constants that mix integer coordinates
JIT = {"error_model": "numpy", "nogil": True, "_nrt": False}  # no reference counting: threads would contend for it
_STEEPEST = 1.0  # bound of the terrain's slope where it has a grade or a pond
_LEAF_M = 0.4  # size of the holes in a crown
_terrain_height = njit(**JIT)(terrain_height)


@njit(**JIT)
def _roof_height(boxes, i, u, v):
    """z of a box's top at (u, v) in its own axes; the ridge runs along the longer side."""
    if boxes[i, 9] == FLAT:
        return boxes[i, 7]
    long_u = boxes[i, 2] >= boxes[i, 3]
    across, width = (abs(v), boxes[i, 3]) if long_u else (abs(u), boxes[i, 2])
    rise = boxes[i, 8] - boxes[i, 7]
    height = boxes[i, 8] - rise * across / width
    if boxes[i, 9] == HIP:
        along, length = (abs(u), boxes[i, 2]) if long_u else (abs(v), boxes[i, 3])
        height = min(height, boxes[i, 8] - rise * max(0.0, (along - (length - width)) / width))
    return height


@njit(**JIT)
def _clip_to_slab(start, step, low, high, enter, leave):
    """Clip the interval (enter, leave) of a ray to where a coordinate is within `low` and `high`."""
    step = step if abs(step) > 1e-12 else 1e-30
    a, b = (low - start) / step, (high - start) / step
    return max(enter, min(a, b)), min(leave, max(a, b))


@njit(**JIT)
def _hit_box(boxes, i, ox, oy, oz, dx, dy, dz, far):
    """Distance of the entry into a box and its roof before `far`, else _FAR. The solid is convex: each face clips."""
    x, y, c, s = ox - boxes[i, 0], oy - boxes[i, 1], boxes[i, 4], boxes[i, 5]
    u, v, du, dv = c * x + s * y, c * y - s * x, c * dx + s * dy, c * dy - s * dx
    enter, leave = _clip_to_slab(u, du, -boxes[i, 2], boxes[i, 2], 0.0, far)
    enter, leave = _clip_to_slab(v, dv, -boxes[i, 3], boxes[i, 3], enter, leave)
    enter, leave = _clip_to_slab(oz, dz, boxes[i, 6] - 6.0, boxes[i, 8], enter, leave)
    if enter < leave and boxes[i, 9] != FLAT:
        if boxes[i, 2] < boxes[i, 3]:
            u, v, du, dv = v, u, dv, du
        length, width = max(boxes[i, 2], boxes[i, 3]), min(boxes[i, 2], boxes[i, 3])
        pitch, z = (boxes[i, 8] - boxes[i, 7]) / width, oz - boxes[i, 8]
        for sign in (-1.0, 1.0):
            enter, leave = _clip_to_slab(z + sign * pitch * v, dz + sign * pitch * dv, -_FAR, 0.0, enter, leave)
            if boxes[i, 9] == HIP:
                z_end = z - pitch * (length - width)
                enter, leave = _clip_to_slab(z_end + sign * pitch * u, dz + sign * pitch * du, -_FAR, 0.0, enter, leave)
    return enter if enter < leave else _FAR


@njit(**JIT)
def _hit_tree(trees, i, ox, oy, oz, dx, dy, dz, far):
    """Distance of the entry into a crown before `far`, else _FAR. Without some leaves both its sides have holes."""
    h, w = trees[i, 3], trees[i, 4]
    wx, wy, wz = dx, dy, dz
    x, y, z, dx, dy, dz = (ox - trees[i, 0]) * h, (oy - trees[i, 1]) * h, (oz - trees[i, 2]) * w, dx * h, dy * h, dz * w
    a, b, c = dx * dx + dy * dy + dz * dz, x * dx + y * dy + z * dz, x * x + y * y + z * z - 1
    inside = b * b - a * c
    if inside <= 0:
        return _FAR
    t = (-b - math.sqrt(inside)) / a
    if trees[i, 6] >= 1.0:
        return t if 0 < t < far else _FAR
    for _ in range(2):
        if 0 < t < far:
            u, v, q = (ox + t * wx) / _LEAF_M, (oy + t * wy) / _LEAF_M, (oz + t * wz) / _LEAF_M
            if _lattice_random(math.floor(u), math.floor(v), math.floor(q), int(trees[i, 5])) < trees[i, 6]:
                return t
        t = (-b + math.sqrt(inside)) / a
    return _FAR


@njit(**JIT)
def _march_to_ground(ox, oy, oz, dx, dy, dz, slope, far):
    """Distance to terrain of any slope below _STEEPEST, at most `far`, in steps that cannot pass through the ground."""
    fastest = abs(dz) + _STEEPEST * math.sqrt(dx * dx + dy * dy)
    t = 0.0
    for _ in range(400):
        gap = oz + t * dz - _terrain_height(ox + t * dx, oy + t * dy, slope)
        t += gap / fastest
        if abs(gap) < 1e-6 or t > far:
            break
    return t if 0 < t < far else far


@njit(**JIT)
def _hit_ground(ox, oy, oz, dx, dy, dz, slope, far):
    """Distance of a descending ray to the terrain, at most `far`: fixed-point steps, which converge on gentle slopes,
    extrapolated to their limit for a steep ray."""
    if dz >= -1e-9:
        return far
    if slope[4] > 0 or slope[9] > 0:
        return _march_to_ground(ox, oy, oz, dx, dy, dz, slope, far)
    steep, before, after = dz < -0.2, 0.0, 0.0
    t = (slope[0] * ox + slope[1] * oy - oz) / (dz - slope[0] * dx - slope[1] * dy) if steep else 0.0
    for step in range(13):
        x, y = ox + t * dx, oy + t * dy
        found = (_terrain_height(x, y, slope) - oz) / dz
        ratio = (found - after) / (t - before) if steep and step > 0 else 0.0
        before, after = t, found
        if abs(found - t) < 1e-7:
            break
        t = found + (found - t) * ratio / (1.0 - ratio)
    return after if 0 < after < far else far


@njit(**JIT)
def _cast_ray(ox, oy, oz, dx, dy, dz, far, enough, boxes, trees, first, items, tops, misc):
    """(distance, class, index) of the nearest box or tree before `far`, or of the first one found before `enough`."""
    best, kind, number = far, -1, -1
    reach = misc[0]
    t, leave = _clip_to_slab(oz, dz, -_FAR, misc[1], 0.0, best)
    t, leave = _clip_to_slab(ox, dx, -reach, reach, t, leave)
    t, leave = _clip_to_slab(oy, dy, -reach, reach, t, leave)
    side = math.ceil(2 * reach / CELL_M)
    x, y = (ox + t * dx + reach) / CELL_M, (oy + t * dy + reach) / CELL_M
    column, row = min(max(math.floor(x), 0), side - 1), min(max(math.floor(y), 0), side - 1)
    right, up = 1 if dx > 0 else -1, 1 if dy > 0 else -1
    per_x, per_y = CELL_M / max(abs(dx), 1e-12), CELL_M / max(abs(dy), 1e-12)
    next_x = t + per_x * (column + 1 - x if dx > 0 else x - column)
    next_y = t + per_y * (row + 1 - y if dy > 0 else y - row)
    while t < leave and 0 <= column < side and 0 <= row < side:
        cell, step = row * side + column, min(next_x, next_y)
        if min(oz + t * dz, oz + min(step, leave) * dz) <= tops[cell] + 1e-6:
            for k in range(first[cell], first[cell + 1]):
                item = items[k]
                tree = item - boxes.shape[0]
                if tree < 0:
                    hit = _hit_box(boxes, item, ox, oy, oz, dx, dy, dz, best)
                else:
                    hit = _hit_tree(trees, tree, ox, oy, oz, dx, dy, dz, best)
                if hit < best:
                    best, kind, number = hit, (BUILDING if tree < 0 else TREE), (item if tree < 0 else tree)
                    if best < enough:
                        return best, kind, number
        if best <= step:
            break
        t = step
        if next_x < next_y:
            column, next_x = column + right, next_x + per_x
        else:
            row, next_y = row + up, next_y + per_y
    return best, kind, number


@njit(**JIT)
def _hash_to_unit(h):
    """Hash 64 bits to a number in 0..1."""
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(33))) * np.uint64(0xC4CEB9FE1A85EC53)
    h = h ^ (h >> np.uint64(33))
    return np.float64(h >> np.uint64(11)) / 9007199254740992.0


@njit(**JIT)
def _lattice_random(x, y, z, seed):
    """Pseudo-random number in 0..1 for integer coordinates."""
    return _hash_to_unit(np.uint64(x * _PX) ^ np.uint64(y * _PY) ^ np.uint64(z * _PZ) ^ np.uint64(seed * _PS))


@njit(**JIT)
def _value_noise(u, v, seed, octaves, length):
    """Value noise in -1..1 of several octaves, from `length` meters down, each with 0.65 of the previous amplitude."""
    total, weight, size, x, y = 0.0, 0.0, 1.0, u / length, v / length
    for octave in range(octaves):
        i, j = math.floor(x), math.floor(y)
        fx, fy = x - i, y - j
        fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
        left, right, mix = np.uint64(i * _PX), np.uint64((i + 1) * _PX), np.uint64(octave * _PZ) ^ np.uint64(seed * _PS)
        low, high = np.uint64(j * _PY) ^ mix, np.uint64((j + 1) * _PY) ^ mix
        below = _hash_to_unit(left ^ low) * (1 - fx) + _hash_to_unit(right ^ low) * fx
        above = _hash_to_unit(left ^ high) * (1 - fx) + _hash_to_unit(right ^ high) * fx
        total += size * (2 * (below * (1 - fy) + above * fy) - 1)
        weight += size
        size *= 0.65
        x, y = 2 * x, 2 * y
    return total / weight


@njit(**JIT)
def _floor_mod(x, length):
    """Remainder of x in 0..length, also for negative x."""
    return x - length * math.floor(x / length)


@njit(**JIT)
def _ground_albedo(x, y, pitch, seed):
    """Albedo of streets with markings, sidewalks, and yards of grass and paving."""
    u, v = _floor_mod(x, pitch), _floor_mod(y, pitch)
    edge = STREET_M / 2
    du, dv = min(u, pitch - u), min(v, pitch - v)
    speckle = _value_noise(x, y, seed + 11, 5, 6.0)
    if min(du, dv) < edge:
        gray = 0.16 + 0.05 * speckle
        along = v if du < dv else u
        if min(du, dv) < 0.14 and max(du, dv) > edge + 1 and _floor_mod(along, 6.0) < 3.0:
            gray = 0.62
        if edge < max(du, dv) < edge + 3.2 and min(du, dv) < edge - 0.6 and _floor_mod(u if du < dv else v, 1.2) < 0.6:
            gray = 0.55
        return gray, gray, gray * 1.03
    if min(du, dv) < edge + SIDEWALK_M:
        gray = 0.38 + 0.07 * speckle - 0.06 * (1.0 if (_floor_mod(x, 1.5) < 0.12 or _floor_mod(y, 1.5) < 0.12) else 0.0)
        return gray, gray * 0.98, gray * 0.94
    patch = _value_noise(x, y, seed + 5, 3, 24.0)
    if patch > -0.05:
        green = 0.20 + 0.09 * speckle
        return green * 0.72, green, green * 0.5
    paving = 0.32 + 0.10 * speckle
    return paving, paving * 0.93, paving * 0.82


@njit(**JIT)
def _roof_albedo(boxes, i, u, v, seed):
    """Albedo of a roof: one color, gray with a brighter edge if flat, or rows of red tiles."""
    if boxes[i, 11] >= 0:
        return boxes[i, 11], boxes[i, 12], boxes[i, 13]
    number = int(boxes[i, 10])
    tint, shade = _lattice_random(number, 1, 0, seed), _lattice_random(number, 2, 0, seed)
    speckle = _value_noise(u, v, seed + 31 * number, 5, 5.0)
    if boxes[i, 9] == FLAT:
        gray = 0.28 + 0.32 * shade + 0.10 * speckle
        rim = min(boxes[i, 2] - abs(u), boxes[i, 3] - abs(v))
        if rim < 0.5:
            gray *= 1.35
        if (math.floor(u / 3.1) + 2 * math.floor(v / 2.7) + number) % 7 == 0:
            gray *= 0.7
        return gray * (1.0 + 0.06 * tint), gray, gray * (1.02 - 0.08 * tint)
    down = v if boxes[i, 2] >= boxes[i, 3] else u
    rows = 0.06 if _floor_mod(abs(down), 0.9) < 0.25 else 0.0
    red = 0.36 + 0.14 * shade + 0.09 * speckle - rows
    return red, red * (0.52 + 0.2 * tint), red * (0.40 + 0.18 * tint)


@njit(**JIT)
def _wall_albedo(boxes, i, u, v, z, seed):
    """Albedo of a wall: plaster or brick with rows of windows."""
    number = int(boxes[i, 10])
    tint, shade = _lattice_random(number, 3, 0, seed), _lattice_random(number, 4, 0, seed)
    on_u = boxes[i, 2] - abs(u) < boxes[i, 3] - abs(v)
    along = v if on_u else u
    base = 0.34 + 0.30 * shade + 0.06 * _value_noise(along, z, seed + 7 * number, 4, 4.0)
    above = z - boxes[i, 6]
    width, floor = 2.4 + 1.2 * _lattice_random(number, 5, 0, seed), 3.0
    if (
        above > 0.8
        and boxes[i, 7] - z > 0.7
        and _floor_mod(along, width) > 0.45 * width
        and 0.28 * floor < _floor_mod(above, floor) < 0.8 * floor
    ):
        glass = 0.09 + 0.14 * _lattice_random(math.floor(along / width), math.floor(above / floor), number, seed)
        return glass * 0.9, glass, glass * 1.15
    return base, base * (0.84 + 0.1 * tint), base * (0.66 + 0.2 * tint)


@njit(**JIT)
def _albedo_normal(x, y, z, kind, number, boxes, trees, slope, misc):
    """Albedo (three bands, in 0..1) and outward normal of a surface point."""
    seed = int(misc[3])
    if kind == GROUND:
        kx, ky = 2 * np.pi / slope[3], 2 * np.pi / (1.3 * slope[3])
        nx = -slope[0] - slope[2] * kx * math.cos(kx * x) * math.cos(ky * y)
        ny = -slope[1] + slope[2] * ky * math.sin(kx * x) * math.sin(ky * y)
        if slope[4] > 0 or slope[9] > 0:
            e = 0.01
            nx = (_terrain_height(x - e, y, slope) - _terrain_height(x + e, y, slope)) / (2 * e)
            ny = (_terrain_height(x, y - e, slope) - _terrain_height(x, y + e, slope)) / (2 * e)
        nz, color = 1.0, _ground_albedo(x, y, misc[2], seed)
    elif kind == TREE:
        h, w = trees[number, 3] ** 2, trees[number, 4] ** 2
        nx, ny, nz = (x - trees[number, 0]) * h, (y - trees[number, 1]) * h, (z - trees[number, 2]) * w
        green = 0.15 + 0.08 * _value_noise(x + 0.7 * z, y - 0.7 * z, seed + 3 * int(trees[number, 5]), 4, 1.6)
        color = green * 0.62, green, green * 0.42
        if trees[number, 7] > 0:
            brown, bark = trees[number, 7], 0.6 * green
            color = (
                (1 - brown) * color[0] + brown * 1.25 * bark,
                (1 - brown) * color[1] + brown * 0.9 * bark,
                (1 - brown) * color[2] + brown * 0.6 * bark,
            )
    else:
        c, s = boxes[number, 4], boxes[number, 5]
        x, y = x - boxes[number, 0], y - boxes[number, 1]
        u, v = c * x + s * y, c * y - s * x
        if z > _roof_height(boxes, number, u, v) - 0.02:
            e = 0.01
            nu = (_roof_height(boxes, number, u - e, v) - _roof_height(boxes, number, u + e, v)) / (2 * e)
            nv = (_roof_height(boxes, number, u, v - e) - _roof_height(boxes, number, u, v + e)) / (2 * e)
            nz, color = 1.0, _roof_albedo(boxes, number, u, v, seed)
        else:
            on_u = boxes[number, 2] - abs(u) < boxes[number, 3] - abs(v)
            nu, nv = (math.copysign(1.0, u), 0.0) if on_u else (0.0, math.copysign(1.0, v))
            nz, color = 0.0, _wall_albedo(boxes, number, u, v, z, seed)
        nx, ny = c * nu - s * nv, s * nu + c * nv
    length = math.sqrt(nx * nx + ny * ny + nz * nz)
    return color, (nx / length, ny / length, nz / length)


@njit(**JIT)
def _shade_ray(ox, oy, oz, dx, dy, dz, sun, boxes, trees, slope, first, items, tops, misc):
    """Light along a ray, and the distance and class of the surface that it hits (-1: none)."""
    ground = _hit_ground(ox, oy, oz, dx, dy, dz, slope, _FAR_M)
    t, kind, number = _cast_ray(ox, oy, oz, dx, dy, dz, ground, 0.0, boxes, trees, first, items, tops, misc)
    if kind < 0 and t >= _FAR_M:
        return SKY_COLOR, t, kind
    kind = max(kind, GROUND)
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    if kind == GROUND and slope[9] > 0 and pond_radius(x, y, slope) < 1.0:
        return (misc[5], misc[6], misc[7]), t, WATER  # reflects the sky: neither texture nor shadows
    color, (nx, ny, nz) = _albedo_normal(x, y, z, kind, number, boxes, trees, slope, misc)
    sx, sy, sz = sun[0], sun[1], sun[2]
    facing = nx * sx + ny * sy + nz * sz
    light = misc[4] * (0.6 + 0.4 * nz)
    if facing > 0:
        x, y, z = x + 0.03 * nx + 0.01 * sx, y + 0.03 * ny + 0.01 * sy, z + 0.03 * nz + 0.01 * sz
        if _cast_ray(x, y, z, sx, sy, sz, _FAR_M, _FAR_M, boxes, trees, first, items, tops, misc)[1] < 0:
            light += SUN * facing
    return (color[0] * light, color[1] * light, color[2] * light), t, kind


@njit(**JIT)
def _interpolate_grid(grid, x, y):
    """Interpolate a grid of points [r, c, 3] at column x and row y."""
    i, j = min(int(y), grid.shape[0] - 2), min(int(x), grid.shape[1] - 2)
    fx, fy = x - j, y - i
    a, b, c, d = (1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy
    return (
        a * grid[i, j, 0] + b * grid[i, j + 1, 0] + c * grid[i + 1, j, 0] + d * grid[i + 1, j + 1, 0],
        a * grid[i, j, 1] + b * grid[i, j + 1, 1] + c * grid[i + 1, j, 1] + d * grid[i + 1, j + 1, 1],
        a * grid[i, j, 2] + b * grid[i, j + 1, 2] + c * grid[i + 1, j, 2] + d * grid[i + 1, j + 1, 2],
    )


@njit(cache=True, **JIT)
def render_rows(rows, high, low, step, samples, sun, image, hits, boxes, trees, slope, first, items, tops, misc):
    """Render rows (from, to): light to `image` [h, w, 3]; the distance and class of the surface hit by a pixel's last
    sample to `hits` [h, w, 2]. Lines of sight go from `high` to `low`, given at every `step`-th pixel corner."""
    count = samples * samples
    for row in range(rows[0], rows[1]):
        for column in range(image.shape[1]):
            red, green, blue, t, kind = 0.0, 0.0, 0.0, 0.0, 0
            for k in range(count):
                x, y = (column + (k % samples + 0.5) / samples) / step, (row + (k // samples + 0.5) / samples) / step
                (ox, oy, oz), (bx, by, bz) = _interpolate_grid(high, x, y), _interpolate_grid(low, x, y)
                dx, dy, dz = bx - ox, by - oy, bz - oz
                scale = 1 / math.sqrt(dx * dx + dy * dy + dz * dz)
                light, t, kind = _shade_ray(
                    ox, oy, oz, dx * scale, dy * scale, dz * scale, sun, boxes, trees, slope, first, items, tops, misc
                )
                red, green, blue = red + light[0], green + light[1], blue + light[2]
            image[row, column, 0], image[row, column, 1], image[row, column, 2] = (
                red / count,
                green / count,
                blue / count,
            )
            hits[row, column, 0], hits[row, column, 1] = t, kind
