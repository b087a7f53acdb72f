"""The demo's page: pictures, numbers and the commands that made them."""

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
class Step:
    """One command of the demo and the seconds it took."""

    title: str
    command: str
    seconds: float


def write_page(folder: Path, steps: list[Step]) -> Path:
    """index.html beside what the demo made; also joins the flight's frames into flight.webp."""
    frames = sorted((folder / "flight").glob("*.jpg"))
    _animate(frames, folder / "flight.webp")
    images = json.loads((folder / "images.json").read_text())["results"]
    start, trained = (json.loads((folder / f"{name}.json").read_text()) for name in ("surface", "dsm"))
    previews = sorted((folder / "scene/previews").glob("view_*[0-9].png"))[:3]
    held_out = sorted((folder / "held_out").glob("*.png"))[:1]
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>skyfall-ns demo</title>",
        f"<style>{_STYLE}</style><h1>A city from satellite images</h1>",
        _figure(folder, folder / "flight.webp", "A flight around the splats, seen by no satellite"),
        "<h2>What the satellites saw</h2>",
        *(_figure(folder, p, p.stem) for p in previews),
        "<h2>Surface from stereo</h2>",
        _figure(folder, folder / "scene/report/surface.png", "heights"),
        _figure(folder, folder / "dsm_error.png", "trained DSM minus truth: blue too low, red too high, full at 3 m"),
        "<h2>An image held out of training</h2>",
        *(
            _figure(folder, p, f"truth, rendering: {images['psnr']:.1f} dB, SSIM {images['ssim']:.3f}")
            for p in held_out
        ),
        "<h2>Heights against the truth, after one 3-D shift</h2>",
        _scores(start, trained),
        "<h2>The commands</h2>",
        *(f"<p>{html.escape(s.title)} ({s.seconds:.0f} s)</p><pre>{html.escape(s.command)}</pre>" for s in steps),
        "<p>More: <a href='scene/report.html'>the scene's report</a>, <code>export/splat.ply</code>, "
        "<code>dsm.tif</code>.</p></html>",
    ]
    page = folder / "index.html"
    page.write_text("\n".join(parts))
    return page


def _animate(frames: list[Path], target: Path) -> None:
    """An animated picture that every browser plays without a video codec."""
    pictures = [Image.open(f).convert("RGB") for f in frames]
    pictures[0].save(target, save_all=True, append_images=pictures[1:], duration=120, loop=0, quality=80)


def _figure(folder: Path, picture: Path, text: str) -> str:
    source = html.escape(str(picture.relative_to(folder)))
    return (
        f"<figure><img src='{source}' alt='{html.escape(text)}'><figcaption>{html.escape(text)}</figcaption></figure>"
    )


def _scores(start: dict[str, Any], trained: dict[str, Any]) -> str:
    rows = [("MAE (m)", "mae_m"), ("median |dz| (m)", "median_m"), ("NMAD (m)", "nmad_m"), ("within 1 m", "within_1m")]
    cells = [
        f"<tr><td>{label}</td><td>{start['registered'][key]:.3f}</td><td>{trained['registered'][key]:.3f}</td></tr>"
        for label, key in rows
    ]
    cells.append(
        f"<tr><td>completeness</td><td>{start['completeness']:.3f}</td><td>{trained['completeness']:.3f}</td></tr>"
    )
    return "<table><tr><th></th><th>stereo surface</th><th>trained splats</th></tr>" + "".join(cells) + "</table>"
