"""Gaussians to footprints on the image and back: gsplat's antialiased projection, with its derivatives by hand.

A footprint is one row of float32: column and row of the centre (px), (k1, k2, k3) so that the weight at an offset is
2^-(u² + v²) with u = k1 dx + k2 dy and v = k3 dy, the compensated opacity, the depth, and the largest
u² + v² that still reaches an alpha of 1/255. Positions and covariances are computed in float64.
"""

import math

import numpy as np
from numba import njit, prange

CENTRE_X, CENTRE_Y, K1, K2, K3, OPACITY, DEPTH, REACH, FOOTPRINT = range(9)
RECORD = 12  # u, v, uu, uv, vv, opacity, depth, three colours, |x|, |y|: sums a tile leaves for each Gaussian
LOG2E = math.log2(math.e)
ALPHA_MIN = 1.0 / 255.0
CHUNKS = 64  # of Gaussians; a fixed number, so that results do not depend on threads
_FAST = {"contract", "arcp", "nsz"}


@njit(cache=True, forceinline=True)
def _rotation(w, x, y, z):
    return (
        (1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        (2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        (2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    )


@njit(cache=True, forceinline=True)
def _camera_point(A, m):
    return (
        A[0, 0] * m[0] + A[0, 1] * m[1] + A[0, 2] * m[2] + A[0, 3],
        A[1, 0] * m[0] + A[1, 1] * m[1] + A[1, 2] * m[2] + A[1, 3],
        A[2, 0] * m[0] + A[2, 1] * m[1] + A[2, 2] * m[2] + A[2, 3],
    )


@njit(cache=True, forceinline=True)
def _slope(value, low, high):
    """Slope clamped to the picture's surroundings, and whether it was inside."""
    return min(max(value, low), high), low < value < high


@njit(cache=True, forceinline=True)
def _jacobian(x, y, z, k, pinhole):
    """Rows (j00, j02), (j11, j12) of d pixel / d camera, the clamped slopes and whether each slope moves."""
    if not pinhole:
        return k[0], 0.0, k[1], 0.0, 0.0, 0.0, False, False
    sx, moves_x = _slope(x / z, -k[4], k[5])
    sy, moves_y = _slope(y / z, -k[6], k[7])
    return k[0] / z, -k[0] * sx / z, k[1] / z, -k[1] * sy / z, sx, sy, moves_x, moves_y


@njit(cache=True, forceinline=True)
def _footprint_axes(A, j00, j02, j11, j12, R, s):
    """P = J A R S, two rows of three."""
    w0 = (j00 * A[0, 0] + j02 * A[2, 0], j00 * A[0, 1] + j02 * A[2, 1], j00 * A[0, 2] + j02 * A[2, 2])
    w1 = (j11 * A[1, 0] + j12 * A[2, 0], j11 * A[1, 1] + j12 * A[2, 1], j11 * A[1, 2] + j12 * A[2, 2])
    p0 = (
        (w0[0] * R[0][0] + w0[1] * R[1][0] + w0[2] * R[2][0]) * s[0],
        (w0[0] * R[0][1] + w0[1] * R[1][1] + w0[2] * R[2][1]) * s[1],
        (w0[0] * R[0][2] + w0[1] * R[1][2] + w0[2] * R[2][2]) * s[2],
    )
    p1 = (
        (w1[0] * R[0][0] + w1[1] * R[1][0] + w1[2] * R[2][0]) * s[0],
        (w1[0] * R[0][1] + w1[1] * R[1][1] + w1[2] * R[2][1]) * s[1],
        (w1[0] * R[0][2] + w1[1] * R[1][2] + w1[2] * R[2][2]) * s[2],
    )
    return w0, w1, p0, p1


@njit(cache=True, forceinline=True)
def _covariance(p0, p1, eps):
    """(a, b, c) with eps on the diagonal, determinants before and after; as |p0 x p1|², free of cancellation."""
    a0 = p0[0] * p0[0] + p0[1] * p0[1] + p0[2] * p0[2]
    b = p0[0] * p1[0] + p0[1] * p1[1] + p0[2] * p1[2]
    c0 = p1[0] * p1[0] + p1[1] * p1[1] + p1[2] * p1[2]
    cx = p0[1] * p1[2] - p0[2] * p1[1]
    cy = p0[2] * p1[0] - p0[0] * p1[2]
    cz = p0[0] * p1[1] - p0[1] * p1[0]
    before = cx * cx + cy * cy + cz * cz
    return a0 + eps, b, c0 + eps, before, before + eps * (a0 + c0) + eps * eps


@njit(cache=True, forceinline=True)
def _unit(q):
    length = math.sqrt(q[0] * q[0] + q[1] * q[1] + q[2] * q[2] + q[3] * q[3])
    inverse = 1.0 / max(length, 1e-12)
    return q[0] * inverse, q[1] * inverse, q[2] * inverse, q[3] * inverse, inverse


@njit(parallel=True, cache=True)
def project(means, quats, scales, opacities, A, k, pinhole, width, height, eps, near, far, out, rect, radii):
    """Fill footprints [n, 8], rectangles of 4x4 px blocks [n, 4] (first and last column and row; empty: last < first)
    and radii [n] (0: not in this view)."""
    n = means.shape[0]
    for chunk in prange(CHUNKS):
        for i in range(n * chunk // CHUNKS, n * (chunk + 1) // CHUNKS):
            radii[i] = 0
            rect[i, 0], rect[i, 1], rect[i, 2], rect[i, 3] = 0, 0, -1, -1
            x, y, z = _camera_point(A, means[i])
            if not (near < z < far):
                continue
            j00, j02, j11, j12, _, _, _, _ = _jacobian(x, y, z, k, pinhole)
            qw, qx, qy, qz, _ = _unit(quats[i])
            _, _, p0, p1 = _footprint_axes(A, j00, j02, j11, j12, _rotation(qw, qx, qy, qz), scales[i])
            a, b, c, before, after = _covariance(p0, p1, eps)
            middle = 0.5 * (a + c)
            largest = middle + math.sqrt(max(0.01, middle * middle - after))
            radius = math.ceil(3.0 * math.sqrt(largest))
            depth = 1.0 / z if pinhole else 1.0
            mx = k[0] * x * depth + k[2]
            my = k[1] * y * depth + k[3]
            if not (mx + radius > 0 and mx - radius < width and my + radius > 0 and my - radius < height):
                continue
            radii[i] = int(radius)
            opacity = opacities[i] * math.sqrt(before / after)
            if not opacity >= ALPHA_MIN:
                continue
            reach = math.log(opacity / ALPHA_MIN)
            k1 = math.sqrt(0.5 * LOG2E * c / after)
            out[i, CENTRE_X], out[i, CENTRE_Y] = mx, my
            out[i, K1], out[i, K2], out[i, K3] = k1, -0.5 * LOG2E * b / (after * k1), math.sqrt(0.5 * LOG2E / c)
            out[i, OPACITY], out[i, DEPTH], out[i, REACH] = opacity, z, reach * LOG2E
            _rectangle(rect[i], mx, my, math.sqrt(2 * reach * a), math.sqrt(2 * reach * c), radius, width, height)


@njit(cache=True, forceinline=True)
def _span(centre, extent, radius, size):
    """First and last block whose pixels the ellipse may reach, inside the 16 px tiles that the 3 sigma square touches
    (gsplat's rule)."""
    first = max(math.ceil(centre - extent - 0.5), 16.0 * math.floor((centre - radius) / 16.0), 0.0)
    last = min(math.floor(centre + extent - 0.5), 16.0 * math.ceil((centre + radius) / 16.0) - 1.0, size - 1.0)
    if last < first:
        return 0, -1
    return int(first) >> 2, int(last) >> 2


@njit(cache=True, forceinline=True)
def _rectangle(row, mx, my, extent_x, extent_y, radius, width, height):
    x0, x1 = _span(mx, extent_x, radius, width)
    y0, y1 = _span(my, extent_y, radius, height)
    if x1 >= x0 and y1 >= y0:
        row[0], row[1], row[2], row[3] = x0, y0, x1, y1


@njit(cache=True, forceinline=True)
def _conic_moments(f, s):
    """Sums over pixels of g, with g = dL/d(exponent): g dx, g dy, g dx², g dx dy, g dy²."""
    k1, k2, k3 = np.float64(f[K1]), np.float64(f[K2]), np.float64(f[K3])
    t = k2 / k3
    gx, gy = (s[0] - t * s[1]) / k1, s[1] / k3
    gxx = (s[2] - 2 * t * s[3] + t * t * s[4]) / (k1 * k1)
    return gx, gy, gxx, (s[3] - t * s[4]) / (k1 * k3), s[4] / (k3 * k3)


@njit(cache=True, forceinline=True)
def _covariance_gradient(a, b, c, before, after, eps, gxx, gxy, gyy, d_opacity, opacity):
    """dL/d(a, b, c) of the widened covariance from the moments and from the compensated opacity."""
    A, B, C = c / after, -b / after, a / after
    qa, qb, qc = 0.5 * gxx, 0.5 * gxy, 0.5 * gyy
    # -Q G Q for symmetric 2x2 matrices
    m00, m01 = A * qa + B * qb, A * qb + B * qc
    m10, m11 = B * qa + C * qb, B * qb + C * qc
    da = -(m00 * A + m01 * B)
    db = -(m00 * B + m01 * C) - (m10 * A + m11 * B)
    dc = -(m10 * B + m11 * C)
    compensation = math.sqrt(before / after)
    half = 0.5 * d_opacity * opacity / (compensation + 1e-6)
    inner, outer = half / after, half * before / (after * after)
    da += inner * (c - eps) - outer * c
    db += -2 * b * (inner - outer)
    dc += inner * (a - eps) - outer * a
    return da, db, dc


@njit(cache=True, forceinline=True)
def _quaternion_gradient(w, x, y, z, inverse, d):
    """Gradient of a raw quaternion from dL/dR, through the normalisation."""
    gw = 2 * (x * (d[2][1] - d[1][2]) + y * (d[0][2] - d[2][0]) + z * (d[1][0] - d[0][1]))
    gx = 2 * (
        -2 * x * (d[1][1] + d[2][2]) + y * (d[0][1] + d[1][0]) + z * (d[0][2] + d[2][0]) + w * (d[2][1] - d[1][2])
    )
    gy = 2 * (x * (d[0][1] + d[1][0]) - 2 * y * (d[0][0] + d[2][2]) + z * (d[1][2] + d[2][1]) + w * (d[0][2] - d[2][0]))
    gz = 2 * (x * (d[0][2] + d[2][0]) + y * (d[1][2] + d[2][1]) - 2 * z * (d[0][0] + d[1][1]) + w * (d[1][0] - d[0][1]))
    along = gw * w + gx * x + gy * y + gz * z
    return (
        (gw - along * w) * inverse,
        (gx - along * x) * inverse,
        (gy - along * y) * inverse,
        (gz - along * z) * inverse,
    )


@njit(parallel=True, cache=True, fastmath=_FAST)
def project_backward(
    means, quats, scales, opacities, A, k, pinhole, eps, footprints, radii, first_record, records,
    d_means, d_quats, d_scales, d_opacities, d_colors, d_means2d, absgrad,
):  # fmt: skip
    """Add up the tiles' records and carry them to means, quaternions, scales, opacities and colours.

    `absgrad` [n, 2] or [0, 2] gets the sums of absolute pixel gradients."""
    n, channels = means.shape[0], d_colors.shape[1]
    for chunk in prange(CHUNKS):
        s = np.empty(RECORD)
        for i in range(n * chunk // CHUNKS, n * (chunk + 1) // CHUNKS):
            if first_record[i + 1] == first_record[i]:
                continue
            for j in range(RECORD):
                s[j] = 0.0
            for record in range(first_record[i], first_record[i + 1]):
                for j in range(RECORD):
                    s[j] += records[record, j]
            for j in range(channels):
                d_colors[i, j] = s[7 + j]
            x, y, z = _camera_point(A, means[i])
            j00, j02, j11, j12, sx, sy, moves_x, moves_y = _jacobian(x, y, z, k, pinhole)
            qw, qx, qy, qz, inverse = _unit(quats[i])
            R, scale = _rotation(qw, qx, qy, qz), scales[i]
            w0, w1, p0, p1 = _footprint_axes(A, j00, j02, j11, j12, R, scale)
            a, b, c, before, after = _covariance(p0, p1, eps)
            gx, gy, gxx, gxy, gyy = _conic_moments(footprints[i], s)
            d_opacities[i] = s[5] * math.sqrt(before / after)
            da, db, dc = _covariance_gradient(a, b, c, before, after, eps, gxx, gxy, gyy, s[5], opacities[i])
            dmx = -(c * gx - b * gy) / after
            dmy = -(a * gy - b * gx) / after
            d_means2d[i, 0], d_means2d[i, 1] = dmx, dmy
            if absgrad.shape[0]:
                absgrad[i, 0], absgrad[i, 1] = s[10], s[11]
            dp0 = (2 * da * p0[0] + db * p1[0], 2 * da * p0[1] + db * p1[1], 2 * da * p0[2] + db * p1[2])
            dp1 = (2 * dc * p1[0] + db * p0[0], 2 * dc * p1[1] + db * p0[1], 2 * dc * p1[2] + db * p0[2])
            _shape_gradients(d_quats[i], d_scales[i], w0, w1, dp0, dp1, R, scale, qw, qx, qy, qz, inverse)
            dx, dy, dz = k[0] * dmx, k[1] * dmy, s[6]
            if pinhole:
                px, py, pz = _pinhole_gradient(
                    A, k, x, y, z, sx, sy, moves_x, moves_y, j02, j12, dp0, dp1, R, scale, dmx, dmy
                )
                dx, dy, dz = px, py, dz + pz
            for j in range(3):
                d_means[i, j] = A[0, j] * dx + A[1, j] * dy + A[2, j] * dz


@njit(cache=True, forceinline=True)
def _shape_gradients(d_quat, d_scale, w0, w1, dp0, dp1, R, scale, qw, qx, qy, qz, inverse):
    dm = (
        (w0[0] * dp0[0] + w1[0] * dp1[0], w0[0] * dp0[1] + w1[0] * dp1[1], w0[0] * dp0[2] + w1[0] * dp1[2]),
        (w0[1] * dp0[0] + w1[1] * dp1[0], w0[1] * dp0[1] + w1[1] * dp1[1], w0[1] * dp0[2] + w1[1] * dp1[2]),
        (w0[2] * dp0[0] + w1[2] * dp1[0], w0[2] * dp0[1] + w1[2] * dp1[1], w0[2] * dp0[2] + w1[2] * dp1[2]),
    )
    d_scale[0] = dm[0][0] * R[0][0] + dm[1][0] * R[1][0] + dm[2][0] * R[2][0]
    d_scale[1] = dm[0][1] * R[0][1] + dm[1][1] * R[1][1] + dm[2][1] * R[2][1]
    d_scale[2] = dm[0][2] * R[0][2] + dm[1][2] * R[1][2] + dm[2][2] * R[2][2]
    dr = (
        (dm[0][0] * scale[0], dm[0][1] * scale[1], dm[0][2] * scale[2]),
        (dm[1][0] * scale[0], dm[1][1] * scale[1], dm[1][2] * scale[2]),
        (dm[2][0] * scale[0], dm[2][1] * scale[1], dm[2][2] * scale[2]),
    )
    d_quat[0], d_quat[1], d_quat[2], d_quat[3] = _quaternion_gradient(qw, qx, qy, qz, inverse, dr)


@njit(cache=True, forceinline=True)
def _pinhole_gradient(A, k, x, y, z, sx, sy, moves_x, moves_y, j02, j12, dp0, dp1, R, scale, dmx, dmy):
    """dL/d(camera point) of a pinhole, from the centre and from the Jacobian's change."""
    v0, v1, v2, v3 = 0.0, 0.0, 0.0, 0.0  # dL/d(j00, j02, j11, j12)
    for column in range(3):
        m0, m1, m2 = R[0][column] * scale[column], R[1][column] * scale[column], R[2][column] * scale[column]
        row0 = A[0, 0] * m0 + A[0, 1] * m1 + A[0, 2] * m2
        row1 = A[1, 0] * m0 + A[1, 1] * m1 + A[1, 2] * m2
        row2 = A[2, 0] * m0 + A[2, 1] * m1 + A[2, 2] * m2
        v0 += dp0[column] * row0
        v1 += dp0[column] * row2
        v2 += dp1[column] * row1
        v3 += dp1[column] * row2
    inverse = 1.0 / z
    dx, dy = k[0] * inverse * dmx, k[1] * inverse * dmy
    dz = -(dx * x + dy * y) * inverse
    dz += -(k[0] * v0 + k[1] * v2) * inverse * inverse
    # j02 = -fx sx / z, and sx = x / z where it is not clamped
    dz += -(j02 * v1 + j12 * v3) * inverse
    if moves_x:
        dx += -k[0] * inverse * inverse * v1
        dz += k[0] * sx * inverse * inverse * v1
    if moves_y:
        dy += -k[1] * inverse * inverse * v3
        dz += k[1] * sy * inverse * inverse * v3
    return dx, dy, dz
