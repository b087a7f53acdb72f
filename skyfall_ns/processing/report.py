"""Reports of processing: report.json for programs, report.html with visualizations for people."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.geo.epipolar import epipolar_distances_px, epipolar_segments
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.io.files import sha256_of_file, write_json
from skyfall_ns.io.images import fraction_map, render_hillshade, sigma_map, source_map, write_png
from skyfall_ns.processing.crops import affine_camera
from skyfall_ns.processing.process import ProcessingResult
from skyfall_ns.processing.report_page import render_page

REPORT_DIRECTORY = "report"  # with the report's visualizations; previews/ has one image per scene image only
RED, GREEN = (60, 60, 220), (80, 160, 60)  # blue, green, red
PACKAGES = ("skyfall-ns", "numpy", "opencv-python-headless", "rasterio", "pyproj")


def write_reports(directory: Path, result: ProcessingResult) -> dict[str, Any]:
    """Write report.json, the visualizations and report.html to a scene directory; return the content of report.json."""
    data = build_report(result)
    write_json(directory / "report.json", data)
    (directory / REPORT_DIRECTORY).mkdir()
    if result.surface is not None:
        surface = result.surface
        layers = {
            "surface": render_hillshade(surface.height_m, surface.grid.resolution_m),
            "source": source_map(surface.source),
            "sigma": sigma_map(surface.sigma_m),
            "confidence": fraction_map(surface.confidence),
        }
        for name, layer in layers.items():
            write_png(directory / REPORT_DIRECTORY / f"{name}.png", layer)
    for index, image in enumerate(result.scene.images):
        preview = cv2.imread(str(directory / f"previews/{image.name}.png"))
        file = directory / REPORT_DIRECTORY / f"{image.name}_tie_points.png"
        write_png(file, _draw_tie_points(preview, result, index))
    residuals = [pair_residuals_px(result, *pair.images) for pair in result.adjustment.pairs]
    (directory / "report.html").write_text(render_page(data, residuals, REPORT_DIRECTORY))
    return data


def build_report(result: ProcessingResult) -> dict[str, Any]:
    """The content of report.json; meters, pixels and seconds."""
    scene, seconds = result.scene, result.stage_seconds
    low, median, high = (float(v) for v in np.percentile(result.tie_heights_m, [1, 50, 99]))
    return {
        "adjustment": _adjustment_numbers(result),
        "heights_m": {"p1": low, "median": median, "p99": high},
        "cameras": {
            image.name: {
                "model": image.camera.model,
                "fit_mean_px": affine_camera(image).fit_px[0],
                "fit_max_px": affine_camera(image).fit_px[1],
                "size": [image.width, image.height],
                "split": image.split,
                "acquired": image.acquired,
                "sun_deg": image.sun_deg,
                "sensor": vendor.acquisition.sensor,
                "off_nadir_deg": vendor.acquisition.off_nadir_deg,
                "view_azimuth_deg": vendor.acquisition.view_azimuth_deg,
                "gsd_m": vendor.acquisition.gsd_m,
                "bands": list(vendor.pixels.bands),
                "rpc_file": vendor.rpc_file.name,
            }
            for image, vendor in zip(scene.images, result.vendor_images, strict=True)
        },
        "points": {"count": result.point_count},
        "surface": _surface_numbers(result),
        "notes": list(result.notes),
        "seconds": {name: round(value, 2) for name, value in {**seconds, "total": sum(seconds.values())}.items()},
        "crs": scene.frame.crs,
        "origin": list(scene.frame.origin),
        "box_m": scene.box_m.tolist(),
        "sources": {v.name: {"file": v.path.name, "sha256": sha256_of_file(v.path)} for v in result.vendor_images},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def _adjustment_numbers(result: ProcessingResult) -> dict[str, Any]:
    adjustment = result.adjustment
    names = [image.name for image in result.scene.images]
    return {
        "tracks": int(adjustment.inliers.sum()),
        "tracks_found": len(adjustment.inliers),
        "median_px_before": adjustment.median_px_before,
        "median_px_after": adjustment.median_px_after,
        "shifts_px": {n: [float(v) for v in s] for n, s in zip(names, adjustment.offsets_px, strict=True)},
        "pairs": [
            {
                "images": [names[p.images[0]], names[p.images[1]]],
                "tracks": p.tracks,
                "median_px_before": p.median_px_before,
                "median_px_after": p.median_px_after,
            }
            for p in adjustment.pairs
        ],
    }


def _surface_numbers(result: ProcessingResult) -> dict[str, Any] | None:
    surface, coverage = result.surface, result.coverage
    if surface is None or coverage is None:
        return None
    return {
        "resolution_m": surface.grid.resolution_m,
        "matched": coverage.matched,
        "filled": coverage.filled,
        "unknown": coverage.unknown,
        "notes": list(coverage.notes),
        "known": float(np.isfinite(surface.height_m).mean()),
        "confident": float((surface.confidence > 0.5).mean()),
    }


def pair_residuals_px(
    result: ProcessingResult, i: int, j: int
) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """Signed distances in pixels of the kept tie points of images i and j from their epipolar lines in image j, before
    and after the adjustment."""
    kept = result.observations[result.adjustment.inliers]
    kept = kept[np.isfinite(kept[:, [i, j], 0]).all(1)]
    heights_m = (float(result.tie_heights_m.min()) - 50.0, float(result.tie_heights_m.max()) + 50.0)
    images = [result.scene.images[k] for k in (i, j)]
    after = [RPC.from_dict(image.rpc or {}) for image in images]
    before = [r.with_offset(-i.shift_px[0], -i.shift_px[1]) for r, i in zip(after, images, strict=True)]
    first, second = (
        epipolar_distances_px(epipolar_segments(a, b, kept[:, i], heights_m), kept[:, j])[0] for a, b in (before, after)
    )
    return first, second


def _draw_tie_points(preview: ndarray, result: ProcessingResult, index: int) -> ndarray:
    """Draw the tie points on a preview (blue-green-red): kept ones green, rejected ones red."""
    drawing = (0.6 * preview + 40).astype(np.uint8)
    for colrow, kept in zip(result.observations[:, index], result.adjustment.inliers, strict=True):
        if np.isfinite(colrow).all():
            center = (round(float(colrow[0])), round(float(colrow[1])))
            cv2.circle(drawing, center, 2, GREEN if kept else RED, -1, cv2.LINE_AA)
    return drawing
