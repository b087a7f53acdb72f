"""Lists of the Gaussians that touch each 32x32 px tile, front to back; the same for any number of threads.

A *record* is one (Gaussian, tile), a *pair* one (Gaussian, 4x4 px block), an *entry* one place in a tile's list.
Records are numbered Gaussian by Gaussian, so that the projection's backward pass reads them consecutively; entries are
numbered tile by tile.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import numpy as np
from numba import prange

from skyfall_ns.geo.compilation import njit
from skyfall_ns.models.rasterizers.cpu_footprint import FIRST_X, FIRST_Y, FOOTPRINT_SIZE, LAST_X, LAST_Y
from skyfall_ns.models.rasterizers.lanes import LANE_COUNT
from skyfall_ns.models.rasterizers.lanes_memory import claim_next, load_element

BLOCKS_PER_SIDE = 8  # 4x4 px blocks along the side of a tile
NUM_CHUNKS = 64  # of Gaussians; fixed, so that results do not depend on the number of threads
_PAIR_UNIT = np.int64(1) << 32  # one int64 holds the count of pairs (high 32 bits) and of records (low 32 bits)
_RECORD_MASK = _PAIR_UNIT - 1
_RADIX_BITS = 9


@njit(cache=True, forceinline=True)
def block_rectangle(footprints, gaussian):
    """First column, first row, last column, last row of a footprint's blocks."""
    offset = gaussian * FOOTPRINT_SIZE
    return (
        np.int64(load_element(footprints, offset + FIRST_X)),
        np.int64(load_element(footprints, offset + FIRST_Y)),
        np.int64(load_element(footprints, offset + LAST_X)),
        np.int64(load_element(footprints, offset + LAST_Y)),
    )


@njit(cache=True, forceinline=True)
def clip_to_tile(first, last, tile):
    """First and last block of a range inside a column (or row) of tiles, relative to its start."""
    return max(first - tile * BLOCKS_PER_SIDE, 0), min(last - tile * BLOCKS_PER_SIDE, BLOCKS_PER_SIDE - 1)


@njit(cache=True, forceinline=True)
def count_tiles(footprints, first, last, columns, histogram, chunk):
    """Add the Gaussians first .. last - 1 to a chunk's counts of records and pairs per tile."""
    for i in range(first, last):
        x0, y0, x1, y1 = block_rectangle(footprints, i)
        if x1 < x0:
            continue
        for row in range(y0 // BLOCKS_PER_SIDE, y1 // BLOCKS_PER_SIDE + 1):
            top, bottom = clip_to_tile(y0, y1, row)
            for column in range(x0 // BLOCKS_PER_SIDE, x1 // BLOCKS_PER_SIDE + 1):
                left, right = clip_to_tile(x0, x1, column)
                histogram[chunk, row * columns + column] += 1 + (right - left + 1) * (bottom - top + 1) * _PAIR_UNIT


@njit(cache=True)
def tile_starts(histogram):
    """First list entry and first pair of each tile [tiles + 1], first record of each chunk [chunks].

    The histogram is overwritten by the first entry of each (chunk, tile)."""
    chunks, tiles = histogram.shape
    entries, pairs = np.zeros(tiles + 1, np.int64), np.zeros(tiles + 1, np.int64)
    records = np.zeros(chunks + 1, np.int64)
    entry = pair = 0
    for tile in range(tiles):
        entries[tile], pairs[tile] = entry, pair
        for chunk in range(chunks):
            counts = histogram[chunk, tile]
            histogram[chunk, tile] = entry
            entry += counts & _RECORD_MASK
            pair += counts >> 32
            records[chunk + 1] += counts & _RECORD_MASK
    entries[tiles], pairs[tiles] = entry, pair
    return entries, pairs, np.cumsum(records)


@njit(cache=True)
def _fill_chunks(counter, footprints, columns, first_of_chunk, next_entry, gaussian_of_entry, first_record):
    n = footprints.shape[0]
    groups = (n + LANE_COUNT - 1) // LANE_COUNT
    chunk = claim_next(counter)
    while chunk < NUM_CHUNKS:
        record = first_of_chunk[chunk]
        first = groups * chunk // NUM_CHUNKS * LANE_COUNT
        for i in range(first, min(groups * (chunk + 1) // NUM_CHUNKS * LANE_COUNT, n)):
            first_record[i] = record
            x0, y0, x1, y1 = block_rectangle(footprints, i)
            if x1 < x0:
                continue
            for row in range(y0 // BLOCKS_PER_SIDE, y1 // BLOCKS_PER_SIDE + 1):
                for column in range(x0 // BLOCKS_PER_SIDE, x1 // BLOCKS_PER_SIDE + 1):
                    entry = next_entry[chunk, row * columns + column]
                    next_entry[chunk, row * columns + column] = entry + 1
                    gaussian_of_entry[entry] = i
                    record += 1
        chunk = claim_next(counter)


@njit(parallel=True, cache=True)
def fill_tile_lists(threads, footprints, columns, first_of_chunk, next_entry, gaussian_of_entry, first_record):
    """Fill the tile lists in the order of the Gaussians, and the first record of each Gaussian [n + 1]."""
    counter = np.zeros(1, np.int64)
    first_record[footprints.shape[0]] = gaussian_of_entry.shape[0]
    for _ in prange(threads):
        _fill_chunks(counter, footprints, columns, first_of_chunk, next_entry, gaussian_of_entry, first_record)


@njit(cache=True, forceinline=True)
def record_index(footprints, first_record, gaussian, column, row):
    """Index of a Gaussian's record in a tile."""
    x0, y0, x1, _ = block_rectangle(footprints, gaussian)
    tiles_across = x1 // BLOCKS_PER_SIDE - x0 // BLOCKS_PER_SIDE + 1
    return first_record[gaussian] + (row - y0 // BLOCKS_PER_SIDE) * tiles_across + column - x0 // BLOCKS_PER_SIDE


@njit(cache=True)
def sort_by_depth(depth_bits, gaussians, keys, scratch, bins):
    """Sort a tile's Gaussians from near to far in place; equal depths keep their order (radix sort).

    `depth_bits` are the bits of positive floats, [size] like `gaussians`; the other arrays are scratch memory."""
    size = gaussians.shape[0]
    smallest, largest = depth_bits[0], depth_bits[0]
    for i in range(size):
        smallest, largest = min(smallest, depth_bits[i]), max(largest, depth_bits[i])
    for i in range(size):
        keys[i] = np.uint64(depth_bits[i] - smallest) << np.uint64(32) | np.uint64(gaussians[i])
    remaining, shift = np.uint64(largest - smallest), np.uint64(32)
    mask = np.uint64((1 << _RADIX_BITS) - 1)
    while remaining:
        bins[:] = 0
        for i in range(size):
            bins[np.int64(keys[i] >> shift & mask)] += 1
        position = 0
        for digit in range(bins.shape[0]):
            count = bins[digit]
            bins[digit] = position
            position += count
        for i in range(size):
            digit = np.int64(keys[i] >> shift & mask)
            scratch[bins[digit]] = keys[i]
            bins[digit] += 1
        keys, scratch = scratch, keys
        remaining >>= np.uint64(_RADIX_BITS)
        shift += np.uint64(_RADIX_BITS)
    for i in range(size):
        gaussians[i] = np.int32(keys[i] & np.uint64(0xFFFFFFFF))
