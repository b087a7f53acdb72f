"""Light of Gaussians as one kernel in each direction: decoding, sun and sky, sensor, appearance coefficients.

The formulas are those of `shading.shade_with_torch`, which takes some thirty passes over all Gaussians. Gradients of
an image's parameters are summed per block of Gaussians and then over the blocks, so that they do not depend on the
number of threads.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false

import numpy as np
from numba import prange

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.appearance.gamma_kernels import decode_values
from skyfall_ns.scene.scene import DISPLAY_GAMMA

BLOCK = 512  # Gaussians per task: their colors fit the first-level cache
_FAST = {"contract", "reassoc", "nsz", "arcp"}
_F0, _F1, _F2, _F4 = np.float32(0.0), np.float32(1.0), np.float32(2.0), np.float32(4.0)
_SKY, _SKY_SLOPE = np.float32(0.6), np.float32(0.4)  # of lighting.relative_irradiance
_GAMMA, _SHORTEST = np.float32(DISPLAY_GAMMA), np.float32(1e-12)


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _unit_quaternion(quats, i):
    """(w, x, y, z) of length 1, and the inverse of the length."""
    w, x, y, z = quats[i, 0], quats[i, 1], quats[i, 2], quats[i, 3]
    inverse = _F1 / max(np.sqrt(w * w + x * x + y * y + z * z), _SHORTEST)
    return w * inverse, x * inverse, y * inverse, z * inverse, inverse


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _sun_and_sky(q, sun, shading):
    """Cosine between normal and sun (not clamped), and the share of the sky's light."""
    if not shading:
        return sun[2], _F1
    w, x, y, z = q[0], q[1], q[2], q[3]
    nx, ny, nz = _F2 * (x * z + w * y), _F2 * (y * z - w * x), _F1 - _F2 * (x * x + y * y)
    return nx * sun[0] + ny * sun[1] + nz * sun[2], _SKY + _SKY_SLOPE * nz


@njit(cache=True, fastmath=_FAST)
def _decode_block(albedo, first, count):
    """The colors of a block of Gaussians and the light that they reflect, flattened."""
    bands = albedo.shape[1]
    padded = (count * bands + 15) // 16 * 16
    colors, reflected = np.zeros(padded, np.float32), np.empty(padded, np.float32)
    for j in range(count):
        for k in range(bands):
            colors[j * bands + k] = albedo[first + j, k]
    decode_values(colors, reflected)
    return colors, reflected


@njit(cache=True, fastmath=_FAST)
def _forward_block(first, count, albedo, quats, sun_visibility, coefficients, sensor, sun, shading, out):
    """Light of a block of Gaussians."""
    bands = albedo.shape[1]
    _, reflected = _decode_block(albedo, first, count)
    for j in range(count):
        i = first + j
        direct, sky = _F1, _F1
        if len(sun):
            direct, sky = _sun_and_sky(_unit_quaternion(quats, i), sun, shading)
            direct = max(direct, _F0)
            if len(sun_visibility):
                direct *= sun_visibility[i]
        for k in range(bands):
            light = sensor[0, k] * reflected[j * bands + k]
            if len(sun):
                light *= (sensor[2, k] * sky + direct) / (sensor[2, k] + sun[2])
            light += sensor[1, k]
            if len(coefficients):
                light = (_F1 + coefficients[i, bands + k]) * light + coefficients[i, k]
            out[i, k] = light
        if out.shape[1] > bands:
            out[i, bands] = sun_visibility[i]


@njit(parallel=True, cache=True, fastmath=_FAST)
def shade_forward(albedo, quats, sun_visibility, coefficients, sensor, sun, shading, out):
    """Light of all Gaussians: out [n, b]; with one more column, it gets the sun visibility.

    `sensor` [3, b]: gain, path radiance, ambient light. Empty arrays: no sun visibility, no coefficients, no sun."""
    n = len(albedo)
    for block in prange((n + BLOCK - 1) // BLOCK):
        first = block * BLOCK
        _forward_block(
            first, min(BLOCK, n - first), albedo, quats, sun_visibility, coefficients, sensor, sun, shading, out
        )


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _store_quaternion_gradient(q, d_cosine, d_sky, sun, d_quats, i):
    """Gradient of a quaternion of any length from those of the cosine and the share of the sky."""
    w, x, y, z, inverse = q
    dx, dy, dz = d_cosine * sun[0], d_cosine * sun[1], d_cosine * sun[2] + _SKY_SLOPE * d_sky
    gw = _F2 * (y * dx - x * dy)
    gx = _F2 * (z * dx - w * dy) - _F4 * x * dz
    gy = _F2 * (w * dx + z * dy) - _F4 * y * dz
    gz = _F2 * (x * dx + y * dy)
    along = gw * w + gx * x + gy * y + gz * z
    d_quats[i, 0], d_quats[i, 1] = inverse * (gw - along * w), inverse * (gx - along * x)
    d_quats[i, 2], d_quats[i, 3] = inverse * (gy - along * y), inverse * (gz - along * z)


@njit(cache=True, fastmath=_FAST)
def _backward_block(
    first, count, albedo, quats, sun_visibility, coefficients, sensor, sun, shading, upstream,
    d_albedo, d_quats, d_visibility, d_coefficients, d_sensor,
):  # fmt: skip
    """Gradients of a block of Gaussians; d_sensor [3, b] gets its sums."""
    bands = albedo.shape[1]
    colors, reflected = _decode_block(albedo, first, count)
    d_sensor[:] = 0
    for j in range(count):
        i = first + j
        cosine, sky, visible = _F1, _F1, _F1
        if len(sun):
            cosine, sky = _sun_and_sky(_unit_quaternion(quats, i), sun, shading)
            if len(sun_visibility):
                visible = sun_visibility[i]
        facing, d_direct, d_sky = max(cosine, _F0), _F0, _F0
        for k in range(bands):
            color, gained = colors[j * bands + k], sensor[0, k] * reflected[j * bands + k]
            irradiance, inverse = _F1, _F1
            if len(sun):
                inverse = _F1 / (sensor[2, k] + sun[2])
                irradiance = (sensor[2, k] * sky + facing * visible) * inverse
            g = upstream[i, k]
            if len(coefficients):
                d_coefficients[i, k], d_coefficients[i, bands + k] = g, g * (gained * irradiance + sensor[1, k])
                g *= _F1 + coefficients[i, bands + k]
            d_sensor[0, k] += g * gained * irradiance
            d_sensor[1, k] += g
            d_albedo[i, k] = g * irradiance * _GAMMA * gained / color if color > _F0 else _F0
            d_irradiance = g * gained * inverse
            d_sensor[2, k] += d_irradiance * (sky - irradiance)
            d_direct += d_irradiance
            d_sky += d_irradiance * sensor[2, k]
        if len(sun_visibility):
            d_visibility[i] = d_direct * facing
            if upstream.shape[1] > bands:
                d_visibility[i] += upstream[i, bands]
        if len(sun) and shading:
            d_cosine = d_direct * visible if cosine > _F0 else _F0
            _store_quaternion_gradient(_unit_quaternion(quats, i), d_cosine, d_sky, sun, d_quats, i)


@njit(parallel=True, cache=True, fastmath=_FAST)
def shade_backward(
    albedo, quats, sun_visibility, coefficients, sensor, sun, shading, upstream,
    d_albedo, d_quats, d_visibility, d_coefficients, d_sensor,
):  # fmt: skip
    """Gradients of `shade_forward`; d_sensor [blocks, 3, b] holds the sums of the blocks: with respect to the logarithm
    of the gain, the path radiance and the ambient light."""
    n = len(albedo)
    for block in prange((n + BLOCK - 1) // BLOCK):
        _backward_block(
            block * BLOCK, min(BLOCK, n - block * BLOCK), albedo, quats, sun_visibility, coefficients, sensor, sun,
            shading, upstream, d_albedo, d_quats, d_visibility, d_coefficients, d_sensor[block],
        )  # fmt: skip
