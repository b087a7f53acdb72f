"""The stage that matches a dense surface over the scene's box."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.image_pairs import select_stereo_pairs
from skyfall_ns.geo.plane_sweep import Surface, match_dense_surface
from skyfall_ns.geo.surface_evidence import MATCHED
from skyfall_ns.processing.coverage import Coverage, measure_coverage
from skyfall_ns.processing.crops import read_matching_view
from skyfall_ns.processing.image_clusters import describe_clusters
from skyfall_ns.processing.options import ProcessingOptions, Progress
from skyfall_ns.processing.processing_log import ProcessingLog
from skyfall_ns.processing.scene_volume import SceneVolume
from skyfall_ns.scene.scene import SceneImage


@dataclass(frozen=True)
class DenseSurface:
    """A dense surface with its coverage of the area, and the views that it was matched in."""

    surface: Surface
    filled_height_m: Float32[ndarray, "h w"]  # over the surface's grid; rough heights where the surface is unknown
    coverage: Coverage
    images: list[Float32[ndarray, "r c b"]]  # tone-mapped, NaN where there is no data
    cameras: list[AffineCamera]


def match_scene_surface(
    volume: SceneVolume, images: Sequence[SceneImage], options: ProcessingOptions, log: ProcessingLog,
    progress: Progress | None,
) -> DenseSurface:  # fmt: skip
    """Match the training images over the box and its border; notes describe clusters and coverage.

    Raises SkyfallError if no height of the area is matched.
    """
    wide_box_m = volume.wide_box_m
    pairs = zip(volume.tied.vendor_images, images, strict=True)
    train = [(vendor_image, image) for vendor_image, image in pairs if image.split == "train"]
    views = [
        read_matching_view(v, np.array(i.shift_px), volume.frame, wide_box_m, options.camera, i.tone) for v, i in train
    ]
    toned, cameras, names = [v[0] for v in views], [v[1] for v in views], [image.name for _, image in train]
    stereo_pairs = select_stereo_pairs(cameras, volume.clusters)
    log.add_note(describe_clusters(names, volume.clusters, stereo_pairs))
    relief = (volume.relief.grid, volume.relief.height_m)
    surface = match_dense_surface(toned, cameras, wide_box_m, options.resolution_m, progress, volume.clusters, relief)
    if not (surface.source == MATCHED).any():
        raise SkyfallError(
            "No height of the area of interest is matched: the images show water or cloud there, or differ everywhere. "
            "Choose a larger or another area, or go without dense points (--points sparse)."
        )
    rough_height_m = volume.relief.sample_nearest(surface.grid)
    filled_height_m = np.where(np.isfinite(surface.height_m), surface.height_m, rough_height_m)
    coverage = measure_coverage(surface, filled_height_m, volume.box_m[:, :2], toned, cameras, names)
    for note in coverage.notes:
        log.add_note(note)
    return DenseSurface(surface, filled_height_m, coverage, toned, cameras)
