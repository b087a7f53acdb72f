"""Gradients of the projection: the tiles' records added up and carried to the parameters, sixteen Gaussians at a time.

With K = ((k1, k2), (0, k3)) and w = K d, d a pixel's offset: cov^-1 d = 2 ln 2 Kᵀ w. So the gradients of centre and
covariance are products of K with the records' moments of w, without an inverse.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import numpy as np
from numba import njit, prange

from skyfall_ns.models.rasterizers.cpu_blend_back import (
    RECORD,
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
from skyfall_ns.models.rasterizers.cpu_footprint import FOOTPRINT, K1, K2, K3
from skyfall_ns.models.rasterizers.cpu_project import (
    camera_point,
    covariance,
    footprint_axes,
    image_axes,
    rotation,
    unit,
)
from skyfall_ns.models.rasterizers.cpu_tiles import CHUNKS
from skyfall_ns.models.rasterizers.lanes import (
    WIDTH,
    choose,
    splat,
    square_root,
)
from skyfall_ns.models.rasterizers.lanes_memory import (
    claim,
    load,
    load3,
    load4,
    load_columns,
    room,
    store,
    store2,
    store3,
    store4,
)


@njit(cache=True, forceinline=True)
def _add_up(records, first_record, i, sums, counts):
    """Sums [16, 16] of the records of the Gaussians i .. i + 15, and how many there are."""
    for lane in range(WIDTH):
        first, last = first_record[i + lane], first_record[i + lane + 1]
        total = splat(0.0)
        for record in range(first, last):
            total = total + load(records, record * RECORD)
        store(sums, lane * RECORD, total)
        counts[lane] = last - first


@njit(cache=True, forceinline=True)
def _covariance_gradient(k1, k2, k3, s, a0, b, c0, a, c, before, after, eps, opacity):
    """dL/d(a, b, c) of the widened covariance, from the moments and from the compensated opacity."""
    xx = k1 * k1 * s[S_UU]
    xy = k1 * (k2 * s[S_UU] + k3 * s[S_UV])
    yy = k2 * (k2 * s[S_UU] + 2.0 * k3 * s[S_UV]) + k3 * k3 * s[S_VV]
    factor = TWO_LN2 * TWO_LN2
    # compensation² = before / after; these forms of its derivatives do not cancel
    half = 0.5 * s[S_OPACITY] * opacity / (square_root(before / after) + 1e-6)
    pull = half * eps / (after * after)
    da = (0.5 * factor) * xx + pull * (c * c0 + b * b)
    db = factor * xy - 2.0 * pull * b * (a0 + c)
    dc = (0.5 * factor) * yy + pull * (a * a0 + b * b)
    return da, db, dc


@njit(cache=True, forceinline=True)
def _quaternion_gradient(w, x, y, z, inverse, d):
    """Gradient of a raw quaternion from dL/dR, through the normalisation."""
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
    along = gw * w + gx * x + gy * y + gz * z
    return (
        (gw - along * w) * inverse,
        (gx - along * x) * inverse,
        (gy - along * y) * inverse,
        (gz - along * z) * inverse,
    )


@njit(cache=True, forceinline=True)
def _along(w, p, v):
    """Row of w0 v0 + w1 v1 for one model axis."""
    return (w * v[0][0] + p * v[1][0], w * v[0][1] + p * v[1][1], w * v[0][2] + p * v[1][2])


@njit(cache=True, forceinline=True)
def _down(m, R, column):
    return m[0][column] * R[0][column] + m[1][column] * R[1][column] + m[2][column] * R[2][column]


@njit(cache=True, forceinline=True)
def _pinhole_gradient(A, k, x, y, inverse, dp, R, s, dmx, dmy):
    """dL/d(camera point) of a pinhole, from the centre and from the Jacobian's change."""
    j0, j1, j2, j3 = splat(0.0), splat(0.0), splat(0.0), splat(0.0)  # dL/d(j00, j02, j11, j12)
    for column in range(3):
        m0, m1, m2 = R[0][column] * s[column], R[1][column] * s[column], R[2][column] * s[column]
        row0 = A[0, 0] * m0 + A[0, 1] * m1 + A[0, 2] * m2
        row1 = A[1, 0] * m0 + A[1, 1] * m1 + A[1, 2] * m2
        row2 = A[2, 0] * m0 + A[2, 1] * m1 + A[2, 2] * m2
        j0, j1 = j0 + dp[0][column] * row0, j1 + dp[0][column] * row2
        j2, j3 = j2 + dp[1][column] * row1, j3 + dp[1][column] * row2
    tx, ty = x * inverse, y * inverse
    inside_x, inside_y = (tx > -k[4]) & (tx < k[5]), (ty > -k[6]) & (ty < k[7])
    sx = choose(tx > -k[4], choose(tx < k[5], tx, k[5]), -k[4])
    sy = choose(ty > -k[6], choose(ty < k[7], ty, k[7]), -k[6])
    fx, fy = inverse * k[0], inverse * k[1]
    # j00 = fx / z, j02 = -fx sx / z with sx = x / z where it is not clamped
    move_x, move_y = choose(inside_x, fx * inverse * j1, 0.0), choose(inside_y, fy * inverse * j3, 0.0)
    dz = -(fx * tx * dmx + fy * ty * dmy) - (fx * j0 + fy * j2) * inverse
    dz = dz + (fx * sx * j1 + fy * sy * j3) * inverse + sx * move_x + sy * move_y
    return fx * dmx - move_x, fy * dmy - move_y, dz


@njit(cache=True, forceinline=True)
def _group_gradients(
    means, quats, scales, opacities, A, k, pinhole, eps, footprints, i, s, counts,
    d_means, d_quats, d_scales, d_opacities, d_colors, d_centres, absolute,
):  # fmt: skip
    seen = load(counts, 0) > 0.0
    x, y, z = camera_point(A, load3(means, 3 * i))
    inverse = 1.0 / choose(seen, z, 1.0)
    qw, qx, qy, qz, length = unit(load4(quats, 4 * i))
    R, scale = rotation(qw, qx, qy, qz), load3(scales, 3 * i)
    w = image_axes(A, k, pinhole, x, y, inverse)
    p, q = footprint_axes(w[0], R, scale), footprint_axes(w[1], R, scale)
    a0, b, c0, a, c, before, after = covariance(p, q, eps)
    f = load_columns(footprints, FOOTPRINT * i)
    k1, k2, k3 = f[K1], f[K2], f[K3]
    da, db, dc = _covariance_gradient(k1, k2, k3, s, a0, b, c0, a, c, before, after, eps, load(opacities, i))
    dmx, dmy = TWO_LN2 * (k1 * s[S_U]), TWO_LN2 * (k2 * s[S_U] + k3 * s[S_V])
    dp = (
        (2.0 * da * p[0] + db * q[0], 2.0 * da * p[1] + db * q[1], 2.0 * da * p[2] + db * q[2]),
        (2.0 * dc * q[0] + db * p[0], 2.0 * dc * q[1] + db * p[1], 2.0 * dc * q[2] + db * p[2]),
    )
    m = _along(w[0][0], w[1][0], dp), _along(w[0][1], w[1][1], dp), _along(w[0][2], w[1][2], dp)
    store3(d_scales, 3 * i, choose(seen, _down(m, R, 0), 0.0), choose(seen, _down(m, R, 1), 0.0),
           choose(seen, _down(m, R, 2), 0.0))  # fmt: skip
    dr = (
        (m[0][0] * scale[0], m[0][1] * scale[1], m[0][2] * scale[2]),
        (m[1][0] * scale[0], m[1][1] * scale[1], m[1][2] * scale[2]),
        (m[2][0] * scale[0], m[2][1] * scale[1], m[2][2] * scale[2]),
    )
    dq = _quaternion_gradient(qw, qx, qy, qz, length, dr)
    store4(d_quats, 4 * i, choose(seen, dq[0], 0.0), choose(seen, dq[1], 0.0), choose(seen, dq[2], 0.0),
           choose(seen, dq[3], 0.0))  # fmt: skip
    dx, dy, dz = dmx * k[0], dmy * k[1], s[S_DEPTH]
    if pinhole:
        px, py, pz = _pinhole_gradient(A, k, x, y, inverse, dp, R, scale, dmx, dmy)
        dx, dy, dz = px, py, dz + pz
    store3(
        d_means, 3 * i,
        choose(seen, A[0, 0] * dx + A[1, 0] * dy + A[2, 0] * dz, 0.0),
        choose(seen, A[0, 1] * dx + A[1, 1] * dy + A[2, 1] * dz, 0.0),
        choose(seen, A[0, 2] * dx + A[1, 2] * dy + A[2, 2] * dz, 0.0),
    )  # fmt: skip
    store(d_opacities, i, choose(seen, s[S_OPACITY] * square_root(before / after), 0.0))
    if d_colors.shape[1] == 4:
        store4(d_colors, 4 * i, s[S_RED], s[S_GREEN], s[S_BLUE], s[S_FOURTH])
    else:
        store3(d_colors, 3 * i, s[S_RED], s[S_GREEN], s[S_BLUE])
    store2(d_centres, 2 * i, choose(seen, dmx, 0.0), choose(seen, dmy, 0.0))
    if absolute.shape[0]:
        store2(absolute, 2 * i, TWO_LN2 * s[S_X], TWO_LN2 * s[S_Y])


@njit(cache=True)
def _back_chunks(
    counter, means, quats, scales, opacities, A, k, pinhole, eps, footprints, first_record, records,
    d_means, d_quats, d_scales, d_opacities, d_colors, d_centres, absolute,
):  # fmt: skip
    n = means.shape[0]
    groups = (n + WIDTH - 1) // WIDTH
    sums, counts = room(WIDTH * RECORD), room(WIDTH)
    chunk = claim(counter)
    while chunk < CHUNKS:
        for group in range(groups * chunk // CHUNKS, groups * (chunk + 1) // CHUNKS):
            i = min(group * WIDTH, n - WIDTH)
            _add_up(records, first_record, i, sums, counts)
            _group_gradients(
                means, quats, scales, opacities, A, k, pinhole, eps, footprints, i, load_columns(sums, 0), counts,
                d_means, d_quats, d_scales, d_opacities, d_colors, d_centres, absolute,
            )  # fmt: skip
        chunk = claim(counter)


@njit(parallel=True, cache=True)
def project_backward(
    threads, means, quats, scales, opacities, A, k, pinhole, eps, footprints, first_record, records,
    d_means, d_quats, d_scales, d_opacities, d_colors, d_centres, absolute,
):  # fmt: skip
    """Fill the gradients of means, quaternions, scales, opacities, colours [n, 3 or 4] and centres [n, 2].

    `absolute` [n, 2] or [0, 2] gets the sums of absolute pixel gradients. n is at least 16."""
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        _back_chunks(
            counter, means, quats, scales, opacities, A, k, pinhole, eps, footprints, first_record, records,
            d_means, d_quats, d_scales, d_opacities, d_colors, d_centres, absolute,
        )  # fmt: skip
