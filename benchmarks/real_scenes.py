"""Score heights over all cells and render from 35 and 20 degrees, for processed and trained scenes; write one report.

    python benchmarks/real_scenes.py OUTPUT NAME --scene SCENE --reference REF.tif [--config RUN/config.yml]
    python benchmarks/real_scenes.py OUTPUT NAME --scene SCENE --lidar DSM.tif CLASSES.tif GRID.txt --lidar-crs CRS

Each call adds or replaces the section NAME ("Kahramanmaras 2016, after") of OUTPUT/results.json, OUTPUT/report.html and
OUTPUT/report.md. Standard deviations are scored if SCENE has surface_sigma.tif, and with --sigma.
"""

import argparse
import dataclasses
import json
import re
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from rasterizer import describe_machine
from real_scenes_report import html_report, markdown_report

from skyfall_ns.evaluation.calibration import sigma_calibration
from skyfall_ns.evaluation.cells import resample_raster, shift_cells, translate_raster
from skyfall_ns.evaluation.envelope import compare_envelope
from skyfall_ns.evaluation.exposure import exposure_statistics
from skyfall_ns.evaluation.lidar import LidarTruth, error_statistics, read_lidar, score_lidar
from skyfall_ns.export.dsm import render_dsm
from skyfall_ns.geo.camera_poses import orbit_poses
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.geo.dsm_comparison import compare_dsm
from skyfall_ns.geo.raster import Raster, read_raster
from skyfall_ns.models.renderer import Renderer
from skyfall_ns.pipelines.load_run import load_run
from skyfall_ns.scene.scene import Scene
from skyfall_ns.view import view_from_pinhole

ELEVATIONS, AZIMUTHS = (35.0, 20.0), 8
SIZE, FOV_DEG = (960, 540), 30.0  # width, height; vertical: the scene fills the image
CELL_M = 0.5
ORBIT_MARGIN = 1.15  # around the scene
OPAQUE_ALPHA = 0.9  # alpha from which a pixel shows the scene
BACKGROUND = np.array([38, 42, 55]) / 255  # the viewer's
MATCHED_SOURCE = 1  # in surface_source.tif


def score_heights(
    pred: Raster, reference: Raster | None, lidar: LidarTruth | None, sigma: Raster | None, source: Raster | None
) -> dict[str, Any]:
    """Score one DSM against the available ground truth. `sigma` has its standard deviations, `source` the sources of
    its cells (None: all are matched)."""
    scores: dict[str, Any] = {}
    if reference is not None:
        comparison = compare_dsm(pred, reference)
        known = comparison.difference_m[np.isfinite(comparison.difference_m)]
        scores["reference"] = error_statistics(known) | {"completeness": comparison.report["completeness"]}
        east, north, _ = comparison.report["shift_m"]
        cell_m = abs(reference.transform.a)
        start = -round(north / cell_m), round(east / cell_m)
        scores["envelope"] = dataclasses.asdict(compare_envelope(pred, reference, start))
        if sigma is not None:
            registered_sigma = resample_raster(translate_raster(sigma, east, north), reference)
            matched = np.nan if source is None else resample_raster(translate_raster(source, east, north), reference)
            scores["sigma"] = _sigma_scores(comparison.difference_m, registered_sigma, matched)
    if lidar is not None:
        score = score_lidar(pred, lidar)
        scores["lidar"] = score.report
        if sigma is not None:
            registered_sigma = shift_cells(resample_raster(sigma, lidar.dsm), *score.shift)
            matched = np.nan if source is None else shift_cells(resample_raster(source, lidar.dsm), *score.shift)
            scores["sigma"] = _sigma_scores(score.difference_m, registered_sigma, matched)
    return scores


def _sigma_scores(difference_m: np.ndarray, sigma_m: np.ndarray, source: np.ndarray | float) -> dict[str, float]:
    """Calibration of the matched cells, or of all cells without a source."""
    use = np.ones(difference_m.shape, bool) if np.isscalar(source) else source == MATCHED_SOURCE
    return sigma_calibration(difference_m[use], sigma_m[use])


def orbit_cameras(box_m: np.ndarray, elevation_deg: float) -> list[PinholeCamera]:
    """Cameras on a circle around the center of the area, which fills the image; the first one is in the south."""
    low, high = box_m
    target = np.array([*(low[:2] + high[:2]) / 2, 0.0])
    tangent = np.tan(np.radians(FOV_DEG / 2))
    width, height = SIZE
    radius = 0.5 * float(np.hypot(*(high - low)[:2])) / tangent * height / width * ORBIT_MARGIN
    focal = height / (2 * tangent)
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    poses = orbit_poses(target, radius, elevation_deg, AZIMUTHS) @ np.diag(
        [1.0, -1.0, -1.0, 1.0]
    )  # OpenGL to OpenCV axes
    return [PinholeCamera(np.linalg.inv(pose), intrinsics, SIZE) for pose in poses]


def _to_bytes(colors: np.ndarray) -> np.ndarray:
    return np.round(255 * colors.clip(0, 1)).astype(np.uint8)


@torch.no_grad()
def render_orbit(renderer: Renderer, elevation_deg: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Render 8-bit images "h w 3" with the appearance of free views; collect the pixels that show the scene "n 3"."""
    normalized, views = renderer.normalized, []
    for camera in orbit_cameras(normalized.scene.box_m, elevation_deg):
        view = view_from_pinhole(camera, np.array(normalized.center_m), normalized.scale)
        rendering = renderer.render(view, appearance=renderer.appearance_model.free_view_appearance())
        alpha, color = rendering.alpha.cpu().numpy(), rendering.color.cpu().numpy()
        scene_pixels = color[alpha > OPAQUE_ALPHA] / alpha[alpha > OPAQUE_ALPHA][:, None]
        image = color + (1 - alpha[..., None]) * BACKGROUND
        views.append((_to_bytes(image), _to_bytes(scene_pixels)))
    return views


def write_orbit_images(renderer: Renderer, directory: Path) -> tuple[list[str], list[np.ndarray]]:
    """Write the images of all directions; return their names, and the pixels that show the scene, per image."""
    directory.mkdir(parents=True, exist_ok=True)
    names, pixels = [], []
    for elevation in ELEVATIONS:
        for k, (image, scene_pixels) in enumerate(render_orbit(renderer, elevation)):
            name = f"e{elevation:.0f}_a{(180 + 360 * k // AZIMUTHS) % 360:03d}.jpg"
            cv2.imwrite(str(directory / name), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
            names.append(f"{directory.name}/{name}")
            pixels.append(scene_pixels)
    return names, pixels


def image_pixels(scene: Scene) -> list[np.ndarray]:
    """Pixels of the tone-mapped training images in previews/; black pixels are nodata."""
    pixels = []
    for image in scene.images:
        if image.split == "train":
            preview = cv2.imread(str(scene.directory / f"previews/{image.name}.png"), cv2.IMREAD_COLOR)
            assert preview is not None, image.name
            pixels.append(preview[preview.any(-1)][:, ::-1])
    return pixels


def measure_scene(args: argparse.Namespace) -> dict[str, Any]:
    """Measure one scene and its run; return its section of the results."""
    scene = Scene.from_directory(args.scene)
    reference = read_raster(args.reference) if args.reference else None
    lidar = read_lidar(*args.lidar, args.lidar_crs) if args.lidar else None
    source = _read_if_exists(args.scene / "surface_source.tif")
    section: dict[str, Any] = {"machine": describe_machine(), "heights": {}}
    sigma = _read_if_exists(args.scene / "surface_sigma.tif")
    section["heights"]["surface"] = score_heights(
        read_raster(args.scene / "surface.tif"), reference, lidar, sigma, source
    )
    if args.config is None:
        return section
    renderer, directory = load_run(args.config).renderer, args.output / directory_name(args.name)
    section["renders"], rendered = write_orbit_images(renderer, directory)
    section["exposure"] = {"renders": exposure_statistics(rendered), "images": exposure_statistics(image_pixels(scene))}
    if args.dsm is None:
        render_dsm(renderer, scene.frame, scene.box_m, CELL_M).write_heights(directory / "dsm.tif")
    sigma = read_raster(args.sigma) if args.sigma else None
    section["heights"]["trained"] = score_heights(
        read_raster(args.dsm or directory / "dsm.tif"), reference, lidar, sigma, source
    )
    return section


def _read_if_exists(path: Path) -> Raster | None:
    return read_raster(path) if path.is_file() else None


def directory_name(name: str) -> str:
    """Name of the directory of a section."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def make_parser() -> argparse.ArgumentParser:
    """Parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="directory of the report")
    parser.add_argument("name", help="section to write")
    parser.add_argument("--scene", type=Path, required=True, help="scene directory, with surface.tif")
    parser.add_argument("--config", type=Path, help="config.yml of a run of the scene")
    parser.add_argument("--dsm", type=Path, help="heights exported from the run; rendered by default")
    parser.add_argument("--sigma", type=Path, help="standard deviations of the run's heights")
    parser.add_argument("--reference", type=Path, help="reference DSM")
    parser.add_argument(
        "--lidar", type=Path, nargs=3, metavar=("DSM", "CLASSES", "GRID"), help="lidar heights with classes"
    )
    parser.add_argument("--lidar-crs", help="CRS of GRID, such as EPSG:32617")
    return parser


def main() -> None:
    """Measure one scene and write the report of all scenes."""
    parser = make_parser()
    args = parser.parse_args()
    if bool(args.lidar) != bool(args.lidar_crs):
        parser.error("--lidar and --lidar-crs belong together. Give both.")
    if args.config is None and (args.dsm or args.sigma):
        parser.error("--dsm and --sigma belong to a run. Give its --config.")
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "results.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    results[args.name] = measure_scene(args)
    file.write_text(json.dumps(results, indent=1))
    (args.output / "report.html").write_text(html_report(results))
    (args.output / "report.md").write_text(markdown_report(results))
    print(markdown_report(results))


if __name__ == "__main__":
    main()
