"""Process vendor images to a scene directory, stage by stage, each from one result to the next."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from skyfall_ns.geo.bundle_adjustment import Adjustment, bundle_adjust
from skyfall_ns.geo.plane_sweep import Surface
from skyfall_ns.geo.surface_points import PointCloud, sample_surface_points
from skyfall_ns.geo.waiting_policy import shorten_busy_waiting
from skyfall_ns.io.ply import write_ply
from skyfall_ns.processing.coverage import Coverage
from skyfall_ns.processing.crops import affine_camera, make_scene_images, read_crops
from skyfall_ns.processing.dense_surface import DenseSurface, match_scene_surface
from skyfall_ns.processing.image_windows import Crop
from skyfall_ns.processing.initial_points import color_tie_points, point_spacing_m, to_ply_points
from skyfall_ns.processing.input_images import InputImages, read_input_images
from skyfall_ns.processing.masks import visible_area_mask
from skyfall_ns.processing.options import ProcessingOptions, Progress
from skyfall_ns.processing.processing_log import OnStage, ProcessingLog
from skyfall_ns.processing.scene_files import write_images, write_surface_layers
from skyfall_ns.processing.scene_volume import SceneVolume, find_scene_volume
from skyfall_ns.processing.tied_images import TiedImages, crop_rpcs, find_crop_tie_points
from skyfall_ns.processing.tone_mapping import check_gamma
from skyfall_ns.processing.vendor_images import VendorImage
from skyfall_ns.scene.scene import Scene, SceneImage


@dataclass(frozen=True)
class ProcessingResult:
    """The scene with everything that the reports show."""

    scene: Scene
    vendor_images: tuple[VendorImage, ...]
    adjustment: Adjustment
    observations: Float64[ndarray, "n k 2"]  # of the tie points, in pixels of the scene's images
    tie_heights_m: Float64[ndarray, " n"]  # ellipsoidal, of the tie points that were kept
    surface: Surface | None
    coverage: Coverage | None  # of the area, by the surface
    point_count: int
    stage_seconds: dict[str, float]
    notes: tuple[str, ...]


def process_scene(
    paths: Sequence[Path],
    directory: Path,
    options: ProcessingOptions,
    on_stage: OnStage,
    progress: Progress | None = None,
) -> ProcessingResult:
    """Process images into `directory` (which exists and is empty) and write all but the reports.

    `on_stage` gets a line for each stage and note; `progress` refers to the latest stage. Raises SkyfallError for
    unusable input.
    """
    shorten_busy_waiting()
    log = ProcessingLog(on_stage)
    check_gamma(options.gamma)
    with log.time_stage("read", f"Reading {len(paths)} images"):
        inputs = read_input_images(paths, options, log)
    tied = _tie_images(inputs, options, log, progress)
    with log.time_stage("heights", "Looking for the lowest and the highest surface"):
        volume = find_scene_volume(inputs, tied, options, log)
    with log.time_stage("crop", "Cropping and tone mapping"):
        crops, images = _crop_images(volume, inputs.held_out, options, log)
    scene, dense = Scene(volume.frame, volume.box_m, tuple(images), directory=directory), None
    if options.points == "dense":
        with log.time_stage("surface", "Matching a dense surface"):
            dense = match_scene_surface(volume, images, options, log, progress)
            scene = write_surface_layers(scene, dense.surface, volume.frame, directory)
    with log.time_stage("crop", "Writing images and masks"):
        write_images(directory, images, crops, _area_masks(volume, images, dense))
    with log.time_stage("points", "Coloring points"):
        points = _make_points(volume, images, crops, dense, options)
        write_ply(directory / "points.ply", to_ply_points(points))
    scene.save_to(directory)
    return _collect_result(scene, volume, crops, dense, points, log)


def _tie_images(
    inputs: InputImages, options: ProcessingOptions, log: ProcessingLog, progress: Progress | None
) -> TiedImages:
    """Find tie points and adjust the RPCs to them."""
    images, crops = inputs.vendor_images, inputs.crops
    with log.time_stage("tie_points", "Finding tie points"):
        observations = find_crop_tie_points(images, crops, inputs.height_range_m, progress)
    with log.time_stage("adjust", f"Adjusting {len(images)} RPCs to {len(observations)} tie points"):
        start_height_m = float(np.mean(inputs.height_range_m))
        adjustment = bundle_adjust(crop_rpcs(images, crops), observations, start_height_m, refine=options.adjust)
    return TiedImages(images, crops, observations, adjustment)


def _crop_images(
    volume: SceneVolume, held_out: frozenset[str], options: ProcessingOptions, log: ProcessingLog
) -> tuple[list[Crop], list[SceneImage]]:
    """Read the windows that show the relief, and fit cameras over the box with its border."""
    vendor_images, offsets_px = volume.tied.vendor_images, volume.tied.adjustment.offsets_px
    crops = read_crops(vendor_images, offsets_px, volume.frame, volume.relief.extreme_points_m())
    images, note = make_scene_images(
        vendor_images, crops, offsets_px, volume.frame, volume.wide_box_m, options.camera, held_out, options.gamma
    )
    log.add_note(note)
    return crops, images


def _area_masks(
    volume: SceneVolume, images: Sequence[SceneImage], dense: DenseSurface | None
) -> list[Bool[ndarray, "r c"]]:
    """Pixels of each image that show the area: with its border for training, the area alone for scores."""
    if dense is None:
        grid, height_m = volume.relief.grid, volume.relief.height_m
    else:
        grid, height_m = dense.surface.grid, dense.filled_height_m
    boxes_m = [volume.wide_box_m if image.split == "train" else volume.box_m for image in images]
    return [
        visible_area_mask(affine_camera(image), grid, height_m, box_m[:, :2])
        for image, box_m in zip(images, boxes_m, strict=True)
    ]


def _make_points(
    volume: SceneVolume, images: Sequence[SceneImage], crops: Sequence[Crop], dense: DenseSurface | None,
    options: ProcessingOptions,
) -> PointCloud:  # fmt: skip
    """Points on the dense surface, or the tie points where there is none."""
    if dense is None:
        return color_tie_points(volume.frame.from_geodetic(volume.tied.tie_lonlath), images, crops)
    spacing_m = point_spacing_m(volume.box_m, options.resolution_m)
    return sample_surface_points(dense.surface, dense.images, dense.cameras, spacing_m)


def _collect_result(
    scene: Scene, volume: SceneVolume, crops: Sequence[Crop], dense: DenseSurface | None, points: PointCloud,
    log: ProcessingLog,
) -> ProcessingResult:  # fmt: skip
    """The result, with observations moved from the tie points' windows to the scene's images."""
    tied = volume.tied
    moved_px = np.array([[r.col0 - c.col0, r.row0 - c.row0] for r, c in zip(tied.crops, crops, strict=True)])
    return ProcessingResult(
        scene=scene,
        vendor_images=tied.vendor_images,
        adjustment=tied.adjustment,
        observations=tied.observations + moved_px,
        tie_heights_m=tied.tie_lonlath[:, 2],
        surface=None if dense is None else dense.surface,
        coverage=None if dense is None else dense.coverage,
        point_count=len(points.xyz_m),
        stage_seconds=log.seconds,
        notes=tuple(log.notes),
    )
