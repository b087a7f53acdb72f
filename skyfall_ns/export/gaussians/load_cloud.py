"""Loading of a run's Gaussians for an export, with their placement."""

from pathlib import Path

from skyfall_ns.export.appearance_choice import choose_appearance
from skyfall_ns.export.gaussians.cloud import GaussianCloud, gaussian_cloud
from skyfall_ns.export.gaussians.screen_kernel import DEFAULT_PIXEL, compensate_kernel, finest_pixel_m
from skyfall_ns.export.placement import FilePlacement
from skyfall_ns.export.provenance import read_provenance
from skyfall_ns.geo.target_frame import choose_target_frame
from skyfall_ns.geo.vertical import VerticalDatum
from skyfall_ns.pipelines.load_run import load_run


def load_gaussian_cloud(
    config_path: Path, appearance: str, crs: str, vertical: VerticalDatum, kernel_pixel_m: float | None
) -> tuple[GaussianCloud, FilePlacement]:
    """Load a run and return its Gaussians as an export writes them, and their placement.

    `kernel_pixel_m` is that of `--kernel-pixel`. Raises SkyfallError for a config, an appearance, a CRS or a datum that
    cannot be used.
    """
    renderer = load_run(config_path).renderer
    normalized = renderer.normalized
    scene = normalized.scene
    target = choose_target_frame(scene.frame, scene.box_m, crs, vertical)
    cloud = gaussian_cloud(renderer, choose_appearance(renderer, appearance), target)
    pixel_m = DEFAULT_PIXEL * finest_pixel_m(normalized) if kernel_pixel_m is None else kernel_pixel_m
    if pixel_m > 0:
        cloud = compensate_kernel(cloud, pixel_m)
    return cloud, FilePlacement(target, read_provenance(config_path, scene), appearance)
