"""Coverage of the area by the dense surface, with the causes of missing heights."""

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
BLANK_STD = 0.012  # standard deviation of tone-mapped values in a window, below which it has no contrast
# Smallest fractions of the area that are noted. A few blank roofs, and unmatched streets beside buildings, are normal.
NOTE_FRACTION, BLANK_FRACTION, UNMATCHED_FRACTION = 0.01, 0.03, 0.1
NAMED_IMAGE_FRACTION = 0.3  # a note names the images that lack data (or contrast) in at least this part of its cells


@dataclass(frozen=True)
class Coverage:
    """Fractions of the area whose heights are matched, filled and unknown (their sum is 1), and notes on the causes."""

    matched: float
    filled: float
    unknown: float
    notes: tuple[str, ...]


def measure_coverage(
    surface: Surface,
    height_m: Float32[ndarray, "h w"],
    area_m: Float64[ndarray, "2 2"],
    images: Sequence[Float32[ndarray, "r c b"]],
    cameras: Sequence[AffineCamera],
    names: Sequence[str],
) -> Coverage:
    """Measure the coverage of an area (min and max, local meters) by a surface.

    `height_m` are rough heights over the surface's grid without NaN; `images` are tone-mapped, NaN where there is no
    data."""
    x, y = np.meshgrid(surface.grid.x_m(), surface.grid.y_m())
    inside = (x >= area_m[0, 0]) & (x <= area_m[1, 0]) & (y >= area_m[0, 1]) & (y <= area_m[1, 1])
    source = surface.source[inside]
    shown, data, contrast = _sample_images(np.stack([x[inside], y[inside], height_m[inside]], -1), images, cameras)
    one_view = shown.sum(0) < 2
    no_data = ~one_view & (data.sum(0) < 2)
    blank = ~one_view & ~no_data & (contrast.sum(0) < 2)
    rest = ~(one_view | no_data | blank) & (source != MATCHED)
    blank_names = _name_images(names, data & ~contrast, blank)
    causes = (
        (one_view, "is shown by fewer than two images", NOTE_FRACTION),
        (no_data, f"has no data in {_name_images(names, shown & ~data, no_data)}", NOTE_FRACTION),
        (blank, f"is blank in {blank_names} (cloud, water, or saturated)", BLANK_FRACTION),
        (rest, "is not matched (hidden, water, cloud, or changed between the images)", UNMATCHED_FRACTION),
    )
    notes = [
        f"{cells.mean():.0%} of the area {text}: {_describe_heights(float((source[cells] == UNKNOWN).mean()))}"
        for cells, text, min_fraction in causes
        if cells.mean() >= min_fraction
    ]
    matched, unknown = (float((source == value).mean()) for value in (MATCHED, UNKNOWN))
    return Coverage(matched, 1.0 - matched - unknown, unknown, tuple(notes))


def _describe_heights(unknown: float) -> str:
    """Describe the heights of cells, given the fraction of unknown ones."""
    if unknown > 0.99:
        return "its heights are unknown"
    if unknown < 0.01:
        return "its heights are filled from its surroundings"
    return f"{unknown:.0%} of its heights are unknown, the others are filled from its surroundings"


def _name_images(names: Sequence[str], missing: Bool[ndarray, "v n"], cells: Bool[ndarray, " n"]) -> str:
    """Names of the images in which many of the cells are missing, or of the image with the most."""
    fractions = missing[:, cells].mean(1) if cells.any() else np.zeros(len(names))
    chosen = [name for name, fraction in zip(names, fractions, strict=True) if fraction >= NAMED_IMAGE_FRACTION]
    return "every image" if len(chosen) == len(names) else ", ".join(chosen or [names[int(np.argmax(fractions))]])


def _sample_images(cells_m: Float64[ndarray, "n 3"], images, cameras) -> tuple[Bool[ndarray, "v n"], ...]:
    """Per image, which points lie within it, which have data there, and which have contrast in a window around them."""
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
    """Pixels where the standard deviation of the valid pixels in a window exceeds BLANK_STD."""
    gray = np.where(valid, image.mean(-1), 0).astype(np.float32)
    weight, mean, square = (
        cv2.blur(values.astype(np.float32), (WINDOW_PX, WINDOW_PX)) for values in (valid, gray, gray * gray)
    )
    weight = np.maximum(weight, 1e-6)
    return square / weight - (mean / weight) ** 2 > BLANK_STD**2
