"""The page of the demo: images, scores and the commands that produced them."""

import html
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

_STYLE = (
    "body{font:16px/1.55 system-ui,sans-serif;margin:2em auto;max-width:1150px;color:#222}"
    "figure{display:inline-block;margin:.5em;vertical-align:top}img{max-width:540px}figcaption{color:#666}"
    "table{border-collapse:collapse}td,th{padding:.3em 1em;border-bottom:1px solid #ddd;text-align:left}"
    "pre{background:#f4f4f2;padding:.6em 1em;overflow-x:auto}"
)


@dataclass(frozen=True)
class DemoStep:
    """One command of the demo and the seconds it took."""

    title: str
    command: str
    seconds: float


def write_demo_page(directory: Path, steps: list[DemoStep]) -> Path:
    """Write index.html, and flight.webp from the frames of the flight, to the demo's directory."""
    frames = sorted((directory / "flight").glob("*.jpg"))
    _write_animation(frames, directory / "flight.webp")
    image_scores = json.loads((directory / "images.json").read_text())["results"]
    surface, trained = (json.loads((directory / f"{name}.json").read_text()) for name in ("surface", "dsm"))
    previews = sorted((directory / "scene/previews").glob("view_*[0-9].png"))[:3]
    held_out = sorted((directory / "held_out").glob("*.png"))[:1]
    lines = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>skyfall-ns demo</title>",
        f"<style>{_STYLE}</style><h1>A city from satellite images</h1>",
        _figure_html(
            directory,
            directory / "flight.webp",
            "A flight around the Gaussians, from directions that no satellite image has",
        ),
        "<h2>Satellite images</h2>",
        *(_figure_html(directory, p, p.stem) for p in previews),
        "<h2>Surface from stereo</h2>",
        _figure_html(directory, directory / "scene/report/surface.png", "heights"),
        _figure_html(
            directory,
            directory / "dsm_error.png",
            "trained DSM minus truth: blue too low, red too high, full color at 3 m",
        ),
        "<h2>An image held out of training</h2>",
        *(
            _figure_html(
                directory, p, f"truth, rendering: {image_scores['psnr']:.1f} dB, SSIM {image_scores['ssim']:.3f}"
            )
            for p in held_out
        ),
        "<h2>Heights against the truth, after one 3-D shift</h2>",
        _score_table_html(surface, trained),
        "<h2>The commands</h2>",
        *(f"<p>{html.escape(s.title)} ({s.seconds:.0f} s)</p><pre>{html.escape(s.command)}</pre>" for s in steps),
        "<p>More: <a href='scene/report.html'>the scene's report</a>, <code>export/splat.ply</code>, "
        "<code>dsm.tif</code>.</p></html>",
    ]
    page = directory / "index.html"
    page.write_text("\n".join(lines))
    return page


def _write_animation(frames: list[Path], target: Path) -> None:
    """Write an animated image, which browsers play without a video codec."""
    images = [Image.open(f).convert("RGB") for f in frames]
    images[0].save(target, save_all=True, append_images=images[1:], duration=120, loop=0, quality=80)


def _figure_html(directory: Path, image: Path, caption: str) -> str:
    source, caption = html.escape(str(image.relative_to(directory))), html.escape(caption)
    return f"<figure><img src='{source}' alt='{caption}'><figcaption>{caption}</figcaption></figure>"


def _score_table_html(surface: dict[str, Any], trained: dict[str, Any]) -> str:
    rows = [("MAE (m)", "mae_m"), ("median |dz| (m)", "median_m"), ("NMAD (m)", "nmad_m"), ("within 1 m", "within_1m")]
    cells = [
        f"<tr><td>{label}</td><td>{surface['registered'][key]:.3f}</td><td>{trained['registered'][key]:.3f}</td></tr>"
        for label, key in rows
    ]
    cells.append(
        f"<tr><td>completeness</td><td>{surface['completeness']:.3f}</td><td>{trained['completeness']:.3f}</td></tr>"
    )
    return "<table><tr><th></th><th>stereo surface</th><th>trained Gaussians</th></tr>" + "".join(cells) + "</table>"
