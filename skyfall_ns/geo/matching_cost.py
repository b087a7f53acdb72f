"""Cost volume of a plane sweep: the disagreement of the views about each ground cell at each height.

The volume is 8-bit, in units of 1/100 of (1 - correlation): 0 is perfect correlation, 100 none, 200 opposite. If the
images have colors, hues of single cells are compared too: unlike windows, they do not extend a roof beyond its edge.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32, UInt8
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.compilation import njit
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.threads import thread_pool

COST_UNIT = 100  # per unit of (1 - correlation)
MIN_VARIANCE = np.float32(1.0)  # of images scaled to 0..255
FULL_HUE_DIFFERENCE = np.float32(0.07)  # sum of the differences of two hues from which the hue penalty is full
OUTSIDE_COST = 40  # of cells outside all pairs of images: surfaces continue there, and chance matches are not preferred
HIDDEN_COST = 110  # of heights occluded by the previous surface in all pairs of views: above the cost of blank windows
BLANK_CORRELATION = np.float32(0.5)  # of two equally bright windows without contrast: they support no height
BLANK_BRIGHTNESS_RANGE = np.float32(64.0)  # brightness difference (0..255) from which blank windows do not correlate
MAX_PENALIZED_M = 60.0  # the roofs of towers stay matched
EXCLUDED_COST = 255  # of heights outside the search limits
_NO_VOTE = np.float32(9.0)  # above every cost
GridRegion = tuple[slice, slice]
WHOLE_GRID = (slice(None), slice(None))


@dataclass(frozen=True)
class MatchingOptions:
    """How views are compared.

    `window` is the side of the correlation window in cells. The cost of a cell is the mean over the `best_fraction` of
    its pairs; the other pairs may be occluded, in shadow, or of another date. `hue_weight` is the weight of a full hue
    difference relative to zero correlation. `height_penalty` (1/100 per meter) compensates a bias: at greater heights
    more views see a cell, so the best fraction of their pairs is better by chance.
    """

    window: int
    best_fraction: float
    hue_weight: float = 0.0
    height_penalty: float = 0.0

    def penalty_above(self, height_m: float) -> float:
        """Penalty (1/100) at a height above the lowest one; it ends growing at MAX_PENALIZED_M, because all views see
        what is higher than everything around it."""
        return self.height_penalty * min(height_m, MAX_PENALIZED_M)


class PlaneWarp:
    """Warp of a view onto a grid at any height above a base surface (local meters).

    Pixel coordinates of each cell are a quadratic polynomial in the height, precomputed from the camera's polynomial.
    """

    def __init__(self, camera: AffineCamera, grid: Grid, base_m: Float32[ndarray, "h w"] | float = 0.0) -> None:
        x, y = np.meshgrid(grid.x_m(), grid.y_m())
        linear = camera.matrix
        q = np.zeros((2, 6)) if camera.quadratic is None else camera.quadratic
        self._position, self._slope = [], []
        for a, b in zip(linear, q, strict=True):
            position = a[0] * x + a[1] * y + a[3] + b[0] * x * x + b[1] * y * y + b[3] * x * y
            slope = a[2] + b[4] * x + b[5] * y
            self._position.append((position + slope * base_m + b[2] * np.square(base_m)).astype(np.float32))
            self._slope.append((slope + 2 * b[2] * base_m).astype(np.float32))
        self._curvature = q[:, 2].astype(np.float32)

    def __call__(
        self,
        image: Float32[ndarray, "r c *b"],
        height_m: Float32[ndarray, "h w"] | float,
        region: GridRegion = WHOLE_GRID,
    ) -> Float32[ndarray, "h w *b"]:
        """The image resampled to the cells of `region` (rows, columns) on the base surface raised by `height_m`, one
        height for all cells or one each; NaN outside the image."""
        height_m = np.asarray(height_m, np.float32)
        column, row = (
            position[region] + height_m * slope[region] + curvature * height_m**2
            for position, slope, curvature in zip(self._position, self._slope, self._curvature, strict=True)
        )
        return cv2.remap(image, column, row, cv2.INTER_CUBIC, borderMode=cv2.BORDER_CONSTANT, borderValue=(np.nan,) * 4)


@dataclass(frozen=True)
class CostVolume:
    """Costs "h w d" of the heights `levels_m` above a base surface, and per cell the first and the last level at which
    at least one pair of images covers it (first > last without such a pair)."""

    cost: UInt8[ndarray, "h w d"]
    levels_m: Float64[ndarray, " d"]
    first_level: Int32[ndarray, "h w"]
    last_level: Int32[ndarray, "h w"]


@dataclass(frozen=True)
class SearchLimits:
    """Heights to test, in meters above the base surface: the lowest and the highest one of each cell, and per view the
    lowest one that is visible."""

    lowest_m: Float32[ndarray, "h w"]
    highest_m: Float32[ndarray, "h w"]
    lowest_visible_m: Float32[ndarray, "v h w"]


def cost_volume(
    views, warps: Sequence[PlaneWarp], pairs, levels_m, limits: SearchLimits, matching: MatchingOptions, progress=None
):
    """Cost volume of views "r c 1" (gray, 0..255) or "r c 3" (gray and two hues), NaN where unusable.

    The cost of a pair is 1 - NCC in a square window, or its weighted mean with the hue difference; the cost of a cell
    is the mean over its best pairs, so that views in which it is occluded do not vote. Heights outside all pairs of
    images cost OUTSIDE_COST, those that are occluded HIDDEN_COST, and those outside the limits EXCLUDED_COST.
    """
    shape = limits.lowest_m.shape
    volume = np.empty((*shape, len(levels_m)), np.uint8)
    index, radius = np.asarray(pairs), matching.window // 2
    first_level, last_level = np.full(shape, len(levels_m), np.int32), np.full(shape, -1, np.int32)

    def match_level(d: int) -> tuple[GridRegion, Bool[ndarray, "h w"]]:
        height_m = np.float32(levels_m[d])
        volume[:, :, d] = EXCLUDED_COST
        region = _bounding_region((limits.lowest_m <= height_m) & (height_m <= limits.highest_m))
        covered = np.zeros(volume[region][..., d].shape, np.bool_)
        if not covered.size:
            return region, covered
        channels = np.empty((len(views), views[0].shape[2], *covered.shape), np.float32)
        valid = np.empty((len(views), *covered.shape), np.bool_)
        for view, (warp, image) in enumerate(zip(warps, views, strict=True)):
            warped = warp(image, float(height_m), region).reshape(*covered.shape, -1)
            _split_channels(warped, channels[view], valid[view])
        gray = np.pad(channels[:, 0], ((0, 0), (radius, radius), (radius, radius)), mode="symmetric")
        penalty = np.float32(matching.penalty_above(float(levels_m[d] - levels_m[0])))
        _match_rows(
            gray, valid, channels[:, 1:], limits.lowest_visible_m[:, *region], limits.lowest_m[region],
            limits.highest_m[region], height_m, index, matching.window, np.float32(matching.best_fraction),
            np.float32(matching.hue_weight), penalty, volume[*region, d], covered,
        )  # fmt: skip
        return region, covered

    with thread_pool() as pool:
        for d, (region, covered) in enumerate(pool.map(match_level, range(len(levels_m)))):
            np.minimum(first_level[region], d, out=first_level[region], where=covered)
            np.maximum(last_level[region], d, out=last_level[region], where=covered)
            if progress is not None:
                progress(d + 1, len(levels_m))
    return CostVolume(volume, np.asarray(levels_m, np.float64), first_level, last_level)


def _bounding_region(mask: Bool[ndarray, "h w"]) -> GridRegion:
    """The smallest region of a grid that contains all True cells."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return slice(0, 0), slice(0, 0)
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


@njit(nogil=True, cache=True)
def _split_channels(warped, channels, valid):
    """Split a warped image "h w c" into channels "c h w" (0 where a pixel is NaN) and a validity mask."""
    height, width, count = warped.shape
    for row in range(height):
        for x in range(width):
            valid[row, x] = np.isfinite(warped[row, x, 0])
            for k in range(count):
                channels[k, row, x] = warped[row, x, k] if valid[row, x] else np.float32(0.0)


@njit(nogil=True, cache=True)
def _match_rows(
    gray, valid, hues, lowest_visible_m, lowest_m, highest_m, height_m, pairs, window, fraction, hue_weight, penalty,
    cost, covered,
):  # fmt: skip
    """Compute the costs of one height: `gray` "v h+2r w+2r" is padded by the window's radius r, `hues` are "v k h w".

    Each row is processed from the first to the last cell in which the height is tested, so that all data stay in the
    first-level caches and every inner loop along the row becomes vector instructions.
    """
    views, count = gray.shape[0], pairs.shape[0]
    max_kept = max(min(count, 2), int(np.ceil(fraction * count)))
    for row in range(cost.shape[0]):
        start, stop = _active_span(lowest_m[row], highest_m[row], height_m)
        width = stop - start
        if width <= 0:
            continue
        patches = np.empty((views, window * window, width), np.float32)
        blankness, brightness = np.empty((views, width), np.float32), np.empty((views, width), np.float32)
        best = np.full((max_kept, width), _NO_VOTE, np.float32)
        value = np.empty(width, np.float32)
        votes, inside_count = np.zeros(width, np.int32), np.zeros(width, np.int32)
        for view in range(views):
            rows = gray[view, row : row + window, start : stop + window - 1]
            _normalize_windows(rows, window, patches[view], blankness[view], brightness[view])
        for p in range(count):
            i, j = pairs[p, 0], pairs[p, 1]
            hues_i, hues_j = hues[i, :, row, start:stop], hues[j, :, row, start:stop]
            _blank_window_cost(blankness[i], blankness[j], brightness[i], brightness[j], value)
            _subtract_correlation(patches[i], patches[j], hues_i, hues_j, hue_weight, value)
            valid_i, valid_j = valid[i, row, start:stop], valid[j, row, start:stop]
            lowest_i, lowest_j = lowest_visible_m[i, row, start:stop], lowest_visible_m[j, row, start:stop]
            _exclude_hidden_votes(value, valid_i, valid_j, lowest_i, lowest_j, height_m, votes, inside_count)
            _insert_sorted(value, best)
        _write_mean_cost(best, votes, inside_count, fraction, penalty, cost[row, start:stop])
        for x in range(width):
            covered[row, start + x] = inside_count[x] > 0


@njit(nogil=True, cache=True)
def _active_span(lowest_m, highest_m, height_m):
    """First and last (exclusive) cell of a row in which a height is tested."""
    start, stop = lowest_m.shape[0], 0
    for x in range(lowest_m.shape[0]):
        if lowest_m[x] <= height_m and height_m <= highest_m[x]:
            start, stop = min(start, x), x + 1
    return start, stop


@njit(nogil=True, cache=True)
def _normalize_windows(rows, window, patch, blankness, brightness):
    """Normalize the windows of a row of cells, "window*window w", to mean 0 and length 1 (less at low contrast); also
    compute their lack of contrast, in 0..1, and their mean brightness."""
    width = patch.shape[1]
    mean, square = brightness, np.zeros(width, np.float32)
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
    min_square = size * MIN_VARIANCE
    for x in range(width):
        blankness[x] = max(np.float32(0.0), np.float32(1.0) - square[x] / min_square)
        square[x] = np.float32(1.0) / np.sqrt(max(square[x], min_square))
    for k in range(window * window):
        target = patch[k]
        for x in range(width):
            target[x] *= square[x]


@njit(nogil=True, cache=True)
def _blank_window_cost(blankness_i, blankness_j, brightness_i, brightness_j, value):
    """Set `value` to 1 minus the correlation assigned to blank windows of equal brightness."""
    for x in range(value.shape[0]):
        similarity = np.float32(1.0) - abs(brightness_i[x] - brightness_j[x]) / BLANK_BRIGHTNESS_RANGE
        similarity = max(similarity, np.float32(0.0))
        value[x] = np.float32(1.0) - BLANK_CORRELATION * blankness_i[x] * blankness_j[x] * similarity


@njit(nogil=True, cache=True)
def _subtract_correlation(patch_i, patch_j, hues_i, hues_j, hue_weight, value):
    """Subtract the NCC of two views along a row from `value`, to 0..2, and average it with their hue difference."""
    width = value.shape[0]
    for k in range(patch_i.shape[0]):
        a, b = patch_i[k], patch_j[k]
        for x in range(width):
            value[x] -= a[x] * b[x]
    for x in range(width):
        value[x] = value[x] if value[x] > np.float32(0.0) else np.float32(0.0)
    if hues_i.shape[0] == 0 or hue_weight == 0:
        return
    hue_difference = np.zeros(width, np.float32)
    for k in range(hues_i.shape[0]):
        a, b = hues_i[k], hues_j[k]
        for x in range(width):
            hue_difference[x] += abs(a[x] - b[x])
    scale, total = hue_weight / FULL_HUE_DIFFERENCE, np.float32(1.0) / (np.float32(1.0) + hue_weight)
    for x in range(width):
        hue_penalty = hue_difference[x] * scale
        hue_penalty = hue_penalty if hue_penalty < hue_weight else hue_weight
        value[x] = (value[x] + hue_penalty) * total


@njit(nogil=True, cache=True)
def _exclude_hidden_votes(value, valid_i, valid_j, lowest_i, lowest_j, height_m, votes, inside_count):
    """Remove the vote of a pair for cells that one of its views does not see; count the votes, and the cells inside
    both images. `lowest_i` and `lowest_j` are the lowest visible heights."""
    for x in range(value.shape[0]):
        inside = valid_i[x] & valid_j[x]
        is_vote = inside & (height_m >= lowest_i[x]) & (height_m >= lowest_j[x])
        inside_count[x] += np.int32(inside)
        votes[x] += np.int32(is_vote)
        value[x] = value[x] if is_vote else _NO_VOTE


@njit(nogil=True, cache=True)
def _insert_sorted(value, best):
    """Insert the values of a row into the sorted lists of the smallest values so far; `value` is overwritten."""
    for k in range(best.shape[0]):
        row = best[k]
        for x in range(value.shape[0]):
            a, b = row[x], value[x]
            row[x] = a if a < b else b
            value[x] = b if a < b else a


@njit(nogil=True, cache=True)
def _write_mean_cost(best, votes, inside_count, fraction, penalty, cost):
    """Write the mean of the best fraction of the votes, in 1/100, plus the penalty."""
    for x in range(cost.shape[0]):
        if votes[x] == 0:
            cost[x] = HIDDEN_COST if inside_count[x] > 0 else OUTSIDE_COST
            continue
        kept = max(min(votes[x], 2), int(np.ceil(fraction * votes[x])))
        total = np.float32(0.0)
        for k in range(kept):
            total += best[k, x]
        cost[x] = np.uint8(min(total / kept * COST_UNIT + penalty + np.float32(0.5), np.float32(255.0)))
