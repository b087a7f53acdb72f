"""The report as one HTML page: tables, visualizations beside it, and plots drawn in the page itself."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray

Residuals = tuple[ndarray, ndarray]  # of a pair's tie points in signed pixels, before and after the adjustment
PLOT_WIDTH, PLOT_HEIGHT, BINS = 300, 56, 100
RED, GREEN = "#d65f5f", "#3f9b57"

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1120px;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}
td,th{padding:.3em .9em .3em 0;border-bottom:1px solid #ddd;text-align:left;vertical-align:middle}
td:first-child,th{white-space:nowrap}th{font-weight:600;color:#555}
figure{display:inline-block;margin:0 .8em 1em 0;vertical-align:top}img{max-width:340px;max-height:640px;display:block}
figcaption,p{color:#555}svg text{font:11px system-ui,sans-serif;fill:#555}
"""


class _Markup(str):
    """Text that is already HTML."""


def render_page(data: dict[str, Any], residuals: Sequence[Residuals], image_directory: str) -> str:
    """Render report.json as HTML, with `residuals` in the order of its pairs and images from `image_directory`."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><title>Scene report</title>",
        f"<style>{_STYLE}</style><h1>Scene report</h1>",
        _render_table(("", ""), _fact_rows(data)),
    ]
    if data["notes"]:
        items = "".join(f"<li>{html.escape(note)}</li>" for note in data["notes"])
        parts.append(f"<h2>Notes</h2><ul>{items}</ul>")
    if data["surface"]:
        parts += ["<h2>Dense surface</h2>", _surface_section(data["surface"], image_directory)]
    parts += ["<h2>Images</h2>", _camera_table(data), "<h2>Previews, and the tie points that adjust the images</h2>"]
    for name in data["cameras"]:
        tie_points = (f"{image_directory}/{name}_tie_points.png", "tie points: green kept, red rejected")
        parts.append(f"<div>{_render_figures([(f'previews/{name}.png', name), tie_points])}</div>")
    parts += ["<h2>Residuals of image pairs</h2>", _pair_table(data["adjustment"]["pairs"], residuals)]
    parts += ["<h2>Sources</h2>", _source_table(data), "</html>"]
    return "\n".join(parts)


def _fact_rows(data: dict[str, Any]) -> list[tuple]:
    """Rows of the first table: what was processed, how well, and how long it took."""
    a, h, (low, high) = data["adjustment"], data["heights_m"], data["box_m"]
    steps = ", ".join(f"{name} {value:.1f}" for name, value in data["seconds"].items() if name != "total")
    return [
        ("Images", len(data["cameras"])),
        ("Area", f"{high[0] - low[0]:.0f} x {high[1] - low[1]:.0f} m"),
        ("Reference system", f"{data['crs']}, origin {', '.join(f'{v:.2f}' for v in data['origin'])}"),
        ("Tie points", f"{a['tracks']} kept of {a['tracks_found']}"),
        ("Median residual", f"{a['median_px_before']:.2f} px before, {a['median_px_after']:.3f} px after adjustment"),
        ("Tie point heights", f"{h['p1']:.1f} to {h['p99']:.1f} m above the ellipsoid, median {h['median']:.1f} m"),
        ("Initial points", f"{data['points']['count']:,}"),
        ("Processing time", f"{data['seconds']['total']:.1f} s ({steps})"),
    ]


def _surface_section(numbers: dict[str, Any], image_directory: str) -> str:
    """Visualizations of the surface's layers, with their statistics as captions."""
    cell = f"{numbers['resolution_m']:g}"
    heights = (f"{image_directory}/surface.png", f"heights on a {cell} m grid, lit from the north-west")
    coverage = "of the area {matched:.1%} is matched (green), {filled:.1%} filled from its surroundings (orange), "
    source = (f"{image_directory}/source.png", coverage.format(**numbers) + f"{numbers['unknown']:.1%} unknown (gray)")
    sigma = (f"{image_directory}/sigma.png", "standard deviation of heights: dark 5 cm, bright 5 m or more")
    known = f"confidence: {numbers['known']:.1%} of the cells known, {numbers['confident']:.1%} above one half"
    return _render_figures([heights, source, sigma, (f"{image_directory}/confidence.png", known)])


def _camera_table(data: dict[str, Any]) -> str:
    """One row per image."""
    columns = (
        "image",
        "use",
        "acquired",
        "sun azimuth, elevation",
        "camera",
        "fit mean, max px",
        "RPC bias px (col, row)",
    )
    rows = []
    for name, c in data["cameras"].items():
        sun = "unknown" if c["sun_deg"] is None else "{:.1f}°, {:.1f}°".format(*c["sun_deg"])
        fit = f"{c['fit_mean_px']:.2g}, {c['fit_max_px']:.2g}"
        bias = "{:+.2f}, {:+.2f}".format(*data["adjustment"]["shifts_px"][name])
        rows.append((name, c["split"], c["acquired"] or "unknown", sun, c["model"], fit, bias))
    return _render_table(columns, rows)


def _pair_table(pairs: list[dict[str, Any]], residuals: Sequence[Residuals]) -> str:
    """One row per pair of images, with the histograms of its residuals."""
    percentile = max((float(np.percentile(np.abs(r), 99)) for pair in residuals for r in pair), default=0.0)
    limit = float(np.ceil(max(1.0, 1.1 * percentile)))
    rows = []
    for pair, (before, after) in zip(pairs, residuals, strict=True):
        medians = (f"{pair['median_px_before']:.2f}", f"{pair['median_px_after']:.3f}")
        rows.append((" / ".join(pair["images"]), pair["tracks"], *medians, _histogram_svg(before, after, limit)))
    note = "<p>Distance of tie points from the epipolar line of the other image's point: "
    note += f"<span style='color:{RED}'>before</span> and <span style='color:{GREEN}'>after</span> the adjustment.</p>"
    return note + _render_table(("pair", "tie points", "median px before", "after", "residuals"), rows)


def _histogram_svg(before: ndarray, after: ndarray, limit_px: float) -> _Markup:
    """Draw the histograms of both over -limit..limit pixels, each scaled to its own peak."""
    edges = np.linspace(-limit_px, limit_px, BINS + 1)
    base = PLOT_HEIGHT - 14
    parts = [f"<svg width='{PLOT_WIDTH}' height='{PLOT_HEIGHT}' role='img'>"]
    for values, color in ((before, RED), (after, GREEN)):
        counts = np.histogram(values, edges)[0]
        x = np.repeat(np.linspace(0, PLOT_WIDTH, BINS + 1), 2)[1:-1]
        y = np.repeat(base - (base - 4) * counts / max(1, counts.max()), 2)
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
        parts.append(f"<polygon points='0,{base} {line} {PLOT_WIDTH},{base}' fill='{color}' fill-opacity='.65'/>")
    parts.append(f"<line x1='0' y1='{base}' x2='{PLOT_WIDTH}' y2='{base}' stroke='#999'/>")
    for tick, anchor in ((-1, "start"), (0, "middle"), (1, "end")):
        x = PLOT_WIDTH * (tick + 1) / 2
        text = f"{tick * limit_px:+g} px" if tick else "0"
        parts.append(f"<text x='{x:.0f}' y='{PLOT_HEIGHT - 2}' text-anchor='{anchor}'>{text}</text>")
    return _Markup("".join([*parts, "</svg>"]))


def _source_table(data: dict[str, Any]) -> str:
    """The vendor's files with their checksums, and the versions of the software."""
    versions = ", ".join(f"{name} {number}" for name, number in data["versions"].items())
    rows = [(source["file"], source["sha256"]) for source in data["sources"].values()]
    return _render_table(("file", "SHA-256"), rows) + f"<p>{html.escape(versions)}</p>"


def _render_table(columns: Sequence[str], rows: Sequence[Sequence]) -> str:
    head = "<tr>" + "".join(f"<th>{html.escape(c)}</th>" for c in columns) + "</tr>" if any(columns) else ""
    return f"<table>{head}" + "".join(f"<tr>{''.join(_render_cell(v) for v in row)}</tr>" for row in rows) + "</table>"


def _render_cell(value: object) -> str:
    return f"<td>{value if isinstance(value, _Markup) else html.escape(str(value))}</td>"


def _render_figures(figures: Sequence[tuple[str, str]]) -> str:
    """Images (file, caption) side by side."""
    return "".join(
        f"<figure><img src='{html.escape(file)}' alt='{html.escape(text)}'>"
        f"<figcaption>{html.escape(text)}</figcaption></figure>"
        for file, text in figures
    )
