"""The stage that places the scene: its local frame, its box, and rough heights within it."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.processing.area_of_interest import common_area_lonlat, two_view_fraction
from skyfall_ns.processing.blank_images import find_blank_images
from skyfall_ns.processing.crops import read_crops, read_matching_view, widen_box
from skyfall_ns.processing.height_range import (
    ABOVE_TIE_POINTS_M,
    Relief,
    box_heights_m,
    relief_from_surface,
    relief_from_tie_points,
    search_height_range_m,
    tie_points_within,
)
from skyfall_ns.processing.image_clusters import cluster_tied_images
from skyfall_ns.processing.input_images import InputImages, note_blank_images
from skyfall_ns.processing.options import ProcessingOptions
from skyfall_ns.processing.processing_log import ProcessingLog
from skyfall_ns.processing.tied_images import TiedImages

BORDER_M = 10.0  # around the area: objects just outside it lean into the images, and need Gaussians of their own
COMMON_AREA_MARGIN_M = 12.0  # around the rectangle that all images show, because some pairs show more
GROUND_PERCENTILE = 10.0  # of the heights of the tie points
MIN_TWO_VIEW_FRACTION = 0.5  # of the area, shown by two images


@dataclass(frozen=True)
class SceneVolume:
    """The scene's frame, box and rough heights, and the images that show it."""

    tied: TiedImages  # without the images that are blank over the area
    is_train: Bool[ndarray, " v"]  # False for the test images
    clusters: tuple[int, ...]  # of the training images; see `cluster_tied_images`
    frame: LocalFrame
    box_m: Float64[ndarray, "2 3"]  # min and max, local meters
    relief: Relief  # of the area and its border

    @property
    def wide_box_m(self) -> Float64[ndarray, "2 3"]:
        """The box with the border."""
        return widen_box(self.box_m, BORDER_M)


def find_scene_volume(
    inputs: InputImages, tied: TiedImages, options: ProcessingOptions, log: ProcessingLog
) -> SceneVolume:
    """Place the scene: frame and area from the tie points' heights, then the box from rough heights.

    Raises SkyfallError for an area that is too small or shown by too few images.
    """
    frame, area_m = _locate_area(inputs.corners_lonlat, tied, options)
    tied = _exclude_blank_images(tied, frame, area_m, inputs.held_out, log)
    is_train = np.array([image.name not in inputs.held_out for image in tied.vendor_images])
    clusters = cluster_tied_images(tied, is_train)
    relief, box_m = _find_relief_and_box(tied, is_train, clusters, frame, area_m, options, inputs.height_range_m, log)
    if inputs.corners_lonlat is not None:
        _check_two_view_fraction(tied, is_train, frame, relief, area_m, options, log)
    return SceneVolume(tied, is_train, clusters, frame, box_m, relief)


def _locate_area(
    corners_lonlat: Float64[ndarray, "n 2"] | None, tied: TiedImages, options: ProcessingOptions
) -> tuple[LocalFrame, Float64[ndarray, "2 2"]]:
    """The local frame at the area's center on the ground, and the area in it (min and max, local meters)."""
    heights = tied.tie_lonlath[:, 2]
    ground = float(np.percentile(heights, GROUND_PERCENTILE))
    is_common = corners_lonlat is None
    corners = common_area_lonlat(tied.vendor_images, float(np.median(heights))) if is_common else corners_lonlat
    middle = 0.5 * (corners.min(0) + corners.max(0))
    frame = LocalFrame.at_point(np.array([*middle, ground]))
    local = frame.from_geodetic(np.column_stack([corners, np.full(len(corners), ground)]))[:, :2]
    area_m = np.array([local.min(0), local.max(0)])
    if is_common:
        area_m = widen_box(area_m, COMMON_AREA_MARGIN_M)
    if (area_m[1] - area_m[0]).min() < 10 * options.resolution_m:
        raise SkyfallError("The area of interest is only a few meters wide. Give a larger one.")
    return frame, area_m


def _exclude_blank_images(
    tied: TiedImages, frame: LocalFrame, area_m: ndarray, held_out: frozenset[str], log: ProcessingLog
) -> TiedImages:
    """Leave out the images that are blank over the area itself."""
    relief = relief_from_tie_points(frame.from_geodetic(tied.tie_lonlath), widen_box(area_m, BORDER_M))
    crops = read_crops(tied.vendor_images, tied.adjustment.offsets_px, frame, relief.cell_points_m())
    blank = find_blank_images(crops)
    note_blank_images([image.name for image in tied.vendor_images], blank, held_out, log)
    return tied.select_images(~blank) if blank.any() else tied


def _find_relief_and_box(
    tied: TiedImages, is_train: Bool[ndarray, " v"], clusters: Sequence[int], frame: LocalFrame, area_m: ndarray,
    options: ProcessingOptions, rpc_range_m: tuple[float, float], log: ProcessingLog,
) -> tuple[Relief, Float64[ndarray, "2 3"]]:  # fmt: skip
    """Rough heights of the area and its border, and the scene's box."""
    ground, wide_area_m = frame.origin[2], widen_box(area_m, BORDER_M)
    tie_points_m = tie_points_within(frame.from_geodetic(tied.tie_lonlath), wide_area_m)
    requested_m = options.height_range_m
    found = None
    if options.points == "dense":
        low, high = requested_m or search_height_range_m(tie_points_m + [0, 0, ground], rpc_range_m)
        search_box_m = np.array([[*wide_area_m[0], low - ground], [*wide_area_m[1], high - ground]])
        views = [
            read_matching_view(image, offset, frame, search_box_m, options.camera, None)
            for image, offset, train in zip(tied.vendor_images, tied.adjustment.offsets_px, is_train, strict=True)
            if train
        ]
        gray_views = [(image.mean(-1), camera) for image, camera in views]
        found = relief_from_surface(gray_views, search_box_m, tie_points_m, clusters)
        if found is None:
            log.add_note(
                "no coarse surface is found over the area: its box has the heights of the tie points around it"
            )
    relief, matched_m = found or (relief_from_tie_points(tie_points_m, wide_area_m), None)
    below_m, above_m = options.box_margins_m
    if options.points == "sparse":
        above_m = ABOVE_TIE_POINTS_M
    bottom, top = box_heights_m(tie_points_m, matched_m, below_m, above_m)
    if requested_m is not None:
        bottom, top = requested_m[0] - ground, requested_m[1] - ground
    return relief, np.array([[*area_m[0], bottom], [*area_m[1], top]])


def _check_two_view_fraction(
    tied: TiedImages, is_train: Bool[ndarray, " v"], frame: LocalFrame, relief: Relief, area_m: ndarray,
    options: ProcessingOptions, log: ProcessingLog,
) -> None:  # fmt: skip
    """Raise SkyfallError where two images show too little of the area.

    Without a dense surface, whose coverage is noted later, add a note where they do not show all of it."""
    cells = relief.cell_points_m()
    cells = cells[((cells[:, :2] >= area_m[0]) & (cells[:, :2] <= area_m[1])).all(1)]
    train_images = [image for image, train in zip(tied.vendor_images, is_train, strict=True) if train]
    fraction = two_view_fraction(train_images, frame, cells)
    if fraction < MIN_TWO_VIEW_FRACTION:
        raise SkyfallError(
            f"Only {fraction:.0%} of the area of interest is shown by two images. Give a smaller area, or more images."
        )
    if fraction < 0.99 and options.points == "sparse":
        log.add_note(f"two images show {fraction:.0%} of the area, the rest stays empty")
