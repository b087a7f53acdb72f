"""What of the area the surface knows, and why it does not know the rest."""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy import ndarray

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.plane_sweep import Surface
from skyfall_ns.geo.surface_evidence import MATCHED, UNKNOWN

WINDOW_PX = 7
BLANK_STD = 0.012  # of toned values in a window: less is no contrast
NOTE_SHARE, BLANK_SHARE = 0.01, 0.03  # of the area, from which on a note is due; a few roofs are blank everywhere
UNMATCHED_SHARE = 0.1  # hidden streets beside buildings are unmatched everywhere
BLAMED_SHARE = 0.3  # an image is named if it is without data (or blank) in so much of such cells


@dataclass(frozen=True)
class Coverage:
    """Shares of the area whose heights are matched, filled and unknown (their sum is 1), and notes that say why."""

    matched: float
    filled: float
    unknown: float
    notes: tuple[str, ...]


def surface_coverage(
    surface: Surface,
    height_m: Float32[ndarray, "h w"],
    area_m: Float64[ndarray, "2 2"],
    images: Sequence[Float32[ndarray, "r c b"]],
    cameras: Sequence[AffineCamera],
    names: Sequence[str],
) -> Coverage:
    """The coverage of an area (min and max, local meters) by a surface from toned images (NaN where there is no data).
    `height_m` are heights over the surface's grid that are known everywhere, roughly."""
    x, y = np.meshgrid(surface.grid.x_m(), surface.grid.y_m())
    inside = (x >= area_m[0, 0]) & (x <= area_m[1, 0]) & (y >= area_m[0, 1]) & (y <= area_m[1, 1])
    source = surface.source[inside]
    shown, data, contrast = _looked_at(np.stack([x[inside], y[inside], height_m[inside]], -1), images, cameras)
    once = shown.sum(0) < 2
    no_data = ~once & (data.sum(0) < 2)
    blank = ~once & ~no_data & (contrast.sum(0) < 2)
    rest = ~(once | no_data | blank) & (source != MATCHED)
    causes = (
        (once, "is shown by fewer than two images", NOTE_SHARE),
        (no_data, f"has no data in {_named(names, shown & ~data, no_data)}", NOTE_SHARE),
        (blank, f"is blank in {_named(names, data & ~contrast, blank)} (cloud, water, or saturated)", BLANK_SHARE),
        (rest, "is not matched (hidden, water, cloud, or changed between the images)", UNMATCHED_SHARE),
    )
    notes = [
        f"{cause.mean():.0%} of the area {text}: {_what_stands_there(float((source[cause] == UNKNOWN).mean()))}"
        for cause, text, least in causes
        if cause.mean() >= least
    ]
    matched, unknown = (float((source == kind).mean()) for kind in (MATCHED, UNKNOWN))
    return Coverage(matched, 1.0 - matched - unknown, unknown, tuple(notes))


def _what_stands_there(unknown: float) -> str:
    """In words, given the share of the cells whose heights are unknown."""
    if unknown > 0.99:
        return "its heights are unknown"
    if unknown < 0.01:
        return "its heights are those of what is around it"
    return f"{unknown:.0%} of its heights are unknown, the others are those of what is around it"


def _named(names: Sequence[str], missing: Bool[ndarray, "v n"], cells: Bool[ndarray, " n"]) -> str:
    """The images in which many of the cells are missing; the one with most of them if there is no such."""
    shares = missing[:, cells].mean(1) if cells.any() else np.zeros(len(names))
    chosen = [name for name, share in zip(names, shares, strict=True) if share >= BLAMED_SHARE]
    return "every image" if len(chosen) == len(names) else ", ".join(chosen or [names[int(np.argmax(shares))]])


def _looked_at(cells_m: Float64[ndarray, "n 3"], images, cameras) -> tuple[Bool[ndarray, "v n"], ...]:
    """Per image, which places lie within it, which have data there, and which have contrast around them."""
    found = [np.zeros((len(images), len(cells_m)), bool) for _ in range(3)]
    for view, (image, camera) in enumerate(zip(images, cameras, strict=True)):
        colrow = np.round(camera.project(cells_m)).astype(int)
        inside = ((colrow >= 0) & (colrow < camera.size)).all(1)
        column, row = colrow[inside].T
        valid = np.isfinite(image).all(-1)
        for layer, values in zip(found, (np.ones_like(valid), valid, valid & _has_contrast(image, valid)), strict=True):
            layer[view, inside] = values[row, column]
    return tuple(found)


def _has_contrast(image: Float32[ndarray, "r c b"], valid: Bool[ndarray, "r c"]) -> Bool[ndarray, "r c"]:
    """Where the standard deviation of the usable pixels in a window is not that of a blank one."""
    gray = np.where(valid, image.mean(-1), 0).astype(np.float32)
    weight, mean, square = (
        cv2.blur(values.astype(np.float32), (WINDOW_PX, WINDOW_PX)) for values in (valid, gray, gray * gray)
    )
    weight = np.maximum(weight, 1e-6)
    return square / weight - (mean / weight) ** 2 > BLANK_STD**2
