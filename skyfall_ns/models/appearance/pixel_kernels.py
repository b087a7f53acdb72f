"""Display colors of blended light as one kernel in each direction: shadows per pixel, division by alpha, gamma.

The formulas are those of pixel_shadows.py and of `lighting.encode_premultiplied`. Gradients of the shadow map and of
the ambient light are added in a fixed number of parts, so that they do not depend on the number of threads.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false

import numpy as np
from numba import prange

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.appearance.gamma_kernels import encode_values, encode_values_with_slopes
from skyfall_ns.models.appearance.lighting import MIN_ALPHA
from skyfall_ns.models.appearance.shadow_lookup import (
    GRADIENT_COPIES,
    add_to_cells,
    apply_row,
    find_cell,
    sample_moments,
    visibility_and_derivatives,
)

MAX_CURVATURE_M = 1.2  # second difference of heights from pixel to pixel at which the light of the Gaussians stays
ROWS_PER_TASK = 16
_FAST = {"contract", "reassoc", "nsz", "arcp"}
_F0, _F1, _F2, _HALF = np.float32(0.0), np.float32(1.0), np.float32(2.0), np.float32(0.5)
_MIN_ALPHA = np.float32(MIN_ALPHA)
_INVERSE_CURVATURE = np.float32(1 / MAX_CURVATURE_M)


@njit(cache=True, fastmath=_FAST, forceinline=True)
def _pixel_point(x, y, depth, geometry, pinhole, displacement):
    """Point (model space) at a depth of a pixel; `geometry` rows: along columns, along rows, along depth, origin.

    `displacement` [3, 6] (or empty) is the quadratic term of the view; it is inverted to first order."""
    column, row = np.float32(x) + _HALF, np.float32(y) + _HALF
    if pinhole:
        px = geometry[3, 0] + depth * (column * geometry[0, 0] + row * geometry[1, 0] + geometry[2, 0])
        py = geometry[3, 1] + depth * (column * geometry[0, 1] + row * geometry[1, 1] + geometry[2, 1])
        pz = geometry[3, 2] + depth * (column * geometry[0, 2] + row * geometry[1, 2] + geometry[2, 2])
    else:
        px = column * geometry[0, 0] + row * geometry[1, 0] + depth * geometry[2, 0] + geometry[3, 0]
        py = column * geometry[0, 1] + row * geometry[1, 1] + depth * geometry[2, 1] + geometry[3, 1]
        pz = column * geometry[0, 2] + row * geometry[1, 2] + depth * geometry[2, 2] + geometry[3, 2]
    if len(displacement):
        monomials = px * px, py * py, pz * pz, px * py, px * pz, py * pz
        dx, dy, dz = _F0, _F0, _F0
        for k in range(6):
            dx += displacement[0, k] * monomials[k]
            dy += displacement[1, k] * monomials[k]
            dz += displacement[2, k] * monomials[k]
        px, py, pz = px - dx, py - dy, pz - dz
    return px, py, pz


@njit(cache=True, fastmath=_FAST)
def _height_row(y, depth, geometry, pinhole, meters, heights):
    """Heights of a row of pixels in meters; the quadratic term, whose second differences are tiny, is left out."""
    row = (np.float32(y) + _HALF) * geometry[1, 2]
    for x in range(len(depth)):
        lateral = (np.float32(x) + _HALF) * geometry[0, 2] + row
        if pinhole:
            heights[x] = (geometry[3, 2] + depth[x] * (lateral + geometry[2, 2])) * meters
        else:
            heights[x] = (lateral + depth[x] * geometry[2, 2] + geometry[3, 2]) * meters


@njit(cache=True, fastmath=_FAST)
def _curvature_row(above, here, below, curvature):
    """Second differences of heights, the larger of both directions; the border is replicated."""
    last = len(here) - 1
    for x in range(last + 1):
        curvature[x] = abs(_F2 * here[x] - above[x] - below[x])
    for x in range(1, last):
        curvature[x] = max(curvature[x], abs(_F2 * here[x] - here[x - 1] - here[x + 1]))
    curvature[0] = max(curvature[0], abs(here[0] - here[min(1, last)]))
    curvature[last] = max(curvature[last], abs(here[last] - here[max(last - 1, 0)]))


@njit(cache=True, fastmath=_FAST)
def _smoothness_row(above, here, below, largest, smoothness):
    """1 where heights are linear, falling to 0 at a curvature of MAX_CURVATURE_M there or next to it."""
    last = len(here) - 1
    for x in range(last + 1):
        largest[x] = max(max(above[x], here[x]), below[x])
    for x in range(1, last):
        value = max(max(largest[x - 1], largest[x]), largest[x + 1])
        smoothness[x] = min(max(_F1 - value * _INVERSE_CURVATURE, _F0), _F1)
    for x in (0, last):
        value = max(max(largest[max(x - 1, 0)], largest[x]), largest[min(x + 1, last)])
        smoothness[x] = min(max(_F1 - value * _INVERSE_CURVATURE, _F0), _F1)


@njit(cache=True, fastmath=_FAST)
def _smoothness_rows(first, last, depth, geometry, pinhole, meters, smoothness):
    """Smoothness of rows first..last-1, from the heights of two more rows on each side."""
    height, width = depth.shape
    low, high = max(first - 2, 0), min(last + 2, height)
    heights, curvature = np.empty((high - low, width), np.float32), np.empty((high - low, width), np.float32)
    for y in range(low, high):
        _height_row(y, depth[y], geometry, pinhole, meters, heights[y - low])
    for y in range(max(first - 1, 0), min(last + 1, height)):
        above, below = max(y - 1, 0) - low, min(y + 1, height - 1) - low
        _curvature_row(heights[above], heights[y - low], heights[below], curvature[y - low])
    largest = np.empty(width, np.float32)
    for y in range(first, last):
        above, below = max(y - 1, 0) - low, min(y + 1, height - 1) - low
        _smoothness_row(curvature[above], curvature[y - low], curvature[below], largest, smoothness[y])


@njit(cache=True, fastmath=_FAST)
def _visibility_row(blended, alpha, bands, smoothness, pixel_visibility, inverse, behind, mixed):
    """1 / alpha, the blended sun visibility of the Gaussians, and its mixture with that of the pixels; both are 1
    without shadows per pixel."""
    for x in range(len(alpha)):
        inverse[x] = _F1 / max(alpha[x], _MIN_ALPHA)
    if len(smoothness):
        for x in range(len(alpha)):
            behind[x] = blended[x, bands] * inverse[x]
            mixed[x] = behind[x] + smoothness[x] * (pixel_visibility[x] - behind[x])
    else:
        behind[:] = _F1
        mixed[:] = _F1


@njit(cache=True, fastmath=_FAST)
def _light_row(blended, bands, ambient, direct, inverse, behind, mixed, light):
    """Light of a row of pixels, divided by alpha, with the shadows of the pixels."""
    for k in range(bands):
        a = ambient[k]
        for x in range(len(inverse)):
            light[x * bands + k] = blended[x, k] * inverse[x] * (a + direct * mixed[x]) / (a + direct * behind[x])


@njit(cache=True, fastmath=_FAST)
def _look_up_row(
    y, depth, geometry, pinhole, displacement, moments, rows, min_variance, smoothness, visibility, slopes
):
    """Sun visibility of the smooth pixels of a row, and its derivatives (`slopes` empty: not wanted)."""
    for x in range(len(depth)):
        visibility[x] = _F1
        if smoothness[x] == _F0:
            continue
        point = _pixel_point(x, y, depth[x], geometry, pinhole, displacement)
        column, row, weight_x, weight_y = find_cell(point, rows, moments.shape)
        first, second, alpha = sample_moments(moments, column, row, weight_x, weight_y)
        height = apply_row(point, rows[2])
        visibility[x], a, b, c = visibility_and_derivatives(first, second, alpha, height, min_variance)
        if len(slopes):
            slopes[x, 0], slopes[x, 1], slopes[x, 2] = a, b, c


@njit(parallel=True, cache=True, fastmath=_FAST)
def display_forward(
    blended, alpha, depth, bands, ambient, direct, geometry, pinhole, displacement, meters, moments, rows,
    min_variance, smoothness, visibility, slopes, out,
):  # fmt: skip
    """Display colors [h, w, b], premultiplied, of blended light [h, w, b or b + 1].

    With shadows per pixel (`smoothness` [h, w], else [h, 0]), smoothness, the pixels' sun visibility and its slopes
    [h, w, 3] (or [h, 0, 3]) are kept for the backward pass."""
    height, width = alpha.shape
    for task in prange((height + ROWS_PER_TASK - 1) // ROWS_PER_TASK):
        first, last = task * ROWS_PER_TASK, min((task + 1) * ROWS_PER_TASK, height)
        padded = (width * bands + 15) // 16 * 16
        light, encoded = np.zeros(padded, np.float32), np.empty(padded, np.float32)
        inverse, behind, mixed = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
        if smoothness.shape[1]:
            _smoothness_rows(first, last, depth, geometry, pinhole, meters, smoothness)
        for y in range(first, last):
            if smoothness.shape[1]:
                _look_up_row(
                    y, depth[y], geometry, pinhole, displacement, moments, rows, min_variance, smoothness[y],
                    visibility[y], slopes[y],
                )  # fmt: skip
            _visibility_row(blended[y], alpha[y], bands, smoothness[y], visibility[y], inverse, behind, mixed)
            _light_row(blended[y], bands, ambient, direct, inverse, behind, mixed, light)
            encode_values(light, encoded)
            for x in range(width):
                for k in range(bands):
                    out[y, x, k] = alpha[y, x] * encoded[x * bands + k]


@njit(cache=True, fastmath=_FAST)
def _backward_bands(
    blended, alpha, bands, ambient, direct, upstream, encoded, slope, inverse, behind, mixed, sums, d_blended, d_ambient
):
    """Gradients of a row of light; `sums` [4, w]: those of alpha (as a factor), of 1 / alpha, of the mixed and of the
    Gaussians' visibility."""
    by_alpha, by_inverse, by_mixed, by_behind = sums[0], sums[1], sums[2], sums[3]
    sums[:] = _F0
    for k in range(bands):
        a, total = ambient[k], _F0
        for x in range(len(alpha)):
            g, i = upstream[x, k], x * bands + k
            under = _F1 / (a + direct * behind[x])
            ratio = (a + direct * mixed[x]) * under
            by_alpha[x] += g * encoded[i]
            d_light = g * alpha[x] * slope[i]
            by_light = d_light * blended[x, k]
            by_inverse[x] += by_light * ratio
            d_blended[x, k] = d_light * ratio * inverse[x]
            by_ratio = by_light * inverse[x] * under
            by_mixed[x] += by_ratio * direct
            by_behind[x] -= by_ratio * ratio * direct
            total += by_ratio * (_F1 - ratio)
        d_ambient[k] += total


@njit(cache=True, fastmath=_FAST)
def _backward_row(blended, alpha, bands, smoothness, inverse, sums, d_blended, d_alpha):
    """Gradients of a row with respect to alpha and the blended visibility, from the `sums` of `_backward_bands`; the
    third of these becomes the gradient of the pixels' visibility."""
    by_alpha, by_inverse, by_mixed, by_behind = sums[0], sums[1], sums[2], sums[3]
    if len(smoothness):
        for x in range(len(alpha)):
            total = by_behind[x] + (_F1 - smoothness[x]) * by_mixed[x]
            by_mixed[x] *= smoothness[x]
            d_blended[x, bands] = total * inverse[x]
            by_inverse[x] += total * blended[x, bands]
    for x in range(len(alpha)):
        clamped = _F1 if alpha[x] >= _MIN_ALPHA else _F0
        d_alpha[x] = by_alpha[x] - by_inverse[x] * inverse[x] * inverse[x] * clamped


@njit(parallel=True, cache=True, fastmath=_FAST)
def display_backward(
    blended, alpha, depth, bands, ambient, direct, geometry, pinhole, displacement, rows, smoothness, visibility,
    slopes, upstream, d_blended, d_alpha, d_ambient, d_moments,
):  # fmt: skip
    """Gradients of `display_forward`; d_ambient [parts, b] and d_moments [parts, ...] hold the sums of the parts."""
    height, width = alpha.shape
    for part in prange(GRADIENT_COPIES):
        padded = (width * bands + 15) // 16 * 16
        light, encoded, slope = np.zeros(padded, np.float32), np.empty(padded, np.float32), np.empty(padded, np.float32)
        inverse, behind, mixed = np.empty(width, np.float32), np.empty(width, np.float32), np.empty(width, np.float32)
        sums = np.empty((4, width), np.float32)
        for y in range(part * height // GRADIENT_COPIES, (part + 1) * height // GRADIENT_COPIES):
            _visibility_row(blended[y], alpha[y], bands, smoothness[y], visibility[y], inverse, behind, mixed)
            _light_row(blended[y], bands, ambient, direct, inverse, behind, mixed, light)
            encode_values_with_slopes(light, encoded, slope)
            _backward_bands(
                blended[y], alpha[y], bands, ambient, direct, upstream[y], encoded, slope, inverse, behind, mixed, sums,
                d_blended[y], d_ambient[part],
            )  # fmt: skip
            _backward_row(blended[y], alpha[y], bands, smoothness[y], inverse, sums, d_blended[y], d_alpha[y])
            for x in range(smoothness.shape[1]):
                g = sums[2, x]
                if g != _F0:
                    point = _pixel_point(x, y, depth[y, x], geometry, pinhole, displacement)
                    cell = find_cell(point, rows, d_moments.shape[1:])
                    add_to_cells(d_moments[part], cell, (g * slopes[y, x, 0], g * slopes[y, x, 1], g * slopes[y, x, 2]))
