"""Gradients of blending: a tile back to front, Gaussian by Gaussian over the pairs that contributed.

The visibility tests of the forward pass are not repeated. Per pixel one number suffices for all channels: the blend of
(gradient times value) of the Gaussians behind. The sums of each (Gaussian, tile) are written to one record.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import math

import numpy as np
from numba import prange

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.rasterizers.cpu_blend import (
    ALPHA_MAX,
    BLOCK_PIXELS,
    BLOCK_SIDE,
    PIXEL_POSITIONS,
    TILE_BLOCKS,
    TILE_PX,
    footprint_offsets,
    footprint_terms,
)
from skyfall_ns.models.rasterizers.cpu_footprint import BLUE, DEPTH, FOOTPRINT_SIZE, FOURTH, GREEN, OPACITY, RED
from skyfall_ns.models.rasterizers.cpu_tiles import BLOCKS_PER_SIDE
from skyfall_ns.models.rasterizers.lanes import (
    broadcast,
    count_bits,
    exp2_minus,
    fma,
    lowest_bit,
    magnitude,
    mask_from_bits,
    minimum,
    quotient,
    select_lanes,
)
from skyfall_ns.models.rasterizers.lanes_memory import (
    aligned_empty,
    claim_next,
    load_element,
    load_lanes,
    prefetch_element,
    store_lanes,
    vector_sums,
)

RECORD_SIZE = 16
# sums of a record; G = dL/d(exponent), exponent = ln 2 (u² + v²)
S_U, S_V, S_UU, S_UV, S_VV, S_OPACITY, S_DEPTH, S_RED, S_GREEN, S_BLUE, S_FOURTH, S_X, S_Y = range(13)
TWO_LN2 = 2.0 * math.log(2.0)
_NUM_STATES = 7  # dL/d(red, green, blue, weighted depth, alpha), transmittance, blended value behind
_TRANSMITTANCE, _BEHIND = 5 * BLOCK_PIXELS, 6 * BLOCK_PIXELS
_FOURTH_COLORS = TILE_BLOCKS * _NUM_STATES * BLOCK_PIXELS  # offset of dL/d(fourth color)
_ONE = np.uint64(1)
_PREFETCH_AHEAD = 4  # entries: about the time that a fetch from memory takes


@njit(cache=True)
def _init_state(state, column, row, d_color, d_depth, d_alpha, depth, transmittance):
    """Load a tile's incoming gradients and transmittances. Depth is an expectation: its gradient goes to the weighted
    depth and to alpha."""
    state[:] = 0.0
    height, width = transmittance.shape
    for y in range(row * TILE_PX, min((row + 1) * TILE_PX, height)):
        for x in range(column * TILE_PX, min((column + 1) * TILE_PX, width)):
            block = y // BLOCK_SIDE % BLOCKS_PER_SIDE * BLOCKS_PER_SIDE + x // BLOCK_SIDE % BLOCKS_PER_SIDE
            start = block * _NUM_STATES * BLOCK_PIXELS + y % BLOCK_SIDE * BLOCK_SIDE + x % BLOCK_SIDE
            remaining = transmittance[y, x]
            state[start + _TRANSMITTANCE] = remaining
            if d_color.shape[0]:
                for channel in range(min(d_color.shape[2], 3)):
                    state[start + channel * BLOCK_PIXELS] = d_color[y, x, channel]
                if d_color.shape[2] == 4:
                    state[_FOURTH_COLORS + block * BLOCK_PIXELS + y % BLOCK_SIDE * BLOCK_SIDE + x % BLOCK_SIDE] = (
                        d_color[y, x, 3]
                    )
            d_covered = d_alpha[y, x] if d_alpha.shape[0] else np.float32(0.0)
            if d_depth.shape[0] and remaining < 1:
                d_weighted = d_depth[y, x] / (np.float32(1.0) - remaining)
                state[start + 3 * BLOCK_PIXELS] = d_weighted
                d_covered -= d_weighted * depth[y, x]
            state[start + 4 * BLOCK_PIXELS] = d_covered


@njit(cache=True, forceinline=True)
def _accumulate_gaussian(
    footprints, gaussian, mask, column, row, positions, state, pair_bits, pair, absgrad, has_fourth, records, record
):
    """Sum one Gaussian's gradients over its blocks of a tile into a record; step their state one Gaussian back."""
    terms, columns, rows = footprint_terms(footprints, gaussian, column, row)
    offset = gaussian * FOOTPRINT_SIZE
    opacity = broadcast(load_element(footprints, offset + OPACITY))
    depth = broadcast(load_element(footprints, offset + DEPTH))
    red = broadcast(load_element(footprints, offset + RED))
    green = broadcast(load_element(footprints, offset + GREEN))
    blue = broadcast(load_element(footprints, offset + BLUE))
    fourth = broadcast(load_element(footprints, offset + FOURTH))
    zero = broadcast(0.0)
    su, sv, suu, suv, svv, so, sz = zero, zero, zero, zero, zero, zero, zero
    sr, sg, sb, sf, sx, sy = zero, zero, zero, zero, zero, zero
    while mask:
        block = lowest_bit(mask)
        mask &= mask - _ONE
        contributing = mask_from_bits(pair_bits[pair])
        pair += 1
        u, v = footprint_offsets(terms, positions, columns, rows, block)
        falloff = exp2_minus(fma(u, u, v * v))
        unclamped = opacity * falloff
        alpha = minimum(unclamped, ALPHA_MAX)
        start = block * (_NUM_STATES * BLOCK_PIXELS)
        d_red = load_lanes(state, start)
        d_green = load_lanes(state, start + BLOCK_PIXELS)
        d_blue = load_lanes(state, start + 2 * BLOCK_PIXELS)
        d_depth = load_lanes(state, start + 3 * BLOCK_PIXELS)
        d_alpha = load_lanes(state, start + 4 * BLOCK_PIXELS)
        after, behind = load_lanes(state, start + _TRANSMITTANCE), load_lanes(state, start + _BEHIND)
        before = quotient(after, 1.0 - alpha)
        value = fma(d_red, red, fma(d_green, green, d_alpha)) + fma(d_blue, blue, d_depth * depth)
        d_fourth = load_lanes(state, _FOURTH_COLORS + block * BLOCK_PIXELS) if has_fourth else zero
        value = fma(d_fourth, fourth, value)
        difference = value - behind
        store_lanes(state, start + _TRANSMITTANCE, select_lanes(contributing, before, after))
        store_lanes(state, start + _BEHIND, select_lanes(contributing, fma(alpha, difference, behind), behind))
        weight = select_lanes(contributing, alpha * before, 0.0)
        slope = select_lanes(contributing & (unclamped <= ALPHA_MAX), before * difference, 0.0)
        sr, sg, sb = fma(weight, d_red, sr), fma(weight, d_green, sg), fma(weight, d_blue, sb)
        sz, sf = fma(weight, d_depth, sz), fma(weight, d_fourth, sf)
        slope = slope * select_lanes(contributing, falloff, 0.0)
        so = so + slope
        g = slope * opacity
        gu, gv = g * u, g * v
        su, sv = su + gu, sv + gv
        suu, suv, svv = fma(gu, u, suu), fma(gu, v, suv), fma(gv, v, svv)
        if absgrad:
            sx = sx + magnitude(terms[0] * gu)
            sy = sy + magnitude(fma(terms[1], gu, terms[2] * gv))
    if absgrad:
        store_lanes(records, record * RECORD_SIZE, vector_sums((su, sv, suu, suv, svv, so, sz, sr, sg, sb, sf, sx, sy)))
    else:
        store_lanes(records, record * RECORD_SIZE, vector_sums((su, sv, suu, suv, svv, so, sz, sr, sg, sb, sf)))


@njit(cache=True, error_model="numpy")
def _backward_tiles(
    counter, footprints, columns, first_entry, first_pair, gaussian_of_entry, record_of_entry, contributing_blocks,
    pair_bits, pairs_used, depth, transmittance, d_color, d_depth, d_alpha, absgrad, records,
):  # fmt: skip
    has_fourth = d_color.shape[0] > 0 and d_color.shape[2] == 4
    state = aligned_empty(_FOURTH_COLORS + has_fourth * TILE_BLOCKS * BLOCK_PIXELS)
    positions = aligned_empty(PIXEL_POSITIONS.size)
    positions[:] = PIXEL_POSITIONS
    tile = claim_next(counter)
    while tile < first_entry.shape[0] - 1:
        row, column = tile // columns, tile % columns
        if first_entry[tile] < first_entry[tile + 1]:
            _init_state(state, column, row, d_color, d_depth, d_alpha, depth, transmittance)
        pair = first_pair[tile] + pairs_used[tile]
        for entry in range(first_entry[tile + 1] - 1, first_entry[tile] - 1, -1):
            gaussian = np.int64(gaussian_of_entry[entry])
            mask = contributing_blocks[entry]
            record = np.int64(record_of_entry[entry])
            next_entry = max(entry - _PREFETCH_AHEAD, 0)
            prefetch_element(footprints, np.int64(gaussian_of_entry[next_entry]) * FOOTPRINT_SIZE, 0)
            prefetch_element(records, np.int64(record_of_entry[next_entry]) * RECORD_SIZE, 1)
            if mask == 0:
                store_lanes(records, record * RECORD_SIZE, 0.0)
                continue
            pair -= count_bits(mask)
            _accumulate_gaussian(
                footprints, gaussian, mask, column, row, positions, state, pair_bits, pair, absgrad, has_fourth,
                records, record,
            )  # fmt: skip
        tile = claim_next(counter)


@njit(parallel=True, cache=True)
def blend_backward(
    threads, footprints, columns, first_entry, first_pair, gaussian_of_entry, record_of_entry, contributing_blocks,
    pair_bits, pairs_used, depth, transmittance, d_color, d_depth, d_alpha, absgrad, records,
):  # fmt: skip
    """Fill `records` [m, 16] from dL/d(color [h, w, up to 4], depth, alpha [h, w]); a gradient of zero is
    given as an empty array."""
    counter = np.zeros(1, np.int64)
    for _ in prange(threads):
        _backward_tiles(
            counter, footprints, columns, first_entry, first_pair, gaussian_of_entry, record_of_entry,
            contributing_blocks, pair_bits, pairs_used, depth, transmittance, d_color, d_depth, d_alpha, absgrad,
            records,
        )  # fmt: skip
