"""Which Gaussians touch which 32x32 px tile, front to back; the same lists for any number of threads.

Two numberings: a *record* is one (Gaussian, tile), a *pair* one (Gaussian, 4x4 px block); both go Gaussian by Gaussian,
so that what tiles leave behind is read straight on afterwards.
"""

import numpy as np
from numba import njit, prange

from skyfall_ns.models.rasterizers.cpu_project import CHUNKS, DEPTH

BLOCKS = 8  # 4x4 px blocks along a tile's side


@njit(cache=True, forceinline=True)
def block_range(rect, column, row):
    """The part of a rectangle of blocks inside tile (column, row): first and last block column, first and last row."""
    return (
        max(rect[0], column * BLOCKS),
        min(rect[2], column * BLOCKS + BLOCKS - 1),
        max(rect[1], row * BLOCKS),
        min(rect[3], row * BLOCKS + BLOCKS - 1),
    )


@njit(parallel=True, cache=True)
def count(rect, columns, rows):
    """Records per Gaussian [n], pairs per Gaussian [n], and records per (chunk, tile)."""
    n = rect.shape[0]
    records, pairs = np.zeros(n, np.int64), np.zeros(n, np.int64)
    histogram = np.zeros((CHUNKS, columns * rows), np.int64)
    for chunk in prange(CHUNKS):
        for i in range(n * chunk // CHUNKS, n * (chunk + 1) // CHUNKS):
            x0, y0, x1, y1 = rect[i, 0], rect[i, 1], rect[i, 2], rect[i, 3]
            if x1 < x0:
                continue
            pairs[i] = (x1 - x0 + 1) * (y1 - y0 + 1)
            records[i] = (x1 // BLOCKS - x0 // BLOCKS + 1) * (y1 // BLOCKS - y0 // BLOCKS + 1)
            for row in range(y0 // BLOCKS, y1 // BLOCKS + 1):
                for column in range(x0 // BLOCKS, x1 // BLOCKS + 1):
                    histogram[chunk, row * columns + column] += 1
    return records, pairs, histogram


@njit(cache=True)
def starts(values):
    """Exclusive prefix sums with the total at the end."""
    out = np.zeros(values.shape[0] + 1, np.int64)
    for i in range(values.shape[0]):
        out[i + 1] = out[i] + values[i]
    return out


@njit(cache=True)
def tile_starts(histogram):
    """First list entry of each tile, and of each (chunk, tile) in place of its count."""
    chunks, tiles = histogram.shape
    out = np.zeros(tiles + 1, np.int64)
    position = 0
    for tile in range(tiles):
        out[tile] = position
        for chunk in range(chunks):
            size = histogram[chunk, tile]
            histogram[chunk, tile] = position
            position += size
    out[tiles] = position
    return out


@njit(parallel=True, cache=True)
def fill(rect, columns, first_record, first_pair, next_entry, of_gaussian, of_record, of_pair):
    """Tile lists in the Gaussians' order: Gaussian, record and first pair of each entry."""
    n = rect.shape[0]
    for chunk in prange(CHUNKS):
        for i in range(n * chunk // CHUNKS, n * (chunk + 1) // CHUNKS):
            if rect[i, 2] < rect[i, 0]:
                continue
            record, pair = first_record[i], first_pair[i]
            for row in range(rect[i, 1] // BLOCKS, rect[i, 3] // BLOCKS + 1):
                for column in range(rect[i, 0] // BLOCKS, rect[i, 2] // BLOCKS + 1):
                    tile = row * columns + column
                    entry = next_entry[chunk, tile]
                    next_entry[chunk, tile] = entry + 1
                    of_gaussian[entry], of_record[entry], of_pair[entry] = i, record, pair
                    x0, x1, y0, y1 = block_range(rect[i], column, row)
                    record += 1
                    pair += (x1 - x0 + 1) * (y1 - y0 + 1)


@njit(cache=True)
def depth_order(footprints, gaussians):
    """Positions of a tile's entries from near to far; equal depths keep their order (radix sort, four passes)."""
    size = gaussians.shape[0]
    depths = np.empty(size, np.float32)
    for i in range(size):
        depths[i] = footprints[gaussians[i], DEPTH]
    keys = depths.view(np.uint32)
    order, other = np.arange(size).astype(np.int32), np.empty(size, np.int32)
    bins = np.empty(257, np.int64)
    for byte in range(4):
        shift = np.uint32(8 * byte)
        bins[:] = 0
        for i in range(size):
            bins[np.int64((keys[i] >> shift) & np.uint32(255)) + 1] += 1
        if bins.max() == size:
            continue
        for i in range(256):
            bins[i + 1] += bins[i]
        for i in range(size):
            value = order[i]
            digit = np.int64((keys[value] >> shift) & np.uint32(255))
            other[bins[digit]] = value
            bins[digit] += 1
        order, other = other, order
    return order
