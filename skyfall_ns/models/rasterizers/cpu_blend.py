"""Blending of a tile, forward and backward, sixteen pixels (a 4x4 block) at a time.

Rules (gsplat's): alpha = min(0.999, opacity 2^-(u² + v²)), left out below 1/255; a pixel stops before the Gaussian that
would bring its transmittance to 1e-4 or less. Forward goes block by block with the block's state in registers and notes
per pair which pixels took part; backward goes Gaussian by Gaussian, back to front, and needs no decision again.
"""

import numpy as np
from numba import njit, prange

from skyfall_ns.models.rasterizers.cpu_project import (
    CENTRE_X,
    CENTRE_Y,
    DEPTH,
    K1,
    K2,
    K3,
    OPACITY,
    REACH,
    RECORD,
)
from skyfall_ns.models.rasterizers.cpu_tiles import BLOCKS, block_range, depth_order
from skyfall_ns.models.rasterizers.lanes import (
    above,
    at_least,
    choose,
    exp2_minus,
    fma,
    load,
    magnitude,
    minimum,
    splat,
    store,
    total,
)

PIXELS = 16  # of a block
SIDE = 4
ALPHA_MAX = np.float32(0.999)
STOP = np.float32(1e-4)
_COLUMN = np.tile(np.arange(4, dtype=np.float32), 4) + np.float32(0.5)
_ROW = np.repeat(np.arange(4, dtype=np.float32), 4) + np.float32(0.5)
_PLACES = np.concatenate([_COLUMN, _ROW])


@njit(cache=True)
def _inside(x, y, width, height):
    """Bits of a block's pixels that lie in the picture."""
    bits = 0
    for lane in range(PIXELS):
        if x + lane % SIDE < width and y + lane // SIDE < height:
            bits |= 1 << lane
    return bits


@njit(cache=True)
def _block_lists(rect, gaussians, pairs, order, column, row):
    """For each block of a tile, its entries front to back: positions in `order`'s list, and their pairs."""
    first = np.zeros(BLOCKS * BLOCKS + 1, np.int64)
    for entry in order:
        x0, x1, y0, y1 = block_range(rect[gaussians[entry]], column, row)
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                first[(y - row * BLOCKS) * BLOCKS + x - column * BLOCKS + 1] += 1
    for block in range(BLOCKS * BLOCKS):
        first[block + 1] += first[block]
    entries, numbers = np.empty(first[-1], np.int32), np.empty(first[-1], np.int64)
    ahead = first.copy()
    for entry in order:
        x0, x1, y0, y1 = block_range(rect[gaussians[entry]], column, row)
        pair = pairs[entry]
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                block = (y - row * BLOCKS) * BLOCKS + x - column * BLOCKS
                entries[ahead[block]], numbers[ahead[block]] = gaussians[entry], pair
                ahead[block] += 1
                pair += 1
    return first, entries, numbers


@njit(cache=True, forceinline=True)
def _offsets(footprint, x, y, places):
    """u and v of a block's pixels."""
    k1, k2, k3 = footprint[K1], footprint[K2], footprint[K3]
    dx, dy = x - footprint[CENTRE_X], y - footprint[CENTRE_Y]
    column, row = load(places, 0), load(places, PIXELS)
    u = fma(splat(k1), column, fma(splat(k2), row, splat(k1 * dx + k2 * dy)))
    return u, fma(splat(k3), row, splat(k3 * dy))


@njit(cache=True, forceinline=True)
def _blend_block(footprints, colors, entries, numbers, x, y, live, places, bits, keep, state):
    """One block front to back; leaves colour (3), depth, alpha, transmittance and median depth in `state` [7 * 16]."""
    zero, one = splat(np.float32(0)), splat(np.float32(1))
    stop, cap = splat(STOP), splat(ALPHA_MAX)
    left, red, green, blue, depth, middle, half = one, zero, zero, zero, zero, zero, splat(np.float32(0.5))
    for i in range(entries.shape[0]):
        gaussian = entries[i]
        footprint = footprints[gaussian]
        u, v = _offsets(footprint, x, y, places)
        exponent = fma(u, u, v * v)
        seen = at_least(splat(footprint[REACH]), exponent) & live
        if seen == 0:
            continue
        alpha = minimum(splat(footprint[OPACITY]) * exp2_minus(exponent), cap)
        after = left - alpha * left
        passed = above(after, stop) & seen
        weight = choose(passed, alpha * left, zero)
        if not keep:  # training reads no medians
            middle = choose(passed & above(left, half), splat(footprint[DEPTH]), middle)
        left = choose(passed, after, left)
        red = fma(weight, splat(colors[gaussian, 0]), red)
        green = fma(weight, splat(colors[gaussian, 1]), green)
        blue = fma(weight, splat(colors[gaussian, 2]), blue)
        depth = fma(weight, splat(footprint[DEPTH]), depth)
        if keep:
            bits[numbers[i]] = passed
        live &= ~(seen & ~passed)
        if live == 0:
            break
    store(state, 0, red)
    store(state, PIXELS, green)
    store(state, 2 * PIXELS, blue)
    store(state, 3 * PIXELS, depth)
    store(state, 4 * PIXELS, one - left)
    store(state, 5 * PIXELS, left)
    store(state, 6 * PIXELS, choose(above(left, half), zero, middle))


@njit(parallel=True, cache=True)
def blend(
    footprints, colors, rect, columns, width, height, first_entry, of_gaussian, of_pair, order, bits, keep, image,
    remains, median,
):  # fmt: skip
    """Draw all tiles: `image` [h, w, 5] gets three colours, weighted depth and alpha, `remains` [h, w] the
    transmittance; with `keep`, `order` and `bits` are filled for the way back, without it `median` [h, w], the depth at
    which the transmittance passes one half (0 where it does not)."""
    for tile in prange(first_entry.shape[0] - 1):
        start, end = first_entry[tile], first_entry[tile + 1]
        if start == end:
            continue
        row, column = tile // columns, tile % columns
        gaussians, pairs = of_gaussian[start:end], of_pair[start:end]
        sequence = depth_order(footprints, gaussians)
        if keep:
            order[start:end] = sequence
        first, entries, numbers = _block_lists(rect, gaussians, pairs, sequence, column, row)
        state, places = np.empty(7 * PIXELS, np.float32), _PLACES.copy()
        for block in range(BLOCKS * BLOCKS):
            if first[block] == first[block + 1]:
                continue
            x = (column * BLOCKS + block % BLOCKS) * SIDE
            y = (row * BLOCKS + block // BLOCKS) * SIDE
            inside, part = _inside(x, y, width, height), slice(first[block], first[block + 1])
            _blend_block(
                footprints, colors, entries[part], numbers[part], np.float32(x), np.float32(y), inside, places, bits,
                keep, state,
            )  # fmt: skip
            for lane in range(PIXELS):
                if (inside >> lane) & 1:
                    i, j = y + lane // SIDE, x + lane % SIDE
                    for channel in range(5):
                        image[i, j, channel] = state[channel * PIXELS + lane]
                    remains[i, j] = state[5 * PIXELS + lane]
                    if not keep:
                        median[i, j] = state[6 * PIXELS + lane]


@njit(cache=True)
def _load_tile(d_image, remains, column, row, width, height, gradients, left):
    """The tile's incoming gradients [blocks, 5 * 16] and transmittances [blocks, 16]."""
    gradients[:], left[:] = 0.0, 1.0
    for y in range(row * BLOCKS * SIDE, min((row + 1) * BLOCKS * SIDE, height)):
        for x in range(column * BLOCKS * SIDE, min((column + 1) * BLOCKS * SIDE, width)):
            block = (y // SIDE % BLOCKS) * BLOCKS + x // SIDE % BLOCKS
            lane = (y % SIDE) * SIDE + x % SIDE
            left[block * PIXELS + lane] = remains[y, x]
            for channel in range(5):
                gradients[(block * 5 + channel) * PIXELS + lane] = d_image[y, x, channel]


@njit(cache=True, forceinline=True)
def _gather_record(footprint, color, rect, pair, column, row, bits, places, gradients, left, behind, absgrad, out):
    """One Gaussian over its blocks of a tile: leave its sums in `out`, step the blocks' state one Gaussian back."""
    zero, one = splat(np.float32(0)), splat(np.float32(1))
    su, sv, suu, suv, svv, so, sz = zero, zero, zero, zero, zero, zero, zero
    red, green, blue, ax, ay = zero, zero, zero, zero, zero
    opacity, cap = splat(footprint[OPACITY]), splat(ALPHA_MAX)
    x0, x1, y0, y1 = block_range(rect, column, row)
    for by in range(y0, y1 + 1):
        for bx in range(x0, x1 + 1):
            passed = np.int64(bits[pair])
            pair += 1
            if passed == 0:
                continue
            block = (by - row * BLOCKS) * BLOCKS + bx - column * BLOCKS
            u, v = _offsets(footprint, np.float32(bx * SIDE), np.float32(by * SIDE), places)
            fall = exp2_minus(minimum(fma(u, u, v * v), splat(np.float32(100))))
            full = opacity * fall
            alpha = minimum(full, cap)
            after = load(left, block * PIXELS)
            before = after / (one - alpha)
            base = block * 5 * PIXELS
            d_red, d_green, d_blue = load(gradients, base), load(gradients, base + 16), load(gradients, base + 32)
            d_depth, d_alpha = load(gradients, base + 48), load(gradients, base + 64)
            worth = fma(d_red, splat(color[0]), fma(d_green, splat(color[1]), d_alpha))
            worth = fma(d_blue, splat(color[2]), fma(d_depth, splat(footprint[DEPTH]), worth))
            rest = load(behind, block * PIXELS)
            ahead = worth - rest
            weight = choose(passed, alpha * before, zero)
            slope = choose(passed & at_least(cap, full), before * ahead, zero)
            store(left, block * PIXELS, choose(passed, before, after))
            store(behind, block * PIXELS, choose(passed, fma(alpha, ahead, rest), rest))
            red, green, blue = fma(weight, d_red, red), fma(weight, d_green, green), fma(weight, d_blue, blue)
            sz = fma(weight, d_depth, sz)
            so = fma(slope, fall, so)
            g = zero - slope * alpha
            gu, gv = g * u, g * v
            su, sv = su + gu, sv + gv
            suu, suv, svv = fma(gu, u, suu), fma(gu, v, suv), fma(gv, v, svv)
            if absgrad:
                ax = ax + magnitude(splat(footprint[K1]) * gu)
                ay = ay + magnitude(fma(splat(footprint[K2]), gu, splat(footprint[K3]) * gv))
    out[0], out[1], out[2], out[3], out[4] = total(su), total(sv), total(suu), total(suv), total(svv)
    out[5], out[6], out[7], out[8], out[9] = total(so), total(sz), total(red), total(green), total(blue)
    two_ln2 = np.float32(2.0 * np.log(2.0))  # exponent = ln 2 (u² + v²)
    out[10], out[11] = two_ln2 * total(ax), two_ln2 * total(ay)


@njit(parallel=True, cache=True)
def blend_backward(
    footprints, colors, rect, columns, width, height, first_entry, of_gaussian, of_record, of_pair, order, bits,
    d_image, remains, absgrad, records,
):  # fmt: skip
    """Fill `records` [m, 12] from dL/d(image) [h, w, 5]."""
    for tile in prange(first_entry.shape[0] - 1):
        start, end = first_entry[tile], first_entry[tile + 1]
        if start == end:
            continue
        row, column = tile // columns, tile % columns
        gradients = np.empty(BLOCKS * BLOCKS * 5 * PIXELS, np.float32)
        left, behind = np.empty(BLOCKS * BLOCKS * PIXELS, np.float32), np.zeros(BLOCKS * BLOCKS * PIXELS, np.float32)
        _load_tile(d_image, remains, column, row, width, height, gradients, left)
        places = _PLACES.copy()
        for i in range(end - start - 1, -1, -1):
            entry = start + order[start + i]
            gaussian = of_gaussian[entry]
            _gather_record(
                footprints[gaussian], colors[gaussian], rect[gaussian], of_pair[entry], column, row, bits, places,
                gradients, left, behind, absgrad, records[of_record[entry]],
            )  # fmt: skip


assert RECORD == 12
