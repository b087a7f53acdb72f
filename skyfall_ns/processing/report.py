"""What processing found out, for programs (report.json) and for people (report.html, with pictures)."""

import hashlib
import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.geo.epipolar import epipolar_segments, transverse_px
from skyfall_ns.geo.rpc import RPC
from skyfall_ns.io.images import hillshade, share_map, sigma_map, source_map, write_png
from skyfall_ns.processing.process import Prepared
from skyfall_ns.processing.report_page import page

PICTURES = "report"  # folder of the report's pictures; previews/ holds one picture per image and nothing else
RED, GREEN = (60, 60, 220), (80, 160, 60)  # blue, green, red
PACKAGES = ("skyfall-ns", "numpy", "opencv-python-headless", "rasterio", "pyproj")


def write_reports(folder: Path, prepared: Prepared) -> dict[str, Any]:
    """Write report.json, the pictures and report.html into a scene folder; what report.json holds."""
    data = report(prepared)
    (folder / "report.json").write_text(json.dumps(data, indent=1) + "\n")
    (folder / PICTURES).mkdir()
    if prepared.surface is not None:
        surface = prepared.surface
        pictures = {
            "surface": hillshade(surface.height_m, surface.grid.resolution_m),
            "source": source_map(surface.source),
            "sigma": sigma_map(surface.sigma_m),
            "confidence": share_map(surface.confidence),
        }
        for name, picture in pictures.items():
            write_png(folder / PICTURES / f"{name}.png", picture)
    for index, image in enumerate(prepared.scene.images):
        picture = cv2.imread(str(folder / f"previews/{image.name}.png"))
        write_png(folder / PICTURES / f"{image.name}_ties.png", _draw_ties(picture, prepared, index))
    residuals = [pair_residuals_px(prepared, *pair.images) for pair in prepared.adjustment.pairs]
    (folder / "report.html").write_text(page(data, residuals, PICTURES))
    return data


def report(prepared: Prepared) -> dict[str, Any]:
    """Everything in numbers; metres, pixels and seconds."""
    scene = prepared.scene
    low, median, high = (float(v) for v in np.percentile(prepared.heights_m, [1, 50, 99]))
    return {
        "adjustment": _adjustment_numbers(prepared),
        "heights_m": {"p1": low, "median": median, "p99": high},
        "cameras": {
            image.name: {
                "model": image.camera["model"],
                "fit_mean_px": image.camera["fit_px"][0],
                "fit_max_px": image.camera["fit_px"][1],
                "size": [image.width, image.height],
                "split": image.split,
                "acquired": image.acquired,
                "sun_deg": image.sun_deg,
            }
            for image in scene.images
        },
        "points": {"count": prepared.points},
        "surface": _surface_numbers(prepared),
        "notes": list(prepared.notes),
        "seconds": {k: round(v, 2) for k, v in {**prepared.seconds, "total": sum(prepared.seconds.values())}.items()},
        "crs": scene.frame["crs"],
        "origin": list(scene.frame["origin"]),
        "box_m": scene.box_m.tolist(),
        "sources": {v.name: {"file": v.path.name, "sha256": _sha256(v.path)} for v in prepared.vendor},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }


def _adjustment_numbers(prepared: Prepared) -> dict[str, Any]:
    adjustment = prepared.adjustment
    names = [image.name for image in prepared.scene.images]
    return {
        "tracks": int(adjustment.inliers.sum()),
        "tracks_found": len(adjustment.inliers),
        "median_px_before": adjustment.median_px_before,
        "median_px_after": adjustment.median_px_after,
        "shifts_px": {n: [float(v) for v in s] for n, s in zip(names, adjustment.shifts_px, strict=True)},
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


def _surface_numbers(prepared: Prepared) -> dict[str, Any] | None:
    surface, coverage = prepared.surface, prepared.coverage
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


def pair_residuals_px(prepared: Prepared, i: int, j: int) -> tuple[Float64[ndarray, " n"], Float64[ndarray, " n"]]:
    """Signed distances of the kept ties of two images from their epipolar lines in image j, before and after the
    adjustment."""
    ties = prepared.observations[prepared.adjustment.inliers]
    ties = ties[np.isfinite(ties[:, [i, j], 0]).all(1)]
    span = (float(prepared.heights_m.min()) - 50.0, float(prepared.heights_m.max()) + 50.0)
    images = [prepared.scene.images[k] for k in (i, j)]
    after = [RPC.from_dict(image.rpc or {}) for image in images]
    before = [r.shifted(-i.shift_px[0], -i.shift_px[1]) for r, i in zip(after, images, strict=True)]
    first, second = (
        transverse_px(epipolar_segments(a, b, ties[:, i], span), ties[:, j])[0] for a, b in (before, after)
    )
    return first, second


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _draw_ties(picture: ndarray, prepared: Prepared, index: int) -> ndarray:
    """Ties on an image: kept ones green, rejected ones red."""
    picture = (0.6 * picture + 40).astype(np.uint8)
    for colrow, kept in zip(prepared.observations[:, index], prepared.adjustment.inliers, strict=True):
        if np.isfinite(colrow).all():
            centre = (round(float(colrow[0])), round(float(colrow[1])))
            cv2.circle(picture, centre, 2, GREEN if kept else RED, -1, cv2.LINE_AA)
    return picture
