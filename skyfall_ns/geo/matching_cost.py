"""Cost volume of a plane sweep: how badly the views agree if a ground cell lay at a height.

The volume is 8-bit, in units of 1/100 of (1 - correlation): 0 perfect, 100 none, 200 opposite. Where the images have
colours, hues of single cells are compared too: unlike windows, they do not carry a roof's edge beyond the roof.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8
from numba import njit
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.raster import Grid
from skyfall_ns.geo.threads import thread_pool

UNIT = 100
LEAST_VARIANCE = np.float32(1.0)  # of images scaled to 0..255
HUE_RANGE = np.float32(0.07)  # sum of differences of two hues that counts in full
OUTSIDE = 40  # cost where no two images show the cell: heights continue there, and chance matches do not win
HIDDEN = 110  # cost below what the surface so far lets two views see: more than that of a blank surface
BLANK = np.float32(0.5)  # correlation of two equally bright windows without contrast: they agree on no height
BLANK_RANGE = np.float32(64.0)  # difference in brightness (0..255) from which windows without contrast disagree
EXCLUDED = 255  # cost of heights that are not tried
_NONE = np.float32(9.0)  # above every cost
Part = tuple[slice, slice]
ALL = (slice(None), slice(None))


@dataclass(frozen=True)
class Matching:
    """How views are compared: the correlation window in cells, and the share of the pairs (the best) that votes; the
    others may be occluded, in shadow, or of another date. `hue_weight` is that of a full difference in hue, relative to
    no correlation. `height_price` (1/100 a metre) makes up for a bias: the higher a cell is thought to be, the more
    views see it, and the better is the best share of their pairs by chance alone."""

    window: int
    best_share: float
    hue_weight: float = 0.0
    height_price: float = 0.0


class PlaneWarp:
    """Pixels of a grid's cells in one view, at any height above a base surface (local metres): the camera's polynomial
    with the height split off."""

    def __init__(self, camera: AffineCamera, grid: Grid, base_m: Float32[ndarray, "h w"] | float = 0.0) -> None:
        x, y = np.meshgrid(grid.x_m(), grid.y_m())
        linear = camera.matrix
        q = np.zeros((2, 6)) if camera.quadratic is None else camera.quadratic
        self._still, self._rising = [], []
        for a, b in zip(linear, q, strict=True):
            still = a[0] * x + a[1] * y + a[3] + b[0] * x * x + b[1] * y * y + b[3] * x * y
            rising = a[2] + b[4] * x + b[5] * y
            self._still.append((still + rising * base_m + b[2] * np.square(base_m)).astype(np.float32))
            self._rising.append((rising + 2 * b[2] * base_m).astype(np.float32))
        self._square = q[:, 2].astype(np.float32)

    def __call__(
        self, image: Float32[ndarray, "r c *b"], height_m: Float32[ndarray, "h w"] | float, part: Part = ALL
    ) -> Float32[ndarray, "h w *b"]:
        """The view as seen on the base surface raised by a height, one for all cells or one each; NaN outside the
        image. `part` (rows, columns) cuts a piece out of the grid."""
        height_m = np.asarray(height_m, np.float32)
        column, row = (
            still[part] + height_m * rising[part] + square * height_m**2
            for still, rising, square in zip(self._still, self._rising, self._square, strict=True)
        )
        return cv2.remap(image, column, row, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=(np.nan,) * 4)


@dataclass(frozen=True)
class CostVolume:
    """Costs "h w d" of heights `levels_m` above a base surface, and per cell the first and the last level at which some
    pair of images shows it (first > last where none does)."""

    cost: UInt8[ndarray, "h w d"]
    levels_m: Float64[ndarray, " d"]
    first: Int32[ndarray, "h w"]
    last: Int32[ndarray, "h w"]


@dataclass(frozen=True)
class Limits:
    """What is tried, above the base surface: per cell the lowest and the highest height, and per view the heights below
    which it does not see a cell."""

    low_m: Float32[ndarray, "h w"]
    high_m: Float32[ndarray, "h w"]
    visible_m: Float32[ndarray, "v h w"]


def cost_volume(views, warps: Sequence[PlaneWarp], pairs, levels_m, limits: Limits, matching: Matching, progress=None):
    """The CostVolume of views, "r c 1" (gray, 0..255) or "r c 3" (gray and two hues), NaN where unusable.

    A pair's cost is 1 - NCC in a square window, or its mean with the difference of hues; a cell's is the mean over the
    best pairs, so that views in which it is hidden do not vote. Heights that no pair shows cost OUTSIDE, those that are
    hidden HIDDEN, and those beyond the limits EXCLUDED.
    """
    shape = limits.low_m.shape
    volume = np.empty((*shape, len(levels_m)), np.uint8)
    index, radius = np.asarray(pairs), matching.window // 2
    first, last = np.full(shape, len(levels_m), np.int32), np.full(shape, -1, np.int32)

    def level(d: int) -> tuple[Part, Bool[ndarray, "h w"]]:
        height_m = np.float32(levels_m[d])
        volume[:, :, d] = EXCLUDED
        part = _bounds((limits.low_m <= height_m) & (height_m <= limits.high_m))
        shown = np.zeros(volume[part][..., d].shape, np.bool_)
        if not shown.size:
            return part, shown
        layers = np.empty((len(views), views[0].shape[2], *shown.shape), np.float32)
        valid = np.empty((len(views), *shown.shape), np.bool_)
        for view, (warp, image) in enumerate(zip(warps, views, strict=True)):
            _split(warp(image, float(height_m), part).reshape(*shown.shape, -1), layers[view], valid[view])
        gray = np.pad(layers[:, 0], ((0, 0), (radius, radius), (radius, radius)), mode="symmetric")
        price = np.float32(matching.height_price * (levels_m[d] - levels_m[0]))
        _level(
            gray, valid, layers[:, 1:], limits.visible_m[:, *part], limits.low_m[part], limits.high_m[part], height_m,
            index, matching.window, np.float32(matching.best_share), np.float32(matching.hue_weight), price,
            volume[*part, d], shown,
        )  # fmt: skip
        return part, shown

    with thread_pool() as pool:
        for d, (part, shown) in enumerate(pool.map(level, range(len(levels_m)))):
            np.minimum(first[part], d, out=first[part], where=shown)
            np.maximum(last[part], d, out=last[part], where=shown)
            if progress is not None:
                progress(d + 1, len(levels_m))
    return CostVolume(volume, np.asarray(levels_m, np.float64), first, last)


def _bounds(mask: Bool[ndarray, "h w"]) -> Part:
    """The smallest part of a grid that holds all True cells."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


@njit(nogil=True, cache=True)
def _split(warped, layers, valid):
    """Channels last "h w c" to layers "c h w", 0 where a pixel is not valid (NaN)."""
    height, width, channels = warped.shape
    for row in range(height):
        for x in range(width):
            valid[row, x] = np.isfinite(warped[row, x, 0])
            for k in range(channels):
                layers[k, row, x] = warped[row, x, k] if valid[row, x] else np.float32(0.0)


@njit(nogil=True, cache=True)
def _level(gray, valid, hues, visible_m, low_m, high_m, height_m, pairs, window, share, hue_weight, price, cost, shown):
    """Costs of one height: `gray` "v h+2r w+2r" is padded by the window's radius r, `hues` are "v k h w".

    Row by row, from the first to the last cell where the height is tried, so that everything stays in the first caches,
    and every inner loop runs along the row in vectors."""
    views, count = gray.shape[0], pairs.shape[0]
    most = max(min(count, 2), int(np.ceil(share * count)))
    for row in range(cost.shape[0]):
        start, stop = _span(low_m[row], high_m[row], height_m)
        width = stop - start
        if width <= 0:
            continue
        patches = np.empty((views, window * window, width), np.float32)
        flat, level = np.empty((views, width), np.float32), np.empty((views, width), np.float32)
        best = np.full((most, width), _NONE, np.float32)
        value = np.empty(width, np.float32)
        voters, known = np.zeros(width, np.int32), np.zeros(width, np.int32)
        for view in range(views):
            rows = gray[view, row : row + window, start : stop + window - 1]
            _normalise(rows, window, patches[view], flat[view], level[view])
        for p in range(count):
            i, j = pairs[p, 0], pairs[p, 1]
            hues_i, hues_j = hues[i, :, row, start:stop], hues[j, :, row, start:stop]
            _correlate_blank(flat[i], flat[j], level[i], level[j], value)
            _disagreement(patches[i], patches[j], hues_i, hues_j, hue_weight, value)
            valid_i, valid_j = valid[i, row, start:stop], valid[j, row, start:stop]
            visible_i, visible_j = visible_m[i, row, start:stop], visible_m[j, row, start:stop]
            _hide(value, valid_i, valid_j, visible_i, visible_j, height_m, voters, known)
            _insert(value, best)
        _write(best, voters, known, share, price, cost[row, start:stop])
        for x in range(width):
            shown[row, start + x] = known[x] > 0


@njit(nogil=True, cache=True)
def _span(low_m, high_m, height_m):
    """First and last (exclusive) cell of a row in which a height is tried."""
    start, stop = low_m.shape[0], 0
    for x in range(low_m.shape[0]):
        if low_m[x] <= height_m and height_m <= high_m[x]:
            start, stop = min(start, x), x + 1
    return start, stop


@njit(nogil=True, cache=True)
def _normalise(rows, window, patch, flat, level):
    """Windows of a row of cells "window*window w" with mean 0 and length 1 (less where there is little contrast), how
    far they lack contrast, in 0..1, and their mean."""
    width = patch.shape[1]
    mean, square = level, np.zeros(width, np.float32)
    mean[:] = np.float32(0.0)
    size = np.float32(window * window)
    for k in range(window * window):
        source, target = rows[k // window, k % window :], patch[k]
        for x in range(width):
            target[x] = source[x]
            mean[x] += source[x]
    for x in range(width):
        mean[x] = mean[x] / size
    for k in range(window * window):
        target = patch[k]
        for x in range(width):
            target[x] -= mean[x]
            square[x] += target[x] * target[x]
    least = size * LEAST_VARIANCE
    for x in range(width):
        flat[x] = max(np.float32(0.0), np.float32(1.0) - square[x] / least)
        square[x] = np.float32(1.0) / np.sqrt(max(square[x], least))
    for k in range(window * window):
        target = patch[k]
        for x in range(width):
            target[x] *= square[x]


@njit(nogil=True, cache=True)
def _correlate_blank(flat_i, flat_j, level_i, level_j, value):
    """1 - the correlation that windows have for being blank and equally bright."""
    for x in range(value.shape[0]):
        alike = np.float32(1.0) - abs(level_i[x] - level_j[x]) / BLANK_RANGE
        value[x] = np.float32(1.0) - BLANK * flat_i[x] * flat_j[x] * max(alike, np.float32(0.0))


@njit(nogil=True, cache=True)
def _disagreement(patch_i, patch_j, hues_i, hues_j, hue_weight, value):
    """`value` (1) less the NCC of two views along a row, in 0..2, or its weighted mean with the difference of hues."""
    width = value.shape[0]
    for k in range(patch_i.shape[0]):
        a, b = patch_i[k], patch_j[k]
        for x in range(width):
            value[x] -= a[x] * b[x]
    for x in range(width):
        value[x] = value[x] if value[x] > np.float32(0.0) else np.float32(0.0)
    if hues_i.shape[0] == 0 or hue_weight == 0:
        return
    apart = np.zeros(width, np.float32)
    for k in range(hues_i.shape[0]):
        a, b = hues_i[k], hues_j[k]
        for x in range(width):
            apart[x] += abs(a[x] - b[x])
    scale, total = hue_weight / HUE_RANGE, np.float32(1.0) / (np.float32(1.0) + hue_weight)
    for x in range(width):
        penalty = apart[x] * scale
        penalty = penalty if penalty < hue_weight else hue_weight
        value[x] = (value[x] + penalty) * total


@njit(nogil=True, cache=True)
def _hide(value, valid_i, valid_j, lowest_i, lowest_j, height_m, voters, known):
    """Take the vote from cells that one of the two views does not see; count the votes, and those within the images."""
    for x in range(value.shape[0]):
        inside = valid_i[x] & valid_j[x]
        votes = inside & (height_m >= lowest_i[x]) & (height_m >= lowest_j[x])
        known[x] += np.int32(inside)
        voters[x] += np.int32(votes)
        value[x] = value[x] if votes else _NONE


@njit(nogil=True, cache=True)
def _insert(value, best):
    """Let the values of a row into the lists of the least so far, which stay sorted; `value` is used up."""
    for k in range(best.shape[0]):
        row = best[k]
        for x in range(value.shape[0]):
            a, b = row[x], value[x]
            row[x] = a if a < b else b
            value[x] = b if a < b else a


@njit(nogil=True, cache=True)
def _write(best, voters, known, share, price, cost):
    """Mean of the best share of the votes, in 1/100, plus the price."""
    for x in range(cost.shape[0]):
        if voters[x] == 0:
            cost[x] = HIDDEN if known[x] > 0 else OUTSIDE
            continue
        kept = max(min(voters[x], 2), int(np.ceil(share * voters[x])))
        total = np.float32(0.0)
        for k in range(kept):
            total += best[k, x]
        cost[x] = np.uint8(min(total / kept * UNIT + price + np.float32(0.5), np.float32(255.0)))
