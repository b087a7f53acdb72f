"""Cost volume of a plane sweep: how badly the views agree if a ground cell lay at a height.

The volume is 8-bit, in units of 1/100 of (1 - correlation): 0 perfect, 100 none, 200 opposite. Where the images have
colours, hues of single cells are compared too: unlike windows, they do not carry a roof's edge beyond the roof.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32
from numba import njit
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.raster import Grid

UNIT = 100
LEAST_VARIANCE = np.float32(1.0)  # of images scaled to 0..255
HUE_RANGE = np.float32(0.07)  # sum of differences of two hues that counts in full
UNSEEN = 70  # cost of a cell that no pair sees: better than a bad match, worse than a fair one
_NONE = np.float32(9.0)  # above every cost


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
    """Pixels of a grid's cells in one view, at any height: the camera's polynomial with the height split off."""

    def __init__(self, camera: AffineCamera, grid: Grid) -> None:
        x, y = np.meshgrid(grid.x_m(), grid.y_m())
        linear = camera.matrix
        q = np.zeros((2, 6)) if camera.quadratic is None else camera.quadratic
        self._still, self._rising = [], []
        for a, b in zip(linear, q, strict=True):
            still = a[0] * x + a[1] * y + a[3] + b[0] * x * x + b[1] * y * y + b[3] * x * y
            self._still.append(still.astype(np.float32))
            self._rising.append((a[2] + b[4] * x + b[5] * y).astype(np.float32))
        self._square = q[:, 2]

    def __call__(self, image: Float32[ndarray, "r c *b"], height_m: float) -> Float32[ndarray, "h w *b"]:
        """The view as seen on a horizontal plane, NaN outside the image."""
        column, row = (
            still + np.float32(height_m) * rising + np.float32(square * height_m**2)
            for still, rising, square in zip(self._still, self._rising, self._square, strict=True)
        )
        return cv2.remap(image, column, row, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=(np.nan,) * 4)


def cost_volume(views, cameras, pairs, grid: Grid, heights, lowest_m, matching: Matching, progress=None):
    """Costs "h w d" and which cells some pair of views sees.

    `views` are "r c 1" (gray, 0..255) or "r c 3" (gray and two hues), NaN where unusable. `lowest_m` "v h w" are the
    heights below which a view does not see a cell. A pair's cost is 1 - NCC in a square window, or its mean with the
    difference of hues; a cell's is the mean over the best pairs, so that views in which it is hidden do not vote. Cells
    that no pair sees cost UNSEEN.
    """
    warps = [PlaneWarp(camera, grid) for camera in cameras]
    volume = np.empty((grid.height, grid.width, len(heights)), np.uint8)
    index, radius = np.asarray(pairs), matching.window // 2

    def level(d: int) -> Bool[ndarray, "h w"]:
        layers = np.empty((len(views), views[0].shape[2], *volume.shape[:2]), np.float32)
        valid = np.empty((len(views), *volume.shape[:2]), np.bool_)
        for view, (warp, image) in enumerate(zip(warps, views, strict=True)):
            _split(warp(image, heights[d]).reshape(*volume.shape[:2], -1), layers[view], valid[view])
        gray = np.pad(layers[:, 0], ((0, 0), (radius, radius), (radius, radius)), mode="symmetric")
        seen = np.zeros(volume.shape[:2], np.bool_)
        price = matching.height_price * (heights[d] - heights[0])
        _level(
            gray, valid, layers[:, 1:], lowest_m, np.float32(heights[d]), index, matching.window,
            np.float32(matching.best_share), np.float32(matching.hue_weight), np.float32(price), volume[:, :, d], seen,
        )  # fmt: skip
        return seen

    seen = np.zeros(volume.shape[:2], bool)
    with ThreadPoolExecutor(max(1, min(os.cpu_count() or 1, 8))) as pool:
        for done, mask in enumerate(pool.map(level, range(len(heights)))):
            seen |= mask
            if progress is not None:
                progress(done + 1, len(heights))
    return volume, seen


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
def _level(gray, valid, hues, lowest_m, height_m, pairs, window, share, hue_weight, price, cost, seen):
    """Costs of one height: `gray` "v h+2r w+2r" is padded by the window's radius r, `hues` are "v k h w".

    Row by row, so that everything stays in the first caches, and every inner loop runs along the row in vectors."""
    height, width = cost.shape
    views, count = gray.shape[0], pairs.shape[0]
    patches = np.empty((views, window * window, width), np.float32)
    most = max(min(count, 2), int(np.ceil(share * count)))
    best = np.empty((most, width), np.float32)
    value = np.empty(width, np.float32)
    voters, known = np.empty(width, np.int32), np.empty(width, np.int32)
    for row in range(height):
        for view in range(views):
            _normalise(gray[view, row : row + window], window, patches[view])
        best[:] = _NONE
        voters[:] = 0
        known[:] = 0
        for p in range(count):
            i, j = pairs[p, 0], pairs[p, 1]
            _disagreement(patches[i], patches[j], hues[i, :, row], hues[j, :, row], hue_weight, value)
            _hide(value, valid[i, row], valid[j, row], lowest_m[i, row], lowest_m[j, row], height_m, voters, known)
            _insert(value, best)
        _write(best, voters, share, price, cost[row])
        for x in range(width):
            seen[row, x] = known[x] > 0


@njit(nogil=True, cache=True)
def _normalise(rows, window, patch):
    """Windows of a row of cells "window*window w" with mean 0 and length 1 (less where there is little contrast)."""
    width = patch.shape[1]
    mean, square = np.zeros(width, np.float32), np.zeros(width, np.float32)
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
    for x in range(width):
        square[x] = np.float32(1.0) / np.sqrt(max(square[x], size * LEAST_VARIANCE))
    for k in range(window * window):
        target = patch[k]
        for x in range(width):
            target[x] *= square[x]


@njit(nogil=True, cache=True)
def _disagreement(patch_i, patch_j, hues_i, hues_j, hue_weight, value):
    """1 - NCC of two views along a row, in 0..2, or its weighted mean with the difference of hues."""
    width = value.shape[0]
    value[:] = np.float32(1.0)
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
def _write(best, voters, share, price, cost):
    """Mean of the best share of the votes, in 1/100, plus the price."""
    for x in range(cost.shape[0]):
        if voters[x] == 0:
            cost[x] = UNSEEN
            continue
        kept = max(min(voters[x], 2), int(np.ceil(share * voters[x])))
        total = np.float32(0.0)
        for k in range(kept):
            total += best[k, x]
        cost[x] = np.uint8(min(total / kept * UNIT + price + np.float32(0.5), np.float32(255.0)))
