"""Blending of a tile front to back, sixteen pixels (a 4x4 block) at a time.

Rules (gsplat's): alpha = min(0.999, opacity 2^-(u² + v²)), left out below 1/255; a pixel stops before the Gaussian that
would bring its transmittance to 1e-4 or less. A tile goes Gaussian by Gaussian over the blocks each may touch, so that
successive steps do not wait for each other. A pixel that has stopped has a negative transmittance: then nothing passes.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import numpy as np
from numba import njit, prange

from skyfall_ns.models.rasterizers.cpu_footprint import (
    BLUE,
    CENTRE_X,
    CENTRE_Y,
    DEPTH,
    FOOTPRINT,
    FOURTH,
    GREEN,
    K1,
    K2,
    K3,
    OPACITY,
    REACH,
    RED,
)
from skyfall_ns.models.rasterizers.cpu_tiles import BLOCKS, clip, record_in, rectangle, sort_by_depth
from skyfall_ns.models.rasterizers.lanes import (
    below_zero,
    bits_of,
    choose,
    exp2_minus,
    fma,
    lowest_bit,
    minimum,
    splat,
)
from skyfall_ns.models.rasterizers.lanes_memory import (
    at,
    claim,
    load,
    prefetch,
    room,
    store,
)
from skyfall_ns.models.rasterizers.types import DEEP_LEFT, HALF_LEFT

PIXELS = 16  # of a block
SIDE = 4
TILE_PX = BLOCKS * SIDE
TILE_BLOCKS = BLOCKS * BLOCKS
ALPHA_MAX = 0.999
STOP = 1e-4
LEFT, C_RED, C_GREEN, C_BLUE, C_DEPTH, HALF, DEEP, STATES = range(8)
FOURTHS = TILE_BLOCKS * STATES * PIXELS  # where a tile's state has its fourth colours, block after block
_BYTES = np.array([sum(1 << (BLOCKS * row) for row in range(rows)) for rows in range(BLOCKS + 1)], np.uint64)
_BINS = 512
_AHEAD = 4  # entries; the cache needs about as long to fetch what the next ones read
_ONE, _ALL = np.uint64(1), np.int64(0xFFFF)


def _places() -> np.ndarray:
    """Pixel columns, then pixel rows, of blocks -7 .. 7, sixteen numbers a block."""
    lanes = np.arange(PIXELS)
    starts = SIDE * np.arange(-(BLOCKS - 1), BLOCKS)[:, None]
    return np.concatenate([starts + lanes % SIDE, starts + lanes // SIDE]).astype(np.float32) + np.float32(0.5)


PLACES = _places().ravel()
_ZERO_COLUMN, _ZERO_ROW = (BLOCKS - 1) * PIXELS, (3 * BLOCKS - 2) * PIXELS  # of block 0 in PLACES


@njit(cache=True, forceinline=True)
def block_mask(footprints, gaussian, column, row):
    """The blocks of a tile that a Gaussian may touch, one bit each."""
    x0, y0, x1, y1 = rectangle(footprints, gaussian)
    left, right = clip(x0, x1, column)
    top, bottom = clip(y0, y1, row)
    line = ((_ONE << np.uint64(right - left + 1)) - _ONE) << np.uint64(left)
    return line * _BYTES[bottom - top + 1] << np.uint64(BLOCKS * top)


@njit(cache=True, forceinline=True)
def _nearest(offset):
    """The block of a tile nearest to a position on the tile, and the position from there on (px)."""
    block = min(max(np.int64(offset) // SIDE, 0), BLOCKS - 1)
    return block, offset - np.float32(block * SIDE)


@njit(cache=True, forceinline=True)
def footprint_lanes(footprints, gaussian, column, row):
    """(k1, k2, k3, u and v at the origin of the nearest block) and where PLACES holds block 0's columns and rows."""
    place = gaussian * FOOTPRINT
    k1, k2, k3 = at(footprints, place + K1), at(footprints, place + K2), at(footprints, place + K3)
    bx, dx = _nearest(at(footprints, place + CENTRE_X) - np.float32(column * TILE_PX))
    by, dy = _nearest(at(footprints, place + CENTRE_Y) - np.float32(row * TILE_PX))
    shape = splat(k1), splat(k2), splat(k3), splat(-(k1 * dx + k2 * dy)), splat(-(k3 * dy))
    return shape, _ZERO_COLUMN - bx * PIXELS, _ZERO_ROW - by * PIXELS


@njit(cache=True, forceinline=True)
def offsets(shape, places, columns, rows, block):
    """u and v of a block's pixels."""
    x = load(places, columns + (block % BLOCKS) * PIXELS)
    y = load(places, rows + (block // BLOCKS) * PIXELS)
    return fma(shape[0], x, fma(shape[1], y, shape[3])), fma(shape[2], y, shape[4])


@njit(cache=True, forceinline=True)
def _blend_gaussian(footprints, gaussian, mask, column, row, places, state, bits, pair, layered, four):
    """One Gaussian over its blocks: (blocks in which it took part, blocks that are full now, next pair)."""
    shape, columns, rows = footprint_lanes(footprints, gaussian, column, row)
    place = gaussian * FOOTPRINT
    reach, opacity = splat(at(footprints, place + REACH)), splat(at(footprints, place + OPACITY))
    red, green = splat(at(footprints, place + RED)), splat(at(footprints, place + GREEN))
    blue, depth = splat(at(footprints, place + BLUE)), splat(at(footprints, place + DEPTH))
    extra = splat(at(footprints, place + FOURTH))
    took, full = np.uint64(0), np.uint64(0)
    while mask:
        block = lowest_bit(mask)
        mask &= mask - _ONE
        u, v = offsets(shape, places, columns, rows, block)
        exponent = fma(u, u, v * v)
        seen = reach >= exponent
        alpha = minimum(opacity * exp2_minus(exponent), ALPHA_MAX)
        here = block * (STATES * PIXELS)
        left = load(state, here)
        part = alpha * left
        after = left - part
        passed = seen & (after > STOP)
        weight = choose(passed, part, 0.0)
        if layered:
            half, deep = here + HALF * PIXELS, here + DEEP * PIXELS
            store(state, half, choose(passed & (left > HALF_LEFT), depth, load(state, half)))
            store(state, deep, choose(passed & (left > DEEP_LEFT), depth, load(state, deep)))
        left = choose(passed, after, choose(seen & (after <= STOP), below_zero(left), left))
        store(state, here, left)
        store(state, here + PIXELS, fma(weight, red, load(state, here + PIXELS)))
        store(state, here + 2 * PIXELS, fma(weight, green, load(state, here + 2 * PIXELS)))
        store(state, here + 3 * PIXELS, fma(weight, blue, load(state, here + 3 * PIXELS)))
        store(state, here + 4 * PIXELS, fma(weight, depth, load(state, here + 4 * PIXELS)))
        if four:
            there = FOURTHS + block * PIXELS
            store(state, there, fma(weight, extra, load(state, there)))
        which = bits_of(passed)
        if not layered:
            bits[pair] = which
            some = np.uint64(which != 0)
            pair += np.int64(some)
            took |= some << np.uint64(block)
        full |= np.uint64(bits_of(left < 0.0) == _ALL) << np.uint64(block)
    return took, full, pair


@njit(cache=True)
def _begin(state, column, row, width, height):
    """Nothing drawn yet; pixels outside the picture have stopped. Returns the blocks with pixels inside."""
    state[:] = 0.0
    open_blocks = np.uint64(0)
    for block in range(TILE_BLOCKS):
        x, y = column * TILE_PX + block % BLOCKS * SIDE, row * TILE_PX + block // BLOCKS * SIDE
        if x < width and y < height:
            open_blocks |= _ONE << np.uint64(block)
        for lane in range(PIXELS):
            inside = x + lane % SIDE < width and y + lane // SIDE < height
            state[block * STATES * PIXELS + lane] = 1.0 if inside else -1.0
    return open_blocks


@njit(cache=True)
def _finish(state, column, row, color, depth, alpha, remains, layers):
    """The tile's pixels into the picture."""
    height, width = alpha.shape
    for y in range(row * TILE_PX, min((row + 1) * TILE_PX, height)):
        for x in range(column * TILE_PX, min((column + 1) * TILE_PX, width)):
            block = y // SIDE % BLOCKS * BLOCKS + x // SIDE % BLOCKS
            here = block * STATES * PIXELS + y % SIDE * SIDE + x % SIDE
            left = abs(state[here])
            drawn = np.float32(1.0) - left
            for channel in range(min(color.shape[2], 3)):
                color[y, x, channel] = state[here + (1 + channel) * PIXELS]
            if color.shape[2] == 4:
                color[y, x, 3] = state[FOURTHS + block * PIXELS + y % SIDE * SIDE + x % SIDE]
            expected = state[here + C_DEPTH * PIXELS] / drawn if drawn > 0 else np.float32(0.0)
            depth[y, x], alpha[y, x], remains[y, x] = expected, drawn, left
            if layers.shape[1]:
                layers[0, y, x], layers[1, y, x] = state[here + HALF * PIXELS], state[here + DEEP * PIXELS]


@njit(cache=True)
def _put_in_order(footprints, gaussians, near, keys, other, bins):
    depths = near.view(np.float32)
    for i in range(gaussians.shape[0]):
        depths[i] = at(footprints, np.int64(gaussians[i]) * FOOTPRINT + DEPTH)
    sort_by_depth(near, gaussians, keys, other, bins)


@njit(cache=True, error_model="numpy")
def _blend_tiles(
    counter, longest, footprints, columns, first_entry, first_pair, of_gaussian, first_record, of_record, took, bits,
    used, color, depth, alpha, remains, layers,
):  # fmt: skip
    height, width = alpha.shape
    layered, four = layers.shape[1] > 0, color.shape[2] == 4
    keys, other, bins = np.empty(longest, np.uint64), np.empty(longest, np.uint64), np.empty(_BINS, np.int64)
    near, state = np.empty(longest, np.uint32), room(FOURTHS + four * TILE_BLOCKS * PIXELS)
    places = room(PLACES.size)
    places[:] = PLACES
    tile = claim(counter)
    while tile < first_entry.shape[0] - 1:
        start, end = first_entry[tile], first_entry[tile + 1]
        row, column = tile // columns, tile % columns
        open_blocks = _begin(state, column, row, width, height)
        pair = first_pair[tile]
        if end > start:
            _put_in_order(footprints, of_gaussian[start:end], near[: end - start], keys, other, bins)
        for entry in range(start, end):
            gaussian = np.int64(of_gaussian[entry])
            prefetch(footprints, np.int64(of_gaussian[min(entry + _AHEAD, end - 1)]) * FOOTPRINT, 0)
            mask = block_mask(footprints, gaussian, column, row) & open_blocks
            part, full, pair = _blend_gaussian(
                footprints, gaussian, mask, column, row, places, state, bits, pair, layered, four
            )
            open_blocks &= ~full
            if not layered:
                took[entry], of_record[entry] = part, record_in(footprints, first_record, gaussian, column, row)
        used[tile] = pair - first_pair[tile]
        _finish(state, column, row, color, depth, alpha, remains, layers)
        tile = claim(counter)


@njit(parallel=True, cache=True)
def blend(
    threads, footprints, columns, first_entry, first_pair, of_gaussian, first_record, of_record, took, bits, used,
    color, depth, alpha, remains, layers,
):  # fmt: skip
    """Draw all tiles: `color` [h, w, up to 4], `depth` (expected), `alpha` and `remains` (the transmittance) [h, w];
    lists of Gaussians are put in order. With `layers` [2, h, w] the half and deep depths are told (see Rendering);
    with `layers` [2, 0, 0], what the way back asks for: each entry's record, the blocks in which it took part, lanes of
    those pairs (from the tile's first pair on), and how many pairs each tile used."""
    counter, longest = np.zeros(1, np.int64), 0
    for tile in range(first_entry.shape[0] - 1):
        longest = max(longest, first_entry[tile + 1] - first_entry[tile])
    for _ in prange(threads):
        _blend_tiles(
            counter, longest, footprints, columns, first_entry, first_pair, of_gaussian, first_record, of_record, took,
            bits, used, color, depth, alpha, remains, layers,
        )  # fmt: skip
