"""Vendor images to a scene folder: ties, adjustment, heights, crops, tone, cameras, surface, points, previews."""

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64
from numpy import ndarray

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.bundle_adjustment import Adjustment, adjust
from skyfall_ns.geo.cameras import CameraModel
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.image_pairs import good_pairs
from skyfall_ns.geo.plane_sweep import Surface, dense_surface
from skyfall_ns.geo.raster import Grid
from skyfall_ns.geo.surface_evidence import MATCHED
from skyfall_ns.geo.surface_points import surface_points
from skyfall_ns.io.ply import write_ply
from skyfall_ns.processing.area_of_interest import Area, check_overlap, check_shown, common_ground, share_seen_twice
from skyfall_ns.processing.blank_images import blank_images, check_enough
from skyfall_ns.processing.coverage import Coverage, surface_coverage
from skyfall_ns.processing.crops import camera_of, matching_view, read_crops, scene_images, widen_box
from skyfall_ns.processing.height_range import (
    ABOVE_M,
    ABOVE_TIES_M,
    Relief,
    box_heights_m,
    relief_of_surface,
    relief_of_ties,
    search_heights_m,
    ties_within,
)
from skyfall_ns.processing.image_clusters import cluster_images, cluster_note
from skyfall_ns.processing.initial_points import point_cloud, point_spacing_m, tie_points
from skyfall_ns.processing.masks import shows_surface
from skyfall_ns.processing.processing_log import Announce, ProcessingLog
from skyfall_ns.processing.scene_files import write_images, write_surface
from skyfall_ns.processing.tied_images import TiedImages, crop_rpcs, ties_of_crops
from skyfall_ns.processing.tone_mapping import check_gamma
from skyfall_ns.processing.vendor_images import Crop, VendorImage, open_images, read_crop, with_suns
from skyfall_ns.scene.scene import Scene, SceneImage

POINTING_MARGIN_PX = 24  # vendor RPCs point a few pixels wrong
BORDER_M = 10.0  # around the area: what stands just outside it leans into the images, and needs splats of its own
SHARED_MORE_M = 12.0  # around the rectangle that all images show: some pairs show more
GROUND_PERCENTILE = 10.0
LEAST_SEEN = 0.5  # of the area, by two images
RESOLUTION_M = 0.5
PointsMode = Literal["dense", "sparse"]
Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True)
class Options:
    """How to process; the defaults are the command's."""

    area: Area = field(default_factory=Area)
    height_range_m: tuple[float, float] | None = None
    camera: CameraModel = "quadratic"
    adjust: bool = True
    points: PointsMode = "dense"
    test_images: tuple[str, ...] = ()
    suns: tuple[str, ...] = ()
    gamma: float | None = None
    resolution_m: float = RESOLUTION_M


@dataclass(frozen=True)
class Prepared:
    """Everything that was found out about a scene: what reports tell."""

    scene: Scene
    vendor: tuple[VendorImage, ...]
    adjustment: Adjustment
    observations: Float64[ndarray, "n k 2"]  # ties, in pixels of the scene's crops
    heights_m: Float64[ndarray, " n"]  # ellipsoidal, of the ties that were kept
    surface: Surface | None
    coverage: Coverage | None  # of the area, by the surface
    points: int
    seconds: dict[str, float]
    notes: tuple[str, ...]


def prepare(
    paths: Sequence[Path], folder: Path, options: Options, announce: Announce, progress: Progress | None = None
) -> Prepared:
    """Process images into `folder` (which exists and is empty) and write all but the reports.

    `progress` follows the step announced last. Raises SkyfallError on bad input.
    """
    log = ProcessingLog(announce)
    check_gamma(options.gamma)
    with log.step("read", f"Reading {len(paths)} images"):
        vendor = with_suns(open_images(paths), options.suns)
        held_out = _held_out([v.name for v in vendor], options.test_images)
        search = _search_range(vendor, options.height_range_m)
        rough, corners = _rough_crops(vendor, options.area, search)
        vendor, rough = _leave_out_blank(vendor, rough, held_out, log)
    with log.step("ties", "Finding tie points"):
        observations = ties_of_crops(vendor, rough, search, progress)
    with log.step("adjust", f"Adjusting {len(vendor)} RPCs to {len(observations)} tie points"):
        adjustment = adjust(crop_rpcs(vendor, rough), observations, float(np.mean(search)), refine=options.adjust)
        tied = TiedImages(tuple(vendor), tuple(rough), observations, adjustment)
    with log.step("heights", "Looking for the lowest and the highest surface"):
        frame, area = _place(corners, tied, options)
        tied = _without_blank_over_area(tied, frame, area, held_out, log)
        train = np.array([v.name not in held_out for v in tied.vendor])
        clusters = cluster_images(tied, train)
        relief, box = _find_heights(tied, train, clusters, frame, area, options, search, log)
        if corners is not None:
            _check_seen(tied, train, frame, relief, area, options, log)
    wide = widen_box(box, BORDER_M)
    with log.step("crop", "Cropping and toning"):
        shifts = tied.adjustment.shifts_px
        crops = read_crops(tied.vendor, shifts, frame, relief.outer_points_m())
        images = scene_images(tied.vendor, crops, shifts, frame, wide, options.camera, held_out, options.gamma)
    scene = Scene(frame.to_dict(), box, tuple(images), folder=folder)
    surface = coverage = None
    heights, grid = relief.height_m, relief.grid
    if options.points == "dense":
        with log.step("surface", "Matching a dense surface"):
            used = [(v, i) for v, i in zip(tied.vendor, images, strict=True) if i.split == "train"]
            views = [matching_view(v, np.array(i.shift_px), frame, wide, options.camera, i.tone) for v, i in used]
            toned, cameras = [v[0] for v in views], [v[1] for v in views]
            log.note(cluster_note([i.name for _, i in used], clusters, good_pairs(cameras, clusters)))
            surface = dense_surface(toned, cameras, wide, options.resolution_m, progress, clusters)
            _check_matched(surface)
            scene = write_surface(scene, surface, frame, folder)
            grid = surface.grid
            heights = np.where(np.isfinite(surface.height_m), surface.height_m, relief.at(grid))
            coverage = surface_coverage(surface, heights, box[:, :2], toned, cameras, [i.name for _, i in used])
            for note in coverage.notes:
                log.note(note)
    with log.step("crop", "Writing images and masks"):
        write_images(folder, images, crops, _shown(images, grid, heights, box, wide))
    with log.step("points", "Coloring points"):
        if surface is None:
            points = tie_points(frame.from_geodetic(tied.lonlath), images, crops)
        else:
            points = surface_points(surface, toned, cameras, point_spacing_m(box, options.resolution_m))
        write_ply(folder / "points.ply", point_cloud(points))
    scene.save(folder)
    offsets = np.array([[r.col0 - c.col0, r.row0 - c.row0] for r, c in zip(tied.crops, crops, strict=True)])
    return Prepared(
        scene=scene,
        vendor=tied.vendor,
        adjustment=tied.adjustment,
        observations=tied.observations + offsets,
        heights_m=tied.lonlath[:, 2],
        surface=surface,
        coverage=coverage,
        points=len(points.xyz_m),
        seconds=log.seconds,
        notes=tuple(log.notes),
    )


def _check_matched(surface: Surface) -> None:
    if not (surface.source == MATCHED).any():
        raise SkyfallError(
            "No height of the area of interest is matched: the images show water or cloud there, or differ everywhere. "
            "Choose a larger or another area, or go without dense points (--points sparse)."
        )


def _held_out(names: list[str], globs: tuple[str, ...]) -> set[str]:
    """The images that --test-images names."""
    for glob in globs:
        if not fnmatch.filter(names, glob):
            raise SkyfallError(f"--test-images {glob} matches none of the images. They are: {', '.join(names)}.")
    held_out = {name for glob in globs for name in fnmatch.filter(names, glob)}
    if len(names) - len(held_out) < 2:
        raise SkyfallError("--test-images leaves fewer than two images to work with. Hold out fewer.")
    return held_out


def _search_range(vendor: Sequence[VendorImage], asked: tuple[float, float] | None) -> tuple[float, float]:
    """Ellipsoidal heights in which ties are looked for: the RPCs' common range, or what the user asked for."""
    low = max(v.rpc.height_range_m[0] for v in vendor)
    high = min(v.rpc.height_range_m[1] for v in vendor)
    if high <= low:
        raise SkyfallError("The RPCs of the --images have no height in common. Give images of the same place.")
    if asked is None:
        return low, high
    if not asked[0] < asked[1]:
        raise SkyfallError(f"--height-range {asked[0]:g} {asked[1]:g} is empty. Give the lower height first.")
    if asked[0] < low or asked[1] > high:
        raise SkyfallError(
            f"--height-range {asked[0]:g} {asked[1]:g} leaves the RPCs' range of {low:.0f} to {high:.0f} m. "
            "Give ellipsoidal heights within it, or leave the flag out."
        )
    return asked


def _rough_crops(vendor: list[VendorImage], area: Area, search: tuple[float, float]):
    """Windows that surely show the area whatever its height, and the area's corners (lon, lat)."""
    corners = area.lonlat()
    if corners is None:
        check_overlap(vendor, search)
        everything = [np.array([[0.0, 0.0], [v.width - 1.0, v.height - 1.0]]) for v in vendor]
        return [read_crop(v, e, 0) for v, e in zip(vendor, everything, strict=True)], None
    for image in vendor:
        check_shown(corners, image, search)
    ends = np.concatenate([np.column_stack([corners, np.full(len(corners), h)]) for h in search])
    return [read_crop(v, v.rpc.project(ends), POINTING_MARGIN_PX) for v in vendor], corners


def _leave_out_blank(vendor: list[VendorImage], crops: list[Crop], held_out: set[str], log: ProcessingLog):
    """The images and windows that show something."""
    blank = blank_images(crops)
    _note_blank([v.name for v in vendor], blank, held_out, log)
    kept = np.flatnonzero(~blank)
    return [vendor[k] for k in kept], [crops[k] for k in kept]


def _without_blank_over_area(
    tied: TiedImages, frame: LocalFrame, area: ndarray, held_out: set[str], log: ProcessingLog
) -> TiedImages:
    """The images that show something of the area itself."""
    relief = relief_of_ties(frame.from_geodetic(tied.lonlath), widen_box(area, BORDER_M))
    crops = read_crops(tied.vendor, tied.adjustment.shifts_px, frame, relief.cells_m())
    blank = blank_images(crops)
    _note_blank([v.name for v in tied.vendor], blank, held_out, log)
    return tied.subset(~blank) if blank.any() else tied


def _note_blank(names: list[str], blank: Bool[ndarray, " v"], held_out: set[str], log: ProcessingLog) -> None:
    if blank.any():
        check_enough(names, blank, held_out)
        without = ", ".join(name for name, empty in zip(names, blank, strict=True) if empty)
        log.note(f"{without} is blank over the area (no data or no contrast) and left out of the scene")


def _place(asked, tied: TiedImages, options: Options) -> tuple[LocalFrame, Float64[ndarray, "2 2"]]:
    """The local frame at the area's center on the ground, and the area in it (min and max)."""
    heights = tied.lonlath[:, 2]
    ground = float(np.percentile(heights, GROUND_PERCENTILE))
    corners = common_ground(tied.vendor, float(np.median(heights))) if asked is None else asked
    middle = 0.5 * (corners.min(0) + corners.max(0))
    frame = LocalFrame.at(np.array([*middle, ground]))
    local = frame.from_geodetic(np.column_stack([corners, np.full(len(corners), ground)]))[:, :2]
    area = np.array([local.min(0), local.max(0)])
    if asked is None:
        area = widen_box(area, SHARED_MORE_M)
    if (area[1] - area[0]).min() < 10 * options.resolution_m:
        raise SkyfallError("The area of interest is only a few metres wide. Give a larger one.")
    return frame, area


def _find_heights(
    tied: TiedImages, train: ndarray, clusters, frame: LocalFrame, area: ndarray, options: Options,
    rpc_range_m: tuple[float, float], log: ProcessingLog,
) -> tuple[Relief, Float64[ndarray, "2 3"]]:  # fmt: skip
    """Rough heights of the area and its border, and the scene's box."""
    ground, wide = frame.origin[2], widen_box(area, BORDER_M)
    ties = ties_within(frame.from_geodetic(tied.lonlath), wide)
    asked = options.height_range_m
    found = None
    if options.points == "dense":
        low, high = asked or search_heights_m(ties + [0, 0, ground], rpc_range_m)
        search = np.array([[*wide[0], low - ground], [*wide[1], high - ground]])
        used = [(v, s) for v, s, t in zip(tied.vendor, tied.adjustment.shifts_px, train, strict=True) if t]
        views = [matching_view(v, s, frame, search, options.camera, None) for v, s in used]
        found = relief_of_surface([(image.mean(-1), camera) for image, camera in views], search, ties, clusters)
        if found is None:
            log.note("no coarse surface is found over the area: its box takes the heights of the tie points around it")
    relief, matched = found or (relief_of_ties(ties, wide), None)
    bottom, top = box_heights_m(ties, matched, ABOVE_M if options.points == "dense" else ABOVE_TIES_M)
    if asked is not None:
        bottom, top = asked[0] - ground, asked[1] - ground
    return relief, np.array([[*area[0], bottom], [*area[1], top]])


def _check_seen(
    tied: TiedImages, train: ndarray, frame: LocalFrame, relief: Relief, area: ndarray, options: Options,
    log: ProcessingLog,
) -> None:  # fmt: skip
    """Complain where too little of the area is seen twice; without a dense surface, whose coverage says it, note where
    some is not."""
    cells = relief.cells_m()
    cells = cells[((cells[:, :2] >= area[0]) & (cells[:, :2] <= area[1])).all(1)]
    share = share_seen_twice([v for v, t in zip(tied.vendor, train, strict=True) if t], frame, cells)
    if share < LEAST_SEEN:
        raise SkyfallError(
            f"Only {share:.0%} of the area of interest is shown by two images. Give a smaller area, or more images."
        )
    if share < 0.99 and options.points == "sparse":
        log.note(f"two images show {share:.0%} of the area, the rest stays empty")


def _shown(
    images: Sequence[SceneImage], grid: Grid, heights_m: Float32[ndarray, "h w"], box: ndarray, wide: ndarray
) -> list[Bool[ndarray, "r c"]]:
    """What each image shows of the area: training uses the border too, scores count the area that was asked for."""
    areas = [(wide if image.split == "train" else box)[:, :2] for image in images]
    return [shows_surface(camera_of(i), grid, heights_m, a) for i, a in zip(images, areas, strict=True)]
