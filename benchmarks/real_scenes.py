"""Heights over all cells, and pictures from 35 and 20 degrees, of processed and trained scenes; one report for all.

    python benchmarks/real_scenes.py OUTPUT NAME --scene SCENE --reference REF.tif [--config RUN/config.yml]
    python benchmarks/real_scenes.py OUTPUT NAME --scene SCENE --lidar DSM.tif CLASSES.tif PLACE.txt --lidar-crs CRS

Each call adds or replaces the section NAME ("Kahramanmaras 2016, after") of OUTPUT/results.json, OUTPUT/report.html and
OUTPUT/report.md. Uncertainties are scored where SCENE holds surface_sigma.tif, and with --sigma.
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
from rasterizer import machine
from real_scenes_report import html_report, markdown_report

from skyfall_ns.evaluation.calibration import sigma_calibration
from skyfall_ns.evaluation.cells import resample, shift_cells, translate
from skyfall_ns.evaluation.envelope import compare_envelope
from skyfall_ns.evaluation.exposure import exposure_statistics
from skyfall_ns.evaluation.lidar import LidarTruth, error_statistics, read_lidar, score_lidar
from skyfall_ns.export.dsm import render_dsm
from skyfall_ns.geo.camera_poses import orbit
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.geo.dsm_comparison import compare_dsm
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.raster import Raster, read_raster
from skyfall_ns.models.geometry.view import model_view
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.pipelines.load_run import load_run
from skyfall_ns.scene.scene import Scene

ELEVATIONS, AZIMUTHS = (35.0, 20.0), 8
SIZE, FOV_DEG = (960, 540), 30.0  # width, height; vertical: the scene fills the picture
CELL_M = 0.5
MARGIN = 1.15  # around the scene
SOLID = 0.9  # alpha from which a pixel shows the scene
BACKGROUND = np.array([38, 42, 55]) / 255  # the viewer's
MATCHED = 1  # in surface_source.tif


def score_heights(
    pred: Raster, reference: Raster | None, lidar: LidarTruth | None, sigma: Raster | None, source: Raster | None
) -> dict[str, Any]:
    """Scores of one DSM against what truth there is; `sigma` holds its standard deviations, `source` which of its cells
    are matched (all of them without)."""
    scores: dict[str, Any] = {}
    if reference is not None:
        compared = compare_dsm(pred, reference)
        known = compared.difference_m[np.isfinite(compared.difference_m)]
        scores["reference"] = error_statistics(known) | {"completeness": compared.report["completeness"]}
        east, north, _ = compared.report["shift_m"]
        cell_m = abs(reference.transform.a)
        start = -round(north / cell_m), round(east / cell_m)
        scores["envelope"] = dataclasses.asdict(compare_envelope(pred, reference, start))
        if sigma is not None:
            deviations = resample(translate(sigma, east, north), reference)
            matched = np.nan if source is None else resample(translate(source, east, north), reference)
            scores["sigma"] = _calibrate(compared.difference_m, deviations, matched)
    if lidar is not None:
        scored = score_lidar(pred, lidar)
        scores["lidar"] = scored.report
        if sigma is not None:
            deviations = shift_cells(resample(sigma, lidar.dsm), *scored.shift)
            matched = np.nan if source is None else shift_cells(resample(source, lidar.dsm), *scored.shift)
            scores["sigma"] = _calibrate(scored.difference_m, deviations, matched)
    return scores


def _calibrate(difference_m: np.ndarray, sigma_m: np.ndarray, source: np.ndarray | float) -> dict[str, float]:
    """Calibration over the matched cells; over all cells where no source is known."""
    use = np.ones(difference_m.shape, bool) if np.isscalar(source) else source == MATCHED
    return sigma_calibration(difference_m[use], sigma_m[use])


def orbit_cameras(box_m: np.ndarray, elevation_deg: float) -> list[PinholeCamera]:
    """Cameras on a circle around the area's center from which it fills the picture, from the south on."""
    low, high = box_m
    target = np.array([*(low[:2] + high[:2]) / 2, 0.0])
    tangent = np.tan(np.radians(FOV_DEG / 2))
    width, height = SIZE
    radius = 0.5 * float(np.hypot(*(high - low)[:2])) / tangent * height / width * MARGIN
    focal = height / (2 * tangent)
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1]])
    poses = orbit(target, radius, elevation_deg, AZIMUTHS) @ np.diag([1.0, -1.0, -1.0, 1.0])  # OpenGL to OpenCV axes
    return [PinholeCamera(np.linalg.inv(pose), intrinsics, SIZE) for pose in poses]


def _bytes(colors: np.ndarray) -> np.ndarray:
    return np.round(255 * colors.clip(0, 1)).astype(np.uint8)


@torch.no_grad()
def render_orbit(model: SkyfallModel, elevation_deg: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures "h w 3" of 8 bits in the look of free views, and their pixels that show the scene "n 3"."""
    on_model, found = model.on_model, []
    for camera in orbit_cameras(on_model.scene.box_m, elevation_deg):
        view = model_view(camera, np.array(on_model.centre_m), on_model.scale)
        drawn = model.render(view, look=model.looks.free())
        alpha, color = drawn.alpha.cpu().numpy(), drawn.color.cpu().numpy()
        shown = color[alpha > SOLID] / alpha[alpha > SOLID][:, None]
        picture = color + (1 - alpha[..., None]) * BACKGROUND
        found.append((_bytes(picture), _bytes(shown)))
    return found


def write_pictures(model: SkyfallModel, folder: Path) -> tuple[list[str], list[np.ndarray]]:
    """Names of the pictures written, and the pixels that show the scene, per picture."""
    folder.mkdir(parents=True, exist_ok=True)
    names, pixels = [], []
    for elevation in ELEVATIONS:
        for k, (picture, shown) in enumerate(render_orbit(model, elevation)):
            name = f"e{elevation:.0f}_a{(180 + 360 * k // AZIMUTHS) % 360:03d}.jpg"
            cv2.imwrite(str(folder / name), picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])
            names.append(f"{folder.name}/{name}")
            pixels.append(shown)
    return names, pixels


def image_pixels(scene: Scene) -> list[np.ndarray]:
    """Pixels of the toned training images, as previews/ holds them; black ones are nodata."""
    pixels = []
    for image in scene.images:
        if image.split == "train":
            picture = cv2.imread(str(scene.folder / f"previews/{image.name}.png"), cv2.IMREAD_COLOR)
            assert picture is not None, image.name
            pixels.append(picture[picture.any(-1)][:, ::-1])
    return pixels


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """The section of one scene and its run."""
    scene = Scene.load(args.scene)
    reference = read_raster(args.reference) if args.reference else None
    lidar = read_lidar(*args.lidar, args.lidar_crs) if args.lidar else None
    source = _if_there(args.scene / "surface_source.tif")
    section: dict[str, Any] = {"machine": machine(), "heights": {}}
    sigma = _if_there(args.scene / "surface_sigma.tif")
    section["heights"]["surface"] = score_heights(
        read_raster(args.scene / "surface.tif"), reference, lidar, sigma, source
    )
    if args.config is None:
        return section
    model, folder = load_run(args.config), args.output / slug(args.name)
    section["pictures"], rendered = write_pictures(model, folder)
    section["look"] = {"renders": exposure_statistics(rendered), "images": exposure_statistics(image_pixels(scene))}
    if args.dsm is None:
        render_dsm(model, LocalFrame.from_dict(scene.frame), scene.box_m, CELL_M).write(folder / "dsm.tif")
    sigma = read_raster(args.sigma) if args.sigma else None
    section["heights"]["trained"] = score_heights(
        read_raster(args.dsm or folder / "dsm.tif"), reference, lidar, sigma, source
    )
    return section


def _if_there(path: Path) -> Raster | None:
    return read_raster(path) if path.is_file() else None


def slug(name: str) -> str:
    """A folder's name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder of the report")
    parser.add_argument("name", help="section to write")
    parser.add_argument("--scene", type=Path, required=True, help="scene folder, with surface.tif")
    parser.add_argument("--config", type=Path, help="config.yml of a run of the scene")
    parser.add_argument("--dsm", type=Path, help="heights exported from the run; rendered by default")
    parser.add_argument("--sigma", type=Path, help="standard deviations of the run's heights")
    parser.add_argument("--reference", type=Path, help="reference DSM")
    parser.add_argument("--lidar", type=Path, nargs=3, metavar=("DSM", "CLASSES", "PLACE"), help="truth with classes")
    parser.add_argument("--lidar-crs", help="CRS of PLACE, such as EPSG:32617")
    return parser


def main() -> None:
    """Measure one scene, write the report of all."""
    arguments = parser()
    args = arguments.parse_args()
    if bool(args.lidar) != bool(args.lidar_crs):
        arguments.error("--lidar and --lidar-crs belong together. Give both.")
    if args.config is None and (args.dsm or args.sigma):
        arguments.error("--dsm and --sigma belong to a run. Give its --config.")
    args.output.mkdir(parents=True, exist_ok=True)
    file = args.output / "results.json"
    results = json.loads(file.read_text()) if file.is_file() else {}
    results[args.name] = measure(args)
    file.write_text(json.dumps(results, indent=1))
    (args.output / "report.html").write_text(html_report(results))
    (args.output / "report.md").write_text(markdown_report(results))
    print(markdown_report(results))


if __name__ == "__main__":
    main()
