"""Front-to-back blending of a tile, sixteen pixels (a 4x4 block) at a time.

Rules (gsplat's): alpha = min(0.999, opacity 2^-(u² + v²)), skipped below 1/255; a pixel is finished before the
Gaussian that would bring its transmittance to 1e-4 or less. The outer loop runs over a tile's Gaussians and the inner
one over the blocks that a Gaussian may touch, so that successive steps do not depend on each other. The transmittance
of a finished pixel is stored negated, and no further Gaussian contributes to it.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import numpy as np
from numba import prange

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.rasterizers.cpu_footprint import (
    BLUE,
    CENTER_X,
    CENTER_Y,
    CUTOFF,
    DEPTH,
    FOOTPRINT_SIZE,
    FOURTH,
    GREEN,
    K1,
    K2,
    K3,
    OPACITY,
    RED,
)
from skyfall_ns.models.rasterizers.cpu_tiles import (
    BLOCKS_PER_SIDE,
    block_rectangle,
    clip_to_tile,
    record_index,
    sort_by_depth,
)
from skyfall_ns.models.rasterizers.lanes import (
    broadcast,
    exp2_minus,
    fma,
    lowest_bit,
    mask_bits,
    minimum,
    negated_magnitude,
    select_lanes,
)
from skyfall_ns.models.rasterizers.lanes_memory import (
    aligned_empty,
    claim_next,
    load_element,
    load_lanes,
    prefetch_element,
    store_lanes,
)
from skyfall_ns.models.rasterizers.types import DEEP_T, MEDIAN_T

BLOCK_PIXELS = 16
BLOCK_SIDE = 4
TILE_PX = BLOCKS_PER_SIDE * BLOCK_SIDE
TILE_BLOCKS = BLOCKS_PER_SIDE * BLOCKS_PER_SIDE
ALPHA_MAX = 0.999
MIN_TRANSMITTANCE = 1e-4
# rows of a block's state
TRANSMITTANCE, C_RED, C_GREEN, C_BLUE, C_DEPTH, MEDIAN_DEPTH, DEEP_DEPTH, NUM_STATES = range(8)
FOURTH_COLORS = TILE_BLOCKS * NUM_STATES * BLOCK_PIXELS  # offset of the fourth color in the state of a tile
_ROW_MASKS = np.array(
    [sum(1 << (BLOCKS_PER_SIDE * row) for row in range(rows)) for rows in range(BLOCKS_PER_SIDE + 1)], np.uint64
)
_RADIX_BINS = 512
_PREFETCH_AHEAD = 4  # entries: about the time that a fetch from memory takes
_ONE, _ALL_LANES = np.uint64(1), np.int64(0xFFFF)


def _pixel_positions() -> np.ndarray:
    """Pixel columns, then pixel rows, of blocks -7 .. 7, sixteen values per block."""
    lanes = np.arange(BLOCK_PIXELS)
    starts = BLOCK_SIDE * np.arange(-(BLOCKS_PER_SIDE - 1), BLOCKS_PER_SIDE)[:, None]
    corners = np.concatenate([starts + lanes % BLOCK_SIDE, starts + lanes // BLOCK_SIDE])
    return corners.astype(np.float32) + np.float32(0.5)


PIXEL_POSITIONS = _pixel_positions().ravel()
# offsets of block 0 in PIXEL_POSITIONS
_ZERO_COLUMN = (BLOCKS_PER_SIDE - 1) * BLOCK_PIXELS
_ZERO_ROW = (3 * BLOCKS_PER_SIDE - 2) * BLOCK_PIXELS


@njit(cache=True, forceinline=True)
def block_mask(footprints, gaussian, column, row):
    """Bit mask (uint64) of the blocks of a tile that a Gaussian may touch."""
    x0, y0, x1, y1 = block_rectangle(footprints, gaussian)
    left, right = clip_to_tile(x0, x1, column)
    top, bottom = clip_to_tile(y0, y1, row)
    row_bits = ((_ONE << np.uint64(right - left + 1)) - _ONE) << np.uint64(left)
    return row_bits * _ROW_MASKS[bottom - top + 1] << np.uint64(BLOCKS_PER_SIDE * top)


@njit(cache=True, forceinline=True)
def _nearest_block(offset):
    """The block of a tile nearest to a position on the tile, and the position relative to that block (px)."""
    block = min(max(np.int64(offset) // BLOCK_SIDE, 0), BLOCKS_PER_SIDE - 1)
    return block, offset - np.float32(block * BLOCK_SIDE)


@njit(cache=True, forceinline=True)
def footprint_terms(footprints, gaussian, column, row):
    """(k1, k2, k3, u and v at the origin of the nearest block), and the offsets of block 0's columns and rows in
    PIXEL_POSITIONS."""
    offset = gaussian * FOOTPRINT_SIZE
    k1 = load_element(footprints, offset + K1)
    k2 = load_element(footprints, offset + K2)
    k3 = load_element(footprints, offset + K3)
    bx, dx = _nearest_block(load_element(footprints, offset + CENTER_X) - np.float32(column * TILE_PX))
    by, dy = _nearest_block(load_element(footprints, offset + CENTER_Y) - np.float32(row * TILE_PX))
    terms = broadcast(k1), broadcast(k2), broadcast(k3), broadcast(-(k1 * dx + k2 * dy)), broadcast(-(k3 * dy))
    return terms, _ZERO_COLUMN - bx * BLOCK_PIXELS, _ZERO_ROW - by * BLOCK_PIXELS


@njit(cache=True, forceinline=True)
def footprint_offsets(terms, positions, columns, rows, block):
    """u and v at the pixels of a block."""
    x = load_lanes(positions, columns + (block % BLOCKS_PER_SIDE) * BLOCK_PIXELS)
    y = load_lanes(positions, rows + (block // BLOCKS_PER_SIDE) * BLOCK_PIXELS)
    return fma(terms[0], x, fma(terms[1], y, terms[3])), fma(terms[2], y, terms[4])


@njit(cache=True, forceinline=True)
def _blend_gaussian(
    footprints, gaussian, mask, column, row, positions, state, pair_bits, pair, with_depths, has_fourth
):
    """Blend one Gaussian into its blocks; returns (blocks it contributed to, blocks finished now, next pair)."""
    terms, columns, rows = footprint_terms(footprints, gaussian, column, row)
    offset = gaussian * FOOTPRINT_SIZE
    cutoff = broadcast(load_element(footprints, offset + CUTOFF))
    opacity = broadcast(load_element(footprints, offset + OPACITY))
    red = broadcast(load_element(footprints, offset + RED))
    green = broadcast(load_element(footprints, offset + GREEN))
    blue = broadcast(load_element(footprints, offset + BLUE))
    depth = broadcast(load_element(footprints, offset + DEPTH))
    fourth = broadcast(load_element(footprints, offset + FOURTH))
    contributing_blocks, finished_blocks = np.uint64(0), np.uint64(0)
    while mask:
        block = lowest_bit(mask)
        mask &= mask - _ONE
        u, v = footprint_offsets(terms, positions, columns, rows, block)
        exponent = fma(u, u, v * v)
        visible = cutoff >= exponent
        alpha = minimum(opacity * exp2_minus(exponent), ALPHA_MAX)
        start = block * (NUM_STATES * BLOCK_PIXELS)
        transmittance = load_lanes(state, start)
        contribution = alpha * transmittance
        after = transmittance - contribution
        contributing = visible & (after > MIN_TRANSMITTANCE)
        weight = select_lanes(contributing, contribution, 0.0)
        if with_depths:
            median_start, deep_start = start + MEDIAN_DEPTH * BLOCK_PIXELS, start + DEEP_DEPTH * BLOCK_PIXELS
            store_lanes(
                state,
                median_start,
                select_lanes(contributing & (transmittance > MEDIAN_T), depth, load_lanes(state, median_start)),
            )
            store_lanes(
                state,
                deep_start,
                select_lanes(contributing & (transmittance > DEEP_T), depth, load_lanes(state, deep_start)),
            )
        transmittance = select_lanes(
            contributing,
            after,
            select_lanes(visible & (after <= MIN_TRANSMITTANCE), negated_magnitude(transmittance), transmittance),
        )
        store_lanes(state, start, transmittance)
        store_lanes(state, start + BLOCK_PIXELS, fma(weight, red, load_lanes(state, start + BLOCK_PIXELS)))
        store_lanes(state, start + 2 * BLOCK_PIXELS, fma(weight, green, load_lanes(state, start + 2 * BLOCK_PIXELS)))
        store_lanes(state, start + 3 * BLOCK_PIXELS, fma(weight, blue, load_lanes(state, start + 3 * BLOCK_PIXELS)))
        store_lanes(state, start + 4 * BLOCK_PIXELS, fma(weight, depth, load_lanes(state, start + 4 * BLOCK_PIXELS)))
        if has_fourth:
            fourth_start = FOURTH_COLORS + block * BLOCK_PIXELS
            store_lanes(state, fourth_start, fma(weight, fourth, load_lanes(state, fourth_start)))
        contributing_bits = mask_bits(contributing)
        if not with_depths:
            pair_bits[pair] = contributing_bits
            any_contributing = np.uint64(contributing_bits != 0)
            pair += np.int64(any_contributing)
            contributing_blocks |= any_contributing << np.uint64(block)
        finished_blocks |= np.uint64(mask_bits(transmittance < 0.0) == _ALL_LANES) << np.uint64(block)
    return contributing_blocks, finished_blocks, pair


@njit(cache=True)
def _init_state(state, column, row, width, height):
    """Reset a tile's state; pixels outside the image are finished. Returns the mask of blocks with pixels inside."""
    state[:] = 0.0
    open_blocks = np.uint64(0)
    for block in range(TILE_BLOCKS):
        x = column * TILE_PX + block % BLOCKS_PER_SIDE * BLOCK_SIDE
        y = row * TILE_PX + block // BLOCKS_PER_SIDE * BLOCK_SIDE
        if x < width and y < height:
            open_blocks |= _ONE << np.uint64(block)
        for lane in range(BLOCK_PIXELS):
            inside = x + lane % BLOCK_SIDE < width and y + lane // BLOCK_SIDE < height
            state[block * NUM_STATES * BLOCK_PIXELS + lane] = 1.0 if inside else -1.0
    return open_blocks


@njit(cache=True)
def _write_tile(state, column, row, color, depth, alpha, transmittance, transmittance_depths):
    """Write a tile's state to the output images."""
    height, width = alpha.shape
    for y in range(row * TILE_PX, min((row + 1) * TILE_PX, height)):
        for x in range(column * TILE_PX, min((column + 1) * TILE_PX, width)):
            block = y // BLOCK_SIDE % BLOCKS_PER_SIDE * BLOCKS_PER_SIDE + x // BLOCK_SIDE % BLOCKS_PER_SIDE
            start = block * NUM_STATES * BLOCK_PIXELS + y % BLOCK_SIDE * BLOCK_SIDE + x % BLOCK_SIDE
            remaining = abs(state[start])
            covered = np.float32(1.0) - remaining
            for channel in range(min(color.shape[2], 3)):
                color[y, x, channel] = state[start + (1 + channel) * BLOCK_PIXELS]
            if color.shape[2] == 4:
                color[y, x, 3] = state[
                    FOURTH_COLORS + block * BLOCK_PIXELS + y % BLOCK_SIDE * BLOCK_SIDE + x % BLOCK_SIDE
                ]
            expected = state[start + C_DEPTH * BLOCK_PIXELS] / covered if covered > 0 else np.float32(0.0)
            depth[y, x], alpha[y, x], transmittance[y, x] = expected, covered, remaining
            if transmittance_depths.shape[1]:
                transmittance_depths[0, y, x] = state[start + MEDIAN_DEPTH * BLOCK_PIXELS]
                transmittance_depths[1, y, x] = state[start + DEEP_DEPTH * BLOCK_PIXELS]


@njit(cache=True)
def _sort_entries(footprints, gaussians, depth_bits, keys, scratch, bins):
    """Sort the list of a tile by depth, near to far."""
    depths = depth_bits.view(np.float32)
    for i in range(gaussians.shape[0]):
        depths[i] = load_element(footprints, np.int64(gaussians[i]) * FOOTPRINT_SIZE + DEPTH)
    sort_by_depth(depth_bits, gaussians, keys, scratch, bins)


@njit(cache=True, error_model="numpy")
def _blend_tiles(
    counter, max_entries, footprints, columns, first_entry, first_pair, gaussian_of_entry, first_record,
    record_of_entry, contributing_blocks, pair_bits, pairs_used, color, depth, alpha, transmittance,
    transmittance_depths,
):  # fmt: skip
    height, width = alpha.shape
    with_depths, has_fourth = transmittance_depths.shape[1] > 0, color.shape[2] == 4
    keys = np.empty(max_entries, np.uint64)
    scratch = np.empty(max_entries, np.uint64)
    bins = np.empty(_RADIX_BINS, np.int64)
    depth_bits = np.empty(max_entries, np.uint32)
    state = aligned_empty(FOURTH_COLORS + has_fourth * TILE_BLOCKS * BLOCK_PIXELS)
    positions = aligned_empty(PIXEL_POSITIONS.size)
    positions[:] = PIXEL_POSITIONS
    tile = claim_next(counter)
    while tile < first_entry.shape[0] - 1:
        start, end = first_entry[tile], first_entry[tile + 1]
        row, column = tile // columns, tile % columns
        open_blocks = _init_state(state, column, row, width, height)
        pair = first_pair[tile]
        if end > start:
            _sort_entries(footprints, gaussian_of_entry[start:end], depth_bits[: end - start], keys, scratch, bins)
        for entry in range(start, end):
            gaussian = np.int64(gaussian_of_entry[entry])
            prefetch_element(
                footprints, np.int64(gaussian_of_entry[min(entry + _PREFETCH_AHEAD, end - 1)]) * FOOTPRINT_SIZE, 0
            )
            mask = block_mask(footprints, gaussian, column, row) & open_blocks
            touched_blocks, finished_blocks, pair = _blend_gaussian(
                footprints, gaussian, mask, column, row, positions, state, pair_bits, pair, with_depths, has_fourth
            )
            open_blocks &= ~finished_blocks
            if not with_depths:
                contributing_blocks[entry] = touched_blocks
                record_of_entry[entry] = record_index(footprints, first_record, gaussian, column, row)
        pairs_used[tile] = pair - first_pair[tile]
        _write_tile(state, column, row, color, depth, alpha, transmittance, transmittance_depths)
        tile = claim_next(counter)


@njit(parallel=True, cache=True)
def blend_forward(
    threads, footprints, columns, first_entry, first_pair, gaussian_of_entry, first_record, record_of_entry,
    contributing_blocks, pair_bits, pairs_used, color, depth, alpha, transmittance, transmittance_depths,
):  # fmt: skip
    """Blend all tiles into `color` [h, w, up to 4], `depth` (expected), `alpha` and `transmittance` [h, w].

    Tile lists are sorted by depth in place. With `transmittance_depths` [2, h, w], the median and deep depths are
    written too (see Rendering). With `transmittance_depths` [2, 0, 0], the inputs of the backward pass are written
    instead: the record of each entry, the blocks it contributed to, the lanes of those pairs (from the tile's first
    pair on), and the number of pairs of each tile."""
    counter, max_entries = np.zeros(1, np.int64), 0
    for tile in range(first_entry.shape[0] - 1):
        max_entries = max(max_entries, first_entry[tile + 1] - first_entry[tile])
    for _ in prange(threads):
        _blend_tiles(
            counter, max_entries, footprints, columns, first_entry, first_pair, gaussian_of_entry, first_record,
            record_of_entry, contributing_blocks, pair_bits, pairs_used, color, depth, alpha, transmittance,
            transmittance_depths,
        )  # fmt: skip
