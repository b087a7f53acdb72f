"""Projection of Gaussians to footprints: gsplat's antialiased projection, sixteen Gaussians at a time.

Positions are summed in float64; the rest is float32, in forms without cancellation.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import math

import numpy as np
from numba import prange

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.rasterizers.cpu_footprint import FOOTPRINT_SIZE
from skyfall_ns.models.rasterizers.cpu_tiles import NUM_CHUNKS, count_tiles
from skyfall_ns.models.rasterizers.lanes import (
    LANE_COUNT,
    affine_sum,
    broadcast,
    ceil,
    floor,
    log2,
    maximum,
    minimum,
    select_lanes,
    square_root,
)
from skyfall_ns.models.rasterizers.lanes_memory import (
    claim_next,
    load_lanes,
    load_rows_of_3,
    load_rows_of_4,
    store_columns,
    store_integers,
    store_rows_of_2,
)

HALF_LOG2E = 0.5 * math.log2(math.e)
ALPHA_MIN = 1.0 / 255.0


@njit(cache=True, forceinline=True)
def rotation_matrix(w, x, y, z):
    """Rotation matrix (three rows) of a unit quaternion."""
    return (
        (1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y - w * z), 2.0 * (x * z + w * y)),
        (2.0 * (x * y + w * z), 1.0 - 2.0 * (x * x + z * z), 2.0 * (y * z - w * x)),
        (2.0 * (x * z - w * y), 2.0 * (y * z + w * x), 1.0 - 2.0 * (x * x + y * y)),
    )


@njit(cache=True, forceinline=True)
def normalize_quaternion(q):
    """The normalized quaternion, and the inverse of its length."""
    length = square_root(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    inverse = 1.0 / maximum(length, 1e-12)
    return q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse, inverse


@njit(cache=True, forceinline=True)
def camera_point(A, m):
    """Points in camera coordinates, summed in float64."""
    return (
        affine_sum(A[0, 0], A[0, 1], A[0, 2], A[0, 3], m[0], m[1], m[2]),
        affine_sum(A[1, 0], A[1, 1], A[1, 2], A[1, 3], m[0], m[1], m[2]),
        affine_sum(A[2, 0], A[2, 1], A[2, 2], A[2, 3], m[0], m[1], m[2]),
    )


@njit(cache=True, forceinline=True)
def clamped_slopes(x, y, inverse, k):
    """x / z and y / z, clamped to the image with a margin."""
    return minimum(maximum(x * inverse, -k[4]), k[5]), minimum(maximum(y * inverse, -k[6]), k[7])


@njit(cache=True, forceinline=True)
def image_axes(A, k, pinhole, x, y, inverse):
    """Jacobian d pixel / d model: two rows of three. `inverse` is 1 / z."""
    if not pinhole:
        return (
            (broadcast(k[0] * A[0, 0]), broadcast(k[0] * A[0, 1]), broadcast(k[0] * A[0, 2])),
            (broadcast(k[1] * A[1, 0]), broadcast(k[1] * A[1, 1]), broadcast(k[1] * A[1, 2])),
        )
    sx, sy = clamped_slopes(x, y, inverse, k)
    jx, jy = inverse * k[0], inverse * k[1]
    return (
        (jx * (A[0, 0] - sx * A[2, 0]), jx * (A[0, 1] - sx * A[2, 1]), jx * (A[0, 2] - sx * A[2, 2])),
        (jy * (A[1, 0] - sy * A[2, 0]), jy * (A[1, 1] - sy * A[2, 1]), jy * (A[1, 2] - sy * A[2, 2])),
    )


@njit(cache=True, forceinline=True)
def footprint_axes(w, R, s):
    """One image coordinate of a Gaussian's three scaled axes; `w` is a row of the Jacobian."""
    return (
        (w[0] * R[0][0] + w[1] * R[1][0] + w[2] * R[2][0]) * s[0],
        (w[0] * R[0][1] + w[1] * R[1][1] + w[2] * R[2][1]) * s[1],
        (w[0] * R[0][2] + w[1] * R[1][2] + w[2] * R[2][2]) * s[2],
    )


@njit(cache=True, forceinline=True)
def projected_covariance(p, q, eps):
    """(a, b, c) without and (a, c) with eps on the diagonal, and both determinants, as |p x q|² (no cancellation)."""
    a = p[0] * p[0] + p[1] * p[1] + p[2] * p[2]
    b = p[0] * q[0] + p[1] * q[1] + p[2] * q[2]
    c = q[0] * q[0] + q[1] * q[1] + q[2] * q[2]
    cross_x = p[1] * q[2] - p[2] * q[1]
    cross_y = p[2] * q[0] - p[0] * q[2]
    cross_z = p[0] * q[1] - p[1] * q[0]
    det0 = cross_x * cross_x + cross_y * cross_y + cross_z * cross_z
    return a, b, c, a + eps, c + eps, det0, det0 + eps * (a + c) + eps * eps


@njit(cache=True, forceinline=True)
def _pixel_span(center, extent, radius, size):
    """First and last pixel that the ellipse may reach, inside the 16 px tiles that the 3 sigma square touches (gsplat's
    rule)."""
    first = maximum(ceil(center - extent - 0.5), floor((center - radius) * 0.0625) * 16.0)
    last = minimum(floor(center + extent - 0.5), ceil((center + radius) * 0.0625) * 16.0 - 1.0)
    return maximum(first, 0.0), minimum(last, size - 1.0)


@njit(cache=True, forceinline=True)
def _project_group(
    means, quats, scales, opacities, colors, A, k, pinhole, width, height, eps, near, far, i, out, radii, centers
):
    """Project the sixteen Gaussians from index i on."""
    x, y, z = camera_point(A, load_rows_of_3(means, 3 * i))
    visible = (z > near) & (z < far)
    inverse = 1.0 / select_lanes(visible, z, 1.0)
    qw, qx, qy, qz, _ = normalize_quaternion(load_rows_of_4(quats, 4 * i))
    w0, w1 = image_axes(A, k, pinhole, x, y, inverse)
    R, s = rotation_matrix(qw, qx, qy, qz), load_rows_of_3(scales, 3 * i)
    _, b, _, a, c, det0, det = projected_covariance(footprint_axes(w0, R, s), footprint_axes(w1, R, s), eps)
    mean, half = 0.5 * (a + c), 0.5 * (a - c)
    largest = mean + square_root(maximum(half * half + b * b, 0.01))
    radius = ceil(3.0 * square_root(largest))
    if pinhole:
        x, y = x * inverse, y * inverse
    mx, my = x * k[0] + k[2], y * k[1] + k[3]
    visible = visible & (mx + radius > 0.0) & (mx - radius < width) & (my + radius > 0.0) & (my - radius < height)
    store_integers(radii, i, select_lanes(visible, minimum(radius, 1e9), 0.0))
    store_rows_of_2(centers, 2 * i, select_lanes(visible, mx, 0.0), select_lanes(visible, my, 0.0))
    opacity = load_lanes(opacities, i) * square_root(det0 / det)
    blended = visible & (opacity >= ALPHA_MIN)
    cutoff = log2(select_lanes(blended, opacity, 1.0) * (1.0 / ALPHA_MIN))
    extent = square_root(cutoff * (1.0 / HALF_LOG2E)) * 1.000001
    x0, x1 = _pixel_span(mx, extent * square_root(a), radius, width)
    y0, y1 = _pixel_span(my, extent * square_root(c), radius, height)
    blended = blended & (x1 >= x0) & (y1 >= y0)
    k1 = square_root(HALF_LOG2E * c / det)
    if colors.shape[1] == 4:
        red, green, blue, fourth = load_rows_of_4(colors, 4 * i)
    else:
        red, green, blue = load_rows_of_3(colors, 3 * i)
        fourth = broadcast(0.0)
    store_columns(
        out,
        FOOTPRINT_SIZE * i,
        (
            mx, my, k1, -HALF_LOG2E * b / (det * k1), square_root(HALF_LOG2E / c), opacity, z, cutoff, red, green,
            blue, select_lanes(blended, floor(x0 * 0.25), 0.0), select_lanes(blended, floor(y0 * 0.25), 0.0),
            select_lanes(blended, floor(x1 * 0.25), -1.0), select_lanes(blended, floor(y1 * 0.25), -1.0), fourth,
        ),
    )  # fmt: skip


@njit(cache=True)
def _project_chunks(
    counter, means, quats, scales, opacities, colors, A, k, pinhole, width, height, eps, near, far, columns, out, radii,
    centers, histogram,
):  # fmt: skip
    groups = (means.shape[0] + LANE_COUNT - 1) // LANE_COUNT
    chunk = claim_next(counter)
    while chunk < NUM_CHUNKS:
        histogram[chunk] = 0
        for group in range(groups * chunk // NUM_CHUNKS, groups * (chunk + 1) // NUM_CHUNKS):
            i = min(group * LANE_COUNT, means.shape[0] - LANE_COUNT)
            _project_group(
                means, quats, scales, opacities, colors, A, k, pinhole, np.float64(width), np.float64(height), eps,
                near, far, i, out, radii, centers,
            )  # fmt: skip
            count_tiles(out, group * LANE_COUNT, i + LANE_COUNT, columns, histogram, chunk)
        chunk = claim_next(counter)


@njit(parallel=True, cache=True)
def project_forward(
    threads, means, quats, scales, opacities, colors, A, k, pinhole, width, height, eps, near, far, columns, out, radii,
    centers, histogram,
):  # fmt: skip
    """Project all Gaussians: fill footprints [n, 16], radii [n] (0: not in this view), centers [n, 2] (0 there), and
    per (chunk, tile) the counts of records and of pairs. n is at least 16: the last group overlaps the one before."""
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        _project_chunks(
            counter, means, quats, scales, opacities, colors, A, k, pinhole, width, height, eps, near, far, columns,
            out, radii, centers, histogram,
        )  # fmt: skip
