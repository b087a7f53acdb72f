"""Gradients of the projection: from the summed records of the tiles to the parameters, sixteen Gaussians at a time.

With K = ((k1, k2), (0, k3)) and w = K d, d a pixel's offset: cov^-1 d = 2 ln 2 Kᵀ w. So the gradients of center and
covariance are products of K with the records' moments of w, without an inverse.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import numpy as np
from numba import prange

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.rasterizers.cpu_blend_back import (
    RECORD_SIZE,
    S_BLUE,
    S_DEPTH,
    S_FOURTH,
    S_GREEN,
    S_OPACITY,
    S_RED,
    S_U,
    S_UU,
    S_UV,
    S_V,
    S_VV,
    S_X,
    S_Y,
    TWO_LN2,
)
from skyfall_ns.models.rasterizers.cpu_footprint import FOOTPRINT_SIZE, K1, K2, K3
from skyfall_ns.models.rasterizers.cpu_project import (
    camera_point,
    footprint_axes,
    image_axes,
    normalize_quaternion,
    projected_covariance,
    rotation_matrix,
)
from skyfall_ns.models.rasterizers.cpu_tiles import NUM_CHUNKS
from skyfall_ns.models.rasterizers.lanes import (
    LANE_COUNT,
    broadcast,
    select_lanes,
    square_root,
)
from skyfall_ns.models.rasterizers.lanes_memory import (
    aligned_empty,
    claim_next,
    load_columns,
    load_lanes,
    load_rows_of_3,
    load_rows_of_4,
    store_lanes,
    store_rows_of_2,
    store_rows_of_3,
    store_rows_of_4,
)


@njit(cache=True, forceinline=True)
def _sum_records(records, first_record, i, sums, counts):
    """Sum the records of the Gaussians i .. i + 15 into `sums` [16, 16]; `counts` gets their numbers."""
    for lane in range(LANE_COUNT):
        first, last = first_record[i + lane], first_record[i + lane + 1]
        total = broadcast(0.0)
        for record in range(first, last):
            total = total + load_lanes(records, record * RECORD_SIZE)
        store_lanes(sums, lane * RECORD_SIZE, total)
        counts[lane] = last - first


@njit(cache=True, forceinline=True)
def _covariance_gradient(k1, k2, k3, s, a0, b, c0, a, c, det0, det, eps, opacity):
    """dL/d(a, b, c) of the widened covariance, from the moments and from the compensated opacity."""
    xx = k1 * k1 * s[S_UU]
    xy = k1 * (k2 * s[S_UU] + k3 * s[S_UV])
    yy = k2 * (k2 * s[S_UU] + 2.0 * k3 * s[S_UV]) + k3 * k3 * s[S_VV]
    factor = TWO_LN2 * TWO_LN2
    # compensation² = det0 / det; its derivatives in forms without cancellation
    half = 0.5 * s[S_OPACITY] * opacity / (square_root(det0 / det) + 1e-6)
    eps_term = half * eps / (det * det)
    da = (0.5 * factor) * xx + eps_term * (c * c0 + b * b)
    db = factor * xy - 2.0 * eps_term * b * (a0 + c)
    dc = (0.5 * factor) * yy + eps_term * (a * a0 + b * b)
    return da, db, dc


@njit(cache=True, forceinline=True)
def _quaternion_gradient(w, x, y, z, inverse, d):
    """Gradient of a raw quaternion from dL/dR, through the normalization."""
    gw = 2.0 * (x * (d[2][1] - d[1][2]) + y * (d[0][2] - d[2][0]) + z * (d[1][0] - d[0][1]))
    gx = 2.0 * (
        y * (d[0][1] + d[1][0]) + z * (d[0][2] + d[2][0]) + w * (d[2][1] - d[1][2]) - 2.0 * x * (d[1][1] + d[2][2])
    )
    gy = 2.0 * (
        x * (d[0][1] + d[1][0]) + z * (d[1][2] + d[2][1]) + w * (d[0][2] - d[2][0]) - 2.0 * y * (d[0][0] + d[2][2])
    )
    gz = 2.0 * (
        x * (d[0][2] + d[2][0]) + y * (d[1][2] + d[2][1]) + w * (d[1][0] - d[0][1]) - 2.0 * z * (d[0][0] + d[1][1])
    )
    radial = gw * w + gx * x + gy * y + gz * z
    return (
        (gw - radial * w) * inverse,
        (gx - radial * x) * inverse,
        (gy - radial * y) * inverse,
        (gz - radial * z) * inverse,
    )


@njit(cache=True, forceinline=True)
def _axis_gradient(w0, w1, d_axes):
    """w0 d_axes[0] + w1 d_axes[1]: gradient of one model coordinate of a Gaussian's three axes."""
    return (
        w0 * d_axes[0][0] + w1 * d_axes[1][0],
        w0 * d_axes[0][1] + w1 * d_axes[1][1],
        w0 * d_axes[0][2] + w1 * d_axes[1][2],
    )


@njit(cache=True, forceinline=True)
def _column_dot(m, R, column):
    """Dot product of one column of two matrices."""
    return m[0][column] * R[0][column] + m[1][column] * R[1][column] + m[2][column] * R[2][column]


@njit(cache=True, forceinline=True)
def _pinhole_gradient(A, k, x, y, inverse, dp, R, s, dmx, dmy):
    """dL/d(camera point) of a pinhole, through the center and through the Jacobian."""
    j0, j1, j2, j3 = broadcast(0.0), broadcast(0.0), broadcast(0.0), broadcast(0.0)  # dL/d(j00, j02, j11, j12)
    for column in range(3):
        m0, m1, m2 = R[0][column] * s[column], R[1][column] * s[column], R[2][column] * s[column]
        row0 = A[0, 0] * m0 + A[0, 1] * m1 + A[0, 2] * m2
        row1 = A[1, 0] * m0 + A[1, 1] * m1 + A[1, 2] * m2
        row2 = A[2, 0] * m0 + A[2, 1] * m1 + A[2, 2] * m2
        j0, j1 = j0 + dp[0][column] * row0, j1 + dp[0][column] * row2
        j2, j3 = j2 + dp[1][column] * row1, j3 + dp[1][column] * row2
    tx, ty = x * inverse, y * inverse
    inside_x, inside_y = (tx > -k[4]) & (tx < k[5]), (ty > -k[6]) & (ty < k[7])
    sx = select_lanes(tx > -k[4], select_lanes(tx < k[5], tx, k[5]), -k[4])
    sy = select_lanes(ty > -k[6], select_lanes(ty < k[7], ty, k[7]), -k[6])
    fx, fy = inverse * k[0], inverse * k[1]
    # j00 = fx / z, j02 = -fx sx / z with sx = x / z where it is not clamped
    slope_x, slope_y = select_lanes(inside_x, fx * inverse * j1, 0.0), select_lanes(inside_y, fy * inverse * j3, 0.0)
    dz = -(fx * tx * dmx + fy * ty * dmy) - (fx * j0 + fy * j2) * inverse
    dz = dz + (fx * sx * j1 + fy * sy * j3) * inverse + sx * slope_x + sy * slope_y
    return fx * dmx - slope_x, fy * dmy - slope_y, dz


@njit(cache=True, forceinline=True)
def _group_gradients(
    means, quats, scales, opacities, A, k, pinhole, eps, footprints, i, s, counts,
    d_means, d_quats, d_scales, d_opacities, d_colors, d_centers, absolute,
):  # fmt: skip
    """Write the gradients of the sixteen Gaussians from index i on; `s` are their summed records."""
    visible = load_lanes(counts, 0) > 0.0
    x, y, z = camera_point(A, load_rows_of_3(means, 3 * i))
    inverse = 1.0 / select_lanes(visible, z, 1.0)
    qw, qx, qy, qz, length = normalize_quaternion(load_rows_of_4(quats, 4 * i))
    R, scale = rotation_matrix(qw, qx, qy, qz), load_rows_of_3(scales, 3 * i)
    w = image_axes(A, k, pinhole, x, y, inverse)
    p, q = footprint_axes(w[0], R, scale), footprint_axes(w[1], R, scale)
    a0, b, c0, a, c, det0, det = projected_covariance(p, q, eps)
    f = load_columns(footprints, FOOTPRINT_SIZE * i)
    k1, k2, k3 = f[K1], f[K2], f[K3]
    da, db, dc = _covariance_gradient(k1, k2, k3, s, a0, b, c0, a, c, det0, det, eps, load_lanes(opacities, i))
    dmx, dmy = TWO_LN2 * (k1 * s[S_U]), TWO_LN2 * (k2 * s[S_U] + k3 * s[S_V])
    dp = (
        (2.0 * da * p[0] + db * q[0], 2.0 * da * p[1] + db * q[1], 2.0 * da * p[2] + db * q[2]),
        (2.0 * dc * q[0] + db * p[0], 2.0 * dc * q[1] + db * p[1], 2.0 * dc * q[2] + db * p[2]),
    )
    m = _axis_gradient(w[0][0], w[1][0], dp), _axis_gradient(w[0][1], w[1][1], dp), _axis_gradient(w[0][2], w[1][2], dp)
    store_rows_of_3(
        d_scales, 3 * i,
        select_lanes(visible, _column_dot(m, R, 0), 0.0),
        select_lanes(visible, _column_dot(m, R, 1), 0.0),
        select_lanes(visible, _column_dot(m, R, 2), 0.0),
    )  # fmt: skip
    dr = (
        (m[0][0] * scale[0], m[0][1] * scale[1], m[0][2] * scale[2]),
        (m[1][0] * scale[0], m[1][1] * scale[1], m[1][2] * scale[2]),
        (m[2][0] * scale[0], m[2][1] * scale[1], m[2][2] * scale[2]),
    )
    dq = _quaternion_gradient(qw, qx, qy, qz, length, dr)
    store_rows_of_4(
        d_quats, 4 * i,
        select_lanes(visible, dq[0], 0.0),
        select_lanes(visible, dq[1], 0.0),
        select_lanes(visible, dq[2], 0.0),
        select_lanes(visible, dq[3], 0.0),
    )  # fmt: skip
    dx, dy, dz = dmx * k[0], dmy * k[1], s[S_DEPTH]
    if pinhole:
        px, py, pz = _pinhole_gradient(A, k, x, y, inverse, dp, R, scale, dmx, dmy)
        dx, dy, dz = px, py, dz + pz
    store_rows_of_3(
        d_means, 3 * i,
        select_lanes(visible, A[0, 0] * dx + A[1, 0] * dy + A[2, 0] * dz, 0.0),
        select_lanes(visible, A[0, 1] * dx + A[1, 1] * dy + A[2, 1] * dz, 0.0),
        select_lanes(visible, A[0, 2] * dx + A[1, 2] * dy + A[2, 2] * dz, 0.0),
    )  # fmt: skip
    store_lanes(d_opacities, i, select_lanes(visible, s[S_OPACITY] * square_root(det0 / det), 0.0))
    if d_colors.shape[1] == 4:
        store_rows_of_4(d_colors, 4 * i, s[S_RED], s[S_GREEN], s[S_BLUE], s[S_FOURTH])
    else:
        store_rows_of_3(d_colors, 3 * i, s[S_RED], s[S_GREEN], s[S_BLUE])
    store_rows_of_2(d_centers, 2 * i, select_lanes(visible, dmx, 0.0), select_lanes(visible, dmy, 0.0))
    if absolute.shape[0]:
        store_rows_of_2(absolute, 2 * i, TWO_LN2 * s[S_X], TWO_LN2 * s[S_Y])


@njit(cache=True)
def _backward_chunks(
    counter, means, quats, scales, opacities, A, k, pinhole, eps, footprints, first_record, records,
    d_means, d_quats, d_scales, d_opacities, d_colors, d_centers, absolute,
):  # fmt: skip
    n = means.shape[0]
    groups = (n + LANE_COUNT - 1) // LANE_COUNT
    sums, counts = aligned_empty(LANE_COUNT * RECORD_SIZE), aligned_empty(LANE_COUNT)
    chunk = claim_next(counter)
    while chunk < NUM_CHUNKS:
        for group in range(groups * chunk // NUM_CHUNKS, groups * (chunk + 1) // NUM_CHUNKS):
            i = min(group * LANE_COUNT, n - LANE_COUNT)
            _sum_records(records, first_record, i, sums, counts)
            _group_gradients(
                means, quats, scales, opacities, A, k, pinhole, eps, footprints, i, load_columns(sums, 0), counts,
                d_means, d_quats, d_scales, d_opacities, d_colors, d_centers, absolute,
            )  # fmt: skip
        chunk = claim_next(counter)


@njit(parallel=True, cache=True)
def project_backward(
    threads, means, quats, scales, opacities, A, k, pinhole, eps, footprints, first_record, records,
    d_means, d_quats, d_scales, d_opacities, d_colors, d_centers, absolute,
):  # fmt: skip
    """Fill the gradients of means, quaternions, scales, opacities, colors [n, 3 or 4] and centers [n, 2].

    `absolute` [n, 2] (or [0, 2]: not wanted) gets the sums of absolute pixel gradients. n is at least 16."""
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        _backward_chunks(
            counter, means, quats, scales, opacities, A, k, pinhole, eps, footprints, first_record, records,
            d_means, d_quats, d_scales, d_opacities, d_colors, d_centers, absolute,
        )  # fmt: skip
