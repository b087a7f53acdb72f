"""Gradients of blending: a tile back to front, Gaussian by Gaussian over the pairs that took part.

No decision is made again. Per pixel one number suffices for all channels: the blend of (gradient times value) of what
lies behind. Each (Gaussian, tile) leaves one record of sums.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import math

import numpy as np
from numba import njit, prange

from skyfall_ns.models.rasterizers.cpu_blend import (
    ALPHA_MAX,
    PIXELS,
    PLACES,
    SIDE,
    TILE_BLOCKS,
    TILE_PX,
    footprint_lanes,
    offsets,
)
from skyfall_ns.models.rasterizers.cpu_footprint import BLUE, DEPTH, FOOTPRINT, FOURTH, GREEN, OPACITY, RED
from skyfall_ns.models.rasterizers.cpu_tiles import BLOCKS
from skyfall_ns.models.rasterizers.lanes import (
    choose,
    count_bits,
    exp2_minus,
    fma,
    lowest_bit,
    magnitude,
    mask_of,
    minimum,
    quotient,
    splat,
)
from skyfall_ns.models.rasterizers.lanes_memory import (
    at,
    claim,
    load,
    prefetch,
    room,
    store,
    totals,
)

RECORD = 16
# sums of a record; G = dL/d(exponent), exponent = ln 2 (u² + v²)
S_U, S_V, S_UU, S_UV, S_VV, S_OPACITY, S_DEPTH, S_RED, S_GREEN, S_BLUE, S_FOURTH, S_X, S_Y = range(13)
TWO_LN2 = 2.0 * math.log(2.0)
_STATES = 7  # dL/d(red, green, blue, weighted depth, alpha), transmittance, worth of what lies behind
_LEFT, _BEHIND = 5 * PIXELS, 6 * PIXELS
_FOURTHS = TILE_BLOCKS * _STATES * PIXELS  # dL/d(fourth colour), block after block
_ONE = np.uint64(1)
_AHEAD = 4  # entries; the cache needs about as long to fetch what the next ones read and write


@njit(cache=True)
def _begin(state, column, row, d_color, d_depth, d_alpha, depth, remains):
    """The tile's incoming gradients and transmittances. Depth is an expectation: its gradient goes to the weighted
    depth and to alpha."""
    state[:] = 0.0
    height, width = remains.shape
    for y in range(row * TILE_PX, min((row + 1) * TILE_PX, height)):
        for x in range(column * TILE_PX, min((column + 1) * TILE_PX, width)):
            block = y // SIDE % BLOCKS * BLOCKS + x // SIDE % BLOCKS
            here = block * _STATES * PIXELS + y % SIDE * SIDE + x % SIDE
            left = remains[y, x]
            state[here + _LEFT] = left
            if d_color.shape[0]:
                for channel in range(min(d_color.shape[2], 3)):
                    state[here + channel * PIXELS] = d_color[y, x, channel]
                if d_color.shape[2] == 4:
                    state[_FOURTHS + block * PIXELS + y % SIDE * SIDE + x % SIDE] = d_color[y, x, 3]
            d_drawn = d_alpha[y, x] if d_alpha.shape[0] else np.float32(0.0)
            if d_depth.shape[0] and left < 1:
                d_weighted = d_depth[y, x] / (np.float32(1.0) - left)
                state[here + 3 * PIXELS] = d_weighted
                d_drawn -= d_weighted * depth[y, x]
            state[here + 4 * PIXELS] = d_drawn


@njit(cache=True, forceinline=True)
def _gather(footprints, gaussian, mask, column, row, places, state, bits, pair, absgrad, four, records, record):
    """One Gaussian over its blocks of a tile: leave its sums, step the blocks' state one Gaussian back."""
    shape, columns, rows = footprint_lanes(footprints, gaussian, column, row)
    place = gaussian * FOOTPRINT
    opacity, depth = splat(at(footprints, place + OPACITY)), splat(at(footprints, place + DEPTH))
    red, green = splat(at(footprints, place + RED)), splat(at(footprints, place + GREEN))
    blue, fourth = splat(at(footprints, place + BLUE)), splat(at(footprints, place + FOURTH))
    zero = splat(0.0)
    su, sv, suu, suv, svv, so, sz = zero, zero, zero, zero, zero, zero, zero
    sr, sg, sb, sf, sx, sy = zero, zero, zero, zero, zero, zero
    while mask:
        block = lowest_bit(mask)
        mask &= mask - _ONE
        passed = mask_of(bits[pair])
        pair += 1
        u, v = offsets(shape, places, columns, rows, block)
        fall = exp2_minus(fma(u, u, v * v))
        full = opacity * fall
        alpha = minimum(full, ALPHA_MAX)
        here = block * (_STATES * PIXELS)
        d_red, d_green, d_blue = load(state, here), load(state, here + PIXELS), load(state, here + 2 * PIXELS)
        d_depth, d_alpha = load(state, here + 3 * PIXELS), load(state, here + 4 * PIXELS)
        left, behind = load(state, here + _LEFT), load(state, here + _BEHIND)
        before = quotient(left, 1.0 - alpha)
        worth = fma(d_red, red, fma(d_green, green, d_alpha)) + fma(d_blue, blue, d_depth * depth)
        d_fourth = load(state, _FOURTHS + block * PIXELS) if four else zero
        worth = fma(d_fourth, fourth, worth)
        ahead = worth - behind
        store(state, here + _LEFT, choose(passed, before, left))
        store(state, here + _BEHIND, choose(passed, fma(alpha, ahead, behind), behind))
        weight = choose(passed, alpha * before, 0.0)
        slope = choose(passed & (full <= ALPHA_MAX), before * ahead, 0.0)
        sr, sg, sb = fma(weight, d_red, sr), fma(weight, d_green, sg), fma(weight, d_blue, sb)
        sz, sf = fma(weight, d_depth, sz), fma(weight, d_fourth, sf)
        slope = slope * choose(passed, fall, 0.0)
        so = so + slope
        g = slope * opacity
        gu, gv = g * u, g * v
        su, sv = su + gu, sv + gv
        suu, suv, svv = fma(gu, u, suu), fma(gu, v, suv), fma(gv, v, svv)
        if absgrad:
            sx = sx + magnitude(shape[0] * gu)
            sy = sy + magnitude(fma(shape[1], gu, shape[2] * gv))
    if absgrad:
        store(records, record * RECORD, totals((su, sv, suu, suv, svv, so, sz, sr, sg, sb, sf, sx, sy)))
    else:
        store(records, record * RECORD, totals((su, sv, suu, suv, svv, so, sz, sr, sg, sb, sf)))


@njit(cache=True, error_model="numpy")
def _back_tiles(
    counter, footprints, columns, first_entry, first_pair, of_gaussian, of_record, took, bits, used, depth, remains,
    d_color, d_depth, d_alpha, absgrad, records,
):  # fmt: skip
    four = d_color.shape[0] > 0 and d_color.shape[2] == 4
    state, places = room(_FOURTHS + four * TILE_BLOCKS * PIXELS), room(PLACES.size)
    places[:] = PLACES
    tile = claim(counter)
    while tile < first_entry.shape[0] - 1:
        row, column = tile // columns, tile % columns
        if first_entry[tile] < first_entry[tile + 1]:
            _begin(state, column, row, d_color, d_depth, d_alpha, depth, remains)
        pair = first_pair[tile] + used[tile]
        for entry in range(first_entry[tile + 1] - 1, first_entry[tile] - 1, -1):
            gaussian, mask, record = np.int64(of_gaussian[entry]), took[entry], np.int64(of_record[entry])
            soon = max(entry - _AHEAD, 0)
            prefetch(footprints, np.int64(of_gaussian[soon]) * FOOTPRINT, 0)
            prefetch(records, np.int64(of_record[soon]) * RECORD, 1)
            if mask == 0:
                store(records, record * RECORD, 0.0)
                continue
            pair -= count_bits(mask)
            _gather(footprints, gaussian, mask, column, row, places, state, bits, pair, absgrad, four, records, record)
        tile = claim(counter)


@njit(parallel=True, cache=True)
def blend_backward(
    threads, footprints, columns, first_entry, first_pair, of_gaussian, of_record, took, bits, used, depth, remains,
    d_color, d_depth, d_alpha, absgrad, records,
):  # fmt: skip
    """Fill `records` [m, 16] from dL/d(color [h, w, up to 4], depth, alpha [h, w]), each empty where it is zero."""
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        _back_tiles(
            counter, footprints, columns, first_entry, first_pair, of_gaussian, of_record, took, bits, used, depth,
            remains, d_color, d_depth, d_alpha, absgrad, records,
        )  # fmt: skip
