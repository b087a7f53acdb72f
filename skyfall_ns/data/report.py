"""What processing found out, for programs (report.json) and for people (report.html, with pictures)."""

import hashlib
import html
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy import ndarray

from skyfall_ns.data.pictures import hillshade, share_map, write_png
from skyfall_ns.data.prepare import Prepared

RED, GREEN, GRAY = (60, 60, 220), (80, 160, 60), (170, 170, 170)


def report(prepared: Prepared) -> dict[str, Any]:
    """Everything in numbers; metres, pixels and seconds."""
    adjustment, scene = prepared.adjustment, prepared.scene
    names = [image.name for image in scene.images]
    low, median, high = (float(v) for v in np.percentile(prepared.heights_m, [1, 50, 99]))
    return {
        "adjustment": {
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
        },
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
        "seconds": {**{k: round(v, 2) for k, v in prepared.seconds.items()}, "total": sum(prepared.seconds.values())},
        "crs": scene.frame["crs"],
        "origin": list(scene.frame["origin"]),
        "box_m": scene.box_m.tolist(),
        "sources": {v.name: {"file": v.path.name, "sha256": _sha256(v.path)} for v in prepared.vendor},
        "versions": {name: version(name) for name in ("skyfall-ns", "rasterio", "pyproj", "numpy")},
    }


def _surface_numbers(prepared: Prepared) -> dict[str, float] | None:
    surface = prepared.surface
    if surface is None:
        return None
    known = np.isfinite(surface.height_m)
    return {
        "resolution_m": surface.grid.resolution_m,
        "known": float(known.mean()),
        "confident": float((surface.confidence > 0.5).mean()),
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def write_reports(folder: Path, prepared: Prepared) -> None:
    """report.json, the pictures and report.html."""
    data = report(prepared)
    (folder / "report.json").write_text(json.dumps(data, indent=1) + "\n")
    previews = folder / "previews"
    if prepared.surface is not None:
        grid = prepared.surface.grid
        write_png(previews / "surface.png", hillshade(prepared.surface.height_m, grid.resolution_m))
        write_png(previews / "confidence.png", share_map(prepared.surface.confidence))
    for index, image in enumerate(prepared.scene.images):
        picture = cv2.imread(str(previews / f"{image.name}.png"))
        write_png(previews / f"{image.name}_ties.png", _draw_ties(picture, prepared, index))
    (folder / "report.html").write_text(page(data))


def _draw_ties(picture: ndarray, prepared: Prepared, index: int) -> ndarray:
    """Ties on an image: kept ones green, rejected ones red."""
    picture = (0.6 * picture + 40).astype(np.uint8)
    for colrow, kept in zip(prepared.observations[:, index], prepared.adjustment.inliers, strict=True):
        if np.isfinite(colrow).all():
            centre = (round(float(colrow[0])), round(float(colrow[1])))
            cv2.circle(picture, centre, 2, GREEN if kept else RED, -1, cv2.LINE_AA)
    return picture


def page(data: dict[str, Any]) -> str:
    """The report as one page beside its previews."""
    a, h = data["adjustment"], data["heights_m"]
    facts = [
        ("Images", f"{len(data['cameras'])}"),
        ("Tie points", f"{a['tracks']} kept of {a['tracks_found']}"),
        ("Tie residual (median)", f"{a['median_px_before']:.2f} px before, {a['median_px_after']:.3f} px after"),
        ("Ellipsoidal heights of ties", f"{h['p1']:.1f} to {h['p99']:.1f} m, median {h['median']:.1f} m"),
        ("Points", f"{data['points']['count']:,}"),
        ("Reference system", f"{data['crs']}, origin {', '.join(f'{v:.2f}' for v in data['origin'])}"),
        ("Processing time", f"{data['seconds']['total']:.1f} s"),
    ]
    pairs = [
        (
            " / ".join(p["images"]),
            p["tracks"],
            f"{p['median_px_before']:.2f}",
            f"{p['median_px_after']:.3f}",
            _bar(p["median_px_before"], p["median_px_after"]),
        )
        for p in a["pairs"]
    ]
    cameras = [
        (
            name,
            c["split"],
            c["acquired"] or "unknown",
            c["model"],
            f"{c['fit_mean_px']:.2g}",
            f"{c['fit_max_px']:.2g}",
            "{:+.2f}, {:+.2f}".format(*a["shifts_px"][name]),
        )
        for name, c in data["cameras"].items()
    ]
    camera_columns = ("image", "split", "acquired", "camera", "fit mean px", "fit max px", "shift px (col, row)")
    surface = ""
    if data["surface"]:
        surface = "<h2>Dense surface</h2>" + _figures([("surface.png", "heights"), ("confidence.png", "confidence")])
    return "\n".join([
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Scene report</title>",
        f"<style>{_STYLE}</style><h1>Scene report</h1>",
        _table(("", ""), facts),
        surface,
        "<h2>Images, and the ties that adjust them</h2>",
        *(_figures([(f"{n}.png", n), (f"{n}_ties.png", "ties: green kept, red rejected")]) for n in data["cameras"]),
        "<h2>Agreement of the images</h2>",
        _table(("pair", "ties", "median px before", "after", ""), pairs),
        "<h2>Cameras</h2>",
        _table(camera_columns, cameras),
        "</html>",
    ])  # fmt: skip


_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1100px;color:#222}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .9em;border-bottom:1px solid #ddd;text-align:left}"
    "figure{display:inline-block;margin:.4em;vertical-align:top}img{max-width:520px;max-height:640px}"
    "figcaption{color:#666}.bar{height:.8em;display:inline-block}"
)


class _Raw(str):
    """Markup that is not to be escaped."""


def _bar(before: float, after: float) -> _Raw:
    scale = 24.0
    return _Raw(
        f"<span class='bar' style='width:{scale * before:.0f}px;background:#d66'></span>"
        f"<span class='bar' style='width:{max(1.0, scale * after):.0f}px;background:#6a6'></span>"
    )


def _table(columns: tuple[str, ...], rows: list[tuple]) -> str:
    head = "".join(f"<th>{html.escape(c)}</th>" for c in columns) if any(columns) else ""
    cells = [
        "".join(f"<td>{cell if isinstance(cell, _Raw) else html.escape(str(cell))}</td>" for cell in row)
        for row in rows
    ]
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{c}</tr>" for c in cells) + "</table>"


def _figures(pictures: list[tuple[str, str]]) -> str:
    return "".join(
        f"<figure><img src='previews/{html.escape(file)}' alt='{html.escape(text)}'>"
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
        for file, text in pictures
    )
