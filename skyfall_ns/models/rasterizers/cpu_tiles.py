"""Which Gaussians touch which 32x32 px tile, front to back; the same lists for any number of threads.

A *record* is one (Gaussian, tile), a *pair* one (Gaussian, 4x4 px block). Records are numbered Gaussian by Gaussian, so
that what tiles leave behind is read straight on afterwards; list entries tile by tile.
"""

# Numba types these calls, not Python.
# pyright: reportCallIssue=false, reportGeneralTypeIssues=false

import numpy as np
from numba import njit, prange

from skyfall_ns.models.rasterizers.cpu_footprint import FIRST_X, FIRST_Y, FOOTPRINT, LAST_X, LAST_Y
from skyfall_ns.models.rasterizers.lanes import WIDTH
from skyfall_ns.models.rasterizers.lanes_memory import at, claim

BLOCKS = 8  # 4x4 px blocks along a tile's side
CHUNKS = 64  # of Gaussians; a fixed number, so that results do not depend on threads
_PAIRS = np.int64(1) << 32  # a count of pairs above a count of records in one number
_LOW = _PAIRS - 1
_RADIX_BITS = 9


@njit(cache=True, forceinline=True)
def rectangle(footprints, i):
    """First column, first row, last column, last row of a footprint's blocks."""
    place = i * FOOTPRINT
    return (
        np.int64(at(footprints, place + FIRST_X)),
        np.int64(at(footprints, place + FIRST_Y)),
        np.int64(at(footprints, place + LAST_X)),
        np.int64(at(footprints, place + LAST_Y)),
    )


@njit(cache=True, forceinline=True)
def clip(first, last, tile):
    """The part of a range of blocks inside a column (or row) of tiles, counted from its start."""
    return max(first - tile * BLOCKS, 0), min(last - tile * BLOCKS, BLOCKS - 1)


@njit(cache=True, forceinline=True)
def count_tiles(footprints, first, last, columns, histogram, chunk):
    """Add the Gaussians first .. last - 1 to a chunk's counts of records and pairs per tile."""
    for i in range(first, last):
        x0, y0, x1, y1 = rectangle(footprints, i)
        if x1 < x0:
            continue
        for row in range(y0 // BLOCKS, y1 // BLOCKS + 1):
            top, bottom = clip(y0, y1, row)
            for column in range(x0 // BLOCKS, x1 // BLOCKS + 1):
                left, right = clip(x0, x1, column)
                histogram[chunk, row * columns + column] += 1 + (right - left + 1) * (bottom - top + 1) * _PAIRS


@njit(cache=True)
def tile_starts(histogram):
    """First list entry and first pair of each tile [tiles + 1], first record of each chunk [chunks]; the histogram
    becomes the first entry of each (chunk, tile)."""
    chunks, tiles = histogram.shape
    entries, pairs = np.zeros(tiles + 1, np.int64), np.zeros(tiles + 1, np.int64)
    records = np.zeros(chunks + 1, np.int64)
    entry = pair = 0
    for tile in range(tiles):
        entries[tile], pairs[tile] = entry, pair
        for chunk in range(chunks):
            both = histogram[chunk, tile]
            histogram[chunk, tile] = entry
            entry += both & _LOW
            pair += both >> 32
            records[chunk + 1] += both & _LOW
    entries[tiles], pairs[tiles] = entry, pair
    return entries, pairs, np.cumsum(records)


@njit(cache=True)
def _fill_chunks(counter, footprints, columns, first_of_chunk, next_entry, of_gaussian, first_record):
    n = footprints.shape[0]
    groups = (n + WIDTH - 1) // WIDTH
    chunk = claim(counter)
    while chunk < CHUNKS:
        record = first_of_chunk[chunk]
        for i in range(groups * chunk // CHUNKS * WIDTH, min(groups * (chunk + 1) // CHUNKS * WIDTH, n)):
            first_record[i] = record
            x0, y0, x1, y1 = rectangle(footprints, i)
            if x1 < x0:
                continue
            for row in range(y0 // BLOCKS, y1 // BLOCKS + 1):
                for column in range(x0 // BLOCKS, x1 // BLOCKS + 1):
                    entry = next_entry[chunk, row * columns + column]
                    next_entry[chunk, row * columns + column] = entry + 1
                    of_gaussian[entry] = i
                    record += 1
        chunk = claim(counter)


@njit(parallel=True, cache=True)
def fill(threads, footprints, columns, first_of_chunk, next_entry, of_gaussian, first_record):
    """Tile lists in the Gaussians' order, and each Gaussian's first record [n + 1]."""
    counter = np.zeros(1, np.int64)
    first_record[footprints.shape[0]] = of_gaussian.shape[0]
    for _ in prange(threads):
        _fill_chunks(counter, footprints, columns, first_of_chunk, next_entry, of_gaussian, first_record)


@njit(cache=True, forceinline=True)
def record_in(footprints, first_record, gaussian, column, row):
    """A Gaussian's record in a tile."""
    x0, y0, x1, _ = rectangle(footprints, gaussian)
    across = x1 // BLOCKS - x0 // BLOCKS + 1
    return first_record[gaussian] + (row - y0 // BLOCKS) * across + column - x0 // BLOCKS


@njit(cache=True)
def sort_by_depth(depths, gaussians, keys, other, bins):
    """Put a tile's Gaussians in order from near to far; equal depths keep their order (radix sort).

    `depths` are the bits of positive floats, [size] like `gaussians`; the rest is room to work in."""
    size = gaussians.shape[0]
    least, most = depths[0], depths[0]
    for i in range(size):
        least, most = min(least, depths[i]), max(most, depths[i])
    for i in range(size):
        keys[i] = np.uint64(depths[i] - least) << np.uint64(32) | np.uint64(gaussians[i])
    spread, shift = np.uint64(most - least), np.uint64(32)
    mask = np.uint64((1 << _RADIX_BITS) - 1)
    while spread:
        bins[:] = 0
        for i in range(size):
            bins[np.int64(keys[i] >> shift & mask)] += 1
        place = 0
        for digit in range(bins.shape[0]):
            count = bins[digit]
            bins[digit] = place
            place += count
        for i in range(size):
            digit = np.int64(keys[i] >> shift & mask)
            other[bins[digit]] = keys[i]
            bins[digit] += 1
        keys, other = other, keys
        spread >>= np.uint64(_RADIX_BITS)
        shift += np.uint64(_RADIX_BITS)
    for i in range(size):
        gaussians[i] = np.int32(keys[i] & np.uint64(0xFFFFFFFF))
