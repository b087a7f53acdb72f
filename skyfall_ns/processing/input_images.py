"""The first stage of processing: vendor images, and windows of them that surely contain the area of interest."""

import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from skyfall_ns.errors import SkyfallError
from skyfall_ns.processing.area_of_interest import AreaOfInterest, check_image_shows_area, check_images_overlap
from skyfall_ns.processing.blank_images import check_remaining_images, find_blank_images
from skyfall_ns.processing.image_windows import Crop
from skyfall_ns.processing.options import ProcessingOptions
from skyfall_ns.processing.plausibility import check_plausibility
from skyfall_ns.processing.processing_log import ProcessingLog
from skyfall_ns.processing.sun_position import complete_sun_angles
from skyfall_ns.processing.vendor_images import VendorImage, open_images, override_sun_angles, read_crop

MAX_EXTRAPOLATION = 3.0  # of an RPC beyond its heights, in half ranges: their polynomials have the degree 3
POINTING_MARGIN_PX = 24  # vendor RPCs have pointing errors of a few pixels


@dataclass(frozen=True)
class InputImages:
    """Vendor images that are not blank, and a window of each that contains the area at every height of a range."""

    vendor_images: tuple[VendorImage, ...]
    crops: tuple[Crop, ...]
    corners_lonlat: Float64[ndarray, "n 2"] | None  # of the area of interest; None: the ground that all images show
    height_range_m: tuple[float, float]  # ellipsoidal heights among which tie points are searched
    held_out: frozenset[str]  # names of the test images


def read_input_images(paths: Sequence[Path], options: ProcessingOptions, log: ProcessingLog) -> InputImages:
    """Open the images and read their windows; blank images are left out.

    Raises SkyfallError for images, areas or heights that cannot be used.
    """
    images = _describe_images(override_sun_angles(open_images(paths, options.flags), options.suns), log)
    held_out = _select_held_out([image.name for image in images], options.test_images)
    height_range_m = _search_height_range_m(images, options.height_range_m, log)
    crops, corners = _read_rough_crops(images, options.area, height_range_m)
    blank = find_blank_images(crops)
    note_blank_images([image.name for image in images], blank, held_out, log)
    kept = np.flatnonzero(~blank)
    return InputImages(tuple(images[k] for k in kept), tuple(crops[k] for k in kept), corners, height_range_m, held_out)


def _describe_images(images: Sequence[VendorImage], log: ProcessingLog) -> list[VendorImage]:
    """Check the images' RPCs, complete their suns, and note what is assumed about them."""
    for note in (*(note for image in images for note in image.notes), *check_plausibility(images)):
        log.add_note(note)
    completed, note = complete_sun_angles(images)
    log.add_note(note)
    return completed


def note_blank_images(
    names: Sequence[str], blank: Bool[ndarray, " v"], held_out: frozenset[str], log: ProcessingLog
) -> None:
    """Add a note that names the blank images; RasterError if fewer than two others remain for training."""
    if blank.any():
        check_remaining_images(names, blank, held_out)
        blank_names = ", ".join(name for name, is_blank in zip(names, blank, strict=True) if is_blank)
        log.add_note(f"{blank_names} is blank over the area (no data or no contrast) and left out of the scene")


def _select_held_out(names: list[str], globs: tuple[str, ...]) -> frozenset[str]:
    """Names of the images that --test-images selects; SkyfallError if a glob has no match or too few images remain."""
    for glob in globs:
        if not fnmatch.filter(names, glob):
            raise SkyfallError(f"--test-images {glob} matches none of the images. They are: {', '.join(names)}.")
    held_out = frozenset(name for glob in globs for name in fnmatch.filter(names, glob))
    if len(names) - len(held_out) < 2:
        raise SkyfallError("--test-images leaves fewer than two images for training. Hold out fewer.")
    return held_out


def _search_height_range_m(
    images: Sequence[VendorImage], requested_m: tuple[float, float] | None, log: ProcessingLog
) -> tuple[float, float]:
    """Ellipsoidal heights among which tie points are searched: those requested (with a note where they exceed the RPCs'
    range), or the RPCs' common range.

    Raises SkyfallError for a requested range that is empty or has no height in common with the RPCs."""
    low = max(image.rpc.height_range_m[0] for image in images)
    high = min(image.rpc.height_range_m[1] for image in images)
    if high <= low:
        raise SkyfallError("The RPCs of the --images have no height in common. Give images of the same place.")
    if requested_m is None:
        return low, high
    if not requested_m[0] < requested_m[1]:
        raise SkyfallError(
            f"--height-range {requested_m[0]:g} {requested_m[1]:g} is empty. Give the lower height first."
        )
    reach_m = MAX_EXTRAPOLATION * (high - low) / 2
    is_apart = requested_m[0] > high or requested_m[1] < low
    if is_apart or requested_m[0] < low - reach_m or requested_m[1] > high + reach_m:
        raise SkyfallError(
            f"--height-range {requested_m[0]:g} {requested_m[1]:g} leaves the RPCs' range of {low:.0f} to {high:.0f} m "
            "too far. Give ellipsoidal heights near it, or leave the flag out."
        )
    if requested_m[0] < low or requested_m[1] > high:
        log.add_note(
            f"--height-range {requested_m[0]:g} {requested_m[1]:g} exceeds the range of {low:.0f} to {high:.0f} m for "
            "which the RPCs were fitted: they are extrapolated"
        )
    return requested_m


def _read_rough_crops(
    images: Sequence[VendorImage], area: AreaOfInterest, height_range_m: tuple[float, float]
) -> tuple[list[Crop], Float64[ndarray, "n 2"] | None]:
    """Windows that contain the area at every height of the range, and the area's corners (lon, lat)."""
    corners = area.corners_lonlat()
    if corners is None:
        check_images_overlap(images, height_range_m)
        whole = [np.array([[0.0, 0.0], [image.width - 1.0, image.height - 1.0]]) for image in images]
        return [read_crop(image, pixels, 0) for image, pixels in zip(images, whole, strict=True)], None
    for image in images:
        check_image_shows_area(corners, image, height_range_m)
    ends = np.concatenate([np.column_stack([corners, np.full(len(corners), h)]) for h in height_range_m])
    return [read_crop(image, image.rpc.project(ends), POINTING_MARGIN_PX) for image in images], corners
