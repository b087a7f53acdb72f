"""Gaussians to footprints on the image: gsplat's antialiased projection, sixteen Gaussians at a time.

Positions are summed in float64; the rest is float32 in forms that do not cancel.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import math

import numpy as np
from numba import njit, prange

from skyfall_ns.models.rasterizers.cpu_footprint import FOOTPRINT
from skyfall_ns.models.rasterizers.cpu_tiles import CHUNKS, count_tiles
from skyfall_ns.models.rasterizers.lanes import (
    WIDTH,
    affine,
    ceil,
    choose,
    floor,
    log2,
    maximum,
    minimum,
    splat,
    square_root,
)
from skyfall_ns.models.rasterizers.lanes_memory import (
    claim,
    load,
    load3,
    load4,
    store2,
    store_columns,
    store_integers,
)

HALF_LOG2E = 0.5 * math.log2(math.e)
ALPHA_MIN = 1.0 / 255.0


@njit(cache=True, forceinline=True)
def rotation(w, x, y, z):
    return (
        (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)),
        (2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)),
        (2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)),
    )


@njit(cache=True, forceinline=True)
def unit(q):
    """A quaternion of length one, and one over its length."""
    length = square_root(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    inverse = 1.0 / maximum(length, 1e-12)
    return q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse, inverse


@njit(cache=True, forceinline=True)
def camera_point(A, m):
    return (
        affine(A[0, 0], A[0, 1], A[0, 2], A[0, 3], m[0], m[1], m[2]),
        affine(A[1, 0], A[1, 1], A[1, 2], A[1, 3], m[0], m[1], m[2]),
        affine(A[2, 0], A[2, 1], A[2, 2], A[2, 3], m[0], m[1], m[2]),
    )


@njit(cache=True, forceinline=True)
def slopes(x, y, inverse, k):
    """x / z and y / z clamped to the picture's surroundings."""
    return minimum(maximum(x * inverse, -k[4]), k[5]), minimum(maximum(y * inverse, -k[6]), k[7])


@njit(cache=True, forceinline=True)
def image_axes(A, k, pinhole, x, y, inverse):
    """d pixel / d model: two rows of three. `inverse` is 1 / z."""
    if not pinhole:
        return (
            (splat(k[0] * A[0, 0]), splat(k[0] * A[0, 1]), splat(k[0] * A[0, 2])),
            (splat(k[1] * A[1, 0]), splat(k[1] * A[1, 1]), splat(k[1] * A[1, 2])),
        )
    sx, sy = slopes(x, y, inverse, k)
    jx, jy = inverse * k[0], inverse * k[1]
    return (
        (jx * (A[0, 0] - sx * A[2, 0]), jx * (A[0, 1] - sx * A[2, 1]), jx * (A[0, 2] - sx * A[2, 2])),
        (jy * (A[1, 0] - sy * A[2, 0]), jy * (A[1, 1] - sy * A[2, 1]), jy * (A[1, 2] - sy * A[2, 2])),
    )


@njit(cache=True, forceinline=True)
def footprint_axes(w, R, s):
    """The image of a Gaussian's three axes, one row of `w` at a time."""
    return (
        (w[0] * R[0][0] + w[1] * R[1][0] + w[2] * R[2][0]) * s[0],
        (w[0] * R[0][1] + w[1] * R[1][1] + w[2] * R[2][1]) * s[1],
        (w[0] * R[0][2] + w[1] * R[1][2] + w[2] * R[2][2]) * s[2],
    )


@njit(cache=True, forceinline=True)
def covariance(p, q, eps):
    """(a, b, c) without and (a, c) with eps on the diagonal, and both determinants; |p x q|² does not cancel."""
    a = p[0] * p[0] + p[1] * p[1] + p[2] * p[2]
    b = p[0] * q[0] + p[1] * q[1] + p[2] * q[2]
    c = q[0] * q[0] + q[1] * q[1] + q[2] * q[2]
    x = p[1] * q[2] - p[2] * q[1]
    y = p[2] * q[0] - p[0] * q[2]
    z = p[0] * q[1] - p[1] * q[0]
    before = x * x + y * y + z * z
    return a, b, c, a + eps, c + eps, before, before + eps * (a + c) + eps * eps


@njit(cache=True, forceinline=True)
def _span(centre, extent, radius, size):
    """First and last pixel that the ellipse may reach, inside the 16 px tiles that the 3 sigma square touches (gsplat's
    rule)."""
    first = maximum(ceil(centre - extent - 0.5), floor((centre - radius) * 0.0625) * 16.0)
    last = minimum(floor(centre + extent - 0.5), ceil((centre + radius) * 0.0625) * 16.0 - 1.0)
    return maximum(first, 0.0), minimum(last, size - 1.0)


@njit(cache=True, forceinline=True)
def _project_group(
    means, quats, scales, opacities, colors, A, k, pinhole, width, height, eps, near, far, i, out, radii, centres
):
    """Footprints of the sixteen Gaussians from i on."""
    x, y, z = camera_point(A, load3(means, 3 * i))
    seen = (z > near) & (z < far)
    inverse = 1.0 / choose(seen, z, 1.0)
    qw, qx, qy, qz, _ = unit(load4(quats, 4 * i))
    w0, w1 = image_axes(A, k, pinhole, x, y, inverse)
    R, s = rotation(qw, qx, qy, qz), load3(scales, 3 * i)
    _, b, _, a, c, before, after = covariance(footprint_axes(w0, R, s), footprint_axes(w1, R, s), eps)
    middle, half = 0.5 * (a + c), 0.5 * (a - c)
    largest = middle + square_root(maximum(half * half + b * b, 0.01))
    radius = ceil(3.0 * square_root(largest))
    if pinhole:
        x, y = x * inverse, y * inverse
    mx, my = x * k[0] + k[2], y * k[1] + k[3]
    seen = seen & (mx + radius > 0.0) & (mx - radius < width) & (my + radius > 0.0) & (my - radius < height)
    store_integers(radii, i, choose(seen, minimum(radius, 1e9), 0.0))
    store2(centres, 2 * i, choose(seen, mx, 0.0), choose(seen, my, 0.0))
    opacity = load(opacities, i) * square_root(before / after)
    drawn = seen & (opacity >= ALPHA_MIN)
    reach = log2(choose(drawn, opacity, 1.0) * (1.0 / ALPHA_MIN))
    extent = square_root(reach * (1.0 / HALF_LOG2E)) * 1.000001
    x0, x1 = _span(mx, extent * square_root(a), radius, width)
    y0, y1 = _span(my, extent * square_root(c), radius, height)
    drawn = drawn & (x1 >= x0) & (y1 >= y0)
    k1 = square_root(HALF_LOG2E * c / after)
    if colors.shape[1] == 4:
        red, green, blue, fourth = load4(colors, 4 * i)
    else:
        red, green, blue = load3(colors, 3 * i)
        fourth = splat(0.0)
    store_columns(
        out,
        FOOTPRINT * i,
        (
            mx, my, k1, -HALF_LOG2E * b / (after * k1), square_root(HALF_LOG2E / c), opacity, z, reach, red, green,
            blue, choose(drawn, floor(x0 * 0.25), 0.0), choose(drawn, floor(y0 * 0.25), 0.0),
            choose(drawn, floor(x1 * 0.25), -1.0), choose(drawn, floor(y1 * 0.25), -1.0), fourth,
        ),
    )  # fmt: skip


@njit(cache=True)
def _project_chunks(
    counter, means, quats, scales, opacities, colors, A, k, pinhole, width, height, eps, near, far, columns, out, radii,
    centres, histogram,
):  # fmt: skip
    groups = (means.shape[0] + WIDTH - 1) // WIDTH
    chunk = claim(counter)
    while chunk < CHUNKS:
        histogram[chunk] = 0
        for group in range(groups * chunk // CHUNKS, groups * (chunk + 1) // CHUNKS):
            i = min(group * WIDTH, means.shape[0] - WIDTH)
            _project_group(
                means, quats, scales, opacities, colors, A, k, pinhole, np.float64(width), np.float64(height), eps,
                near, far, i, out, radii, centres,
            )  # fmt: skip
            count_tiles(out, group * WIDTH, i + WIDTH, columns, histogram, chunk)
        chunk = claim(counter)


@njit(parallel=True, cache=True)
def project(
    threads, means, quats, scales, opacities, colors, A, k, pinhole, width, height, eps, near, far, columns, out, radii,
    centres, histogram,
):  # fmt: skip
    """Fill footprints [n, 16], radii [n] (0: not in this view), centres [n, 2] (0 there), and per (chunk, tile) the
    number of records and of pairs. n is at least 16: the last group overlaps the one before."""
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        _project_chunks(
            counter, means, quats, scales, opacities, colors, A, k, pinhole, width, height, eps, near, far, columns,
            out, radii, centres, histogram,
        )  # fmt: skip
