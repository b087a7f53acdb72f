"""Tables and pages of real_scenes.py."""

import html
from collections.abc import Callable, Mapping
from typing import Any

Rows = list[list[str]]

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2em auto;max-width:1240px;padding:0 1em;color:#222}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.3em .8em .3em 0;border-bottom:1px solid #ddd;text-align:left}
figure{display:inline-block;margin:0 .5em .8em 0}img{width:296px;display:block}figcaption{color:#555}
"""


def height_rows(results: Mapping[str, Any]) -> Rows:
    """Errors on the reference's cells, and blunders over all cells."""
    columns = "median, within 1 m, MAE, RMSE, 99th percentile, completeness, above, below, towers, tallest, deepest"
    rows = [["scene", "heights", *columns.split(", ")]]
    for name, heights, scores in _heights(results, "reference"):
        error, envelope = scores["reference"], scores["envelope"]
        rows.append([
            name, heights, f"{error['median_m']:.3f}", f"{error['within_1m']:.1%}", f"{error['mae_m']:.3f}",
            f"{error['rmse_m']:.2f}", f"{error['p99_m']:.2f}", f"{error['completeness']:.1%}",
            f"{envelope['above']:.3%}", f"{envelope['below']:.3%}", str(envelope["towers"]),
            f"{envelope['tallest_m']:.1f}", f"{envelope['deepest_m']:.1f}",
        ])  # fmt: skip
    return rows


def lidar_rows(results: Mapping[str, Any]) -> Rows:
    """The field's protocol; in brackets with the median difference removed."""
    columns = "MAE, median, RMSE, 99th percentile, within 1 m, 10 m off without trees, completeness"
    rows = [["scene", "heights", *columns.split(", ")]]
    for name, heights, scores in _heights(results, "lidar"):
        lidar = scores["lidar"]
        mean, median = lidar["mean_z"]["all"], lidar["median_z"]["all"]
        both = [f"{mean[k]:.2f} ({median[k]:.2f})" for k in ("mae_m", "median_m", "rmse_m", "p99_m")]
        far = [f"{lidar[z]['no_trees']['off_10m']:.2%}" for z in ("mean_z", "median_z")]
        within = f"{mean['within_1m']:.1%} ({median['within_1m']:.1%})"
        rows.append([name, heights, *both, within, f"{far[0]} ({far[1]})", f"{lidar['completeness']:.1%}"])
    return rows


def sigma_rows(results: Mapping[str, Any]) -> Rows:
    """Calibration of standard deviations over matched cells."""
    rows = [["scene", "heights", "within 1 sigma", "within 2 sigma", "error of the best half", "cells"]]
    for name, heights, scores in _heights(results, "sigma"):
        sigma = scores["sigma"]
        shares = [f"{sigma[k]:.1%}" for k in ("within_1_sigma", "within_2_sigma", "best_half")]
        rows.append([name, heights, *shares, f"{sigma['cells']:,}"])
    return rows


def look_rows(results: Mapping[str, Any]) -> Rows:
    """Exposure and color of renders beside the images, 0..255."""
    rows = [["scene", "pictures", "mean luma", "median luma", "clipped", "chroma p99"]]
    for name, section in results.items():
        for kind, look in section.get("look", {}).items():
            numbers = [f"{look['luma']:.1f}", f"{look['median_luma']:.1f}"]
            rows.append([name, kind, *numbers, f"{look['clipped']:.2%}", f"{look['chroma_p99']:.1f}"])
    return rows


def _heights(results: Mapping[str, Any], what: str):
    for name, section in results.items():
        for heights, scores in section["heights"].items():
            if what in scores:
                yield name, heights, scores


TABLES: dict[str, Callable[[Mapping[str, Any]], Rows]] = {
    "Heights against reference DSMs, and blunders over all cells (metres)": height_rows,
    "Heights against lidar: mean difference removed (median removed), metres": lidar_rows,
    "Standard deviations of heights": sigma_rows,
    "Exposure and color of renders and training images": look_rows,
}


def markdown_report(results: Mapping[str, Any]) -> str:
    """All tables that have rows."""
    parts = ["# Real scenes\n\nWritten by `python benchmarks/real_scenes.py`."]
    for title, make_rows in TABLES.items():
        head, *rows = make_rows(results)
        if rows:
            lines = [head, ["---"] * len(head), *rows]
            parts.append(f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def html_report(results: Mapping[str, Any]) -> str:
    """The tables, and the pictures of all sections by direction, so that before and after stand side by side."""
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>Real scenes</title><style>{STYLE}</style><h1>Real scenes</h1>"
    ]
    for title, make_rows in TABLES.items():
        columns, *rows = make_rows(results)
        if rows:
            cells = "".join(f"<tr>{''.join(f'<td>{html.escape(v)}</td>' for v in row)}</tr>" for row in rows)
            names = "".join(f"<th>{html.escape(v)}</th>" for v in columns)
            parts.append(f"<h2>{html.escape(title)}</h2><table><tr>{names}</tr>{cells}</table>")
    views = {file.rpartition("/")[2]: None for section in results.values() for file in section.get("pictures", [])}
    for view in views:
        elevation, azimuth = (int(word[1:]) for word in view.rpartition(".")[0].split("_"))
        parts.append(f"<h2>From {elevation} degrees, azimuth {azimuth}</h2>")
        parts += [
            f"<figure><a href='{html.escape(file)}'><img src='{html.escape(file)}' loading='lazy'></a>"
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
            for name, section in results.items()
            for file in section.get("pictures", [])
            if file.endswith(f"/{view}")
        ]
    return "\n".join(parts) + "\n"
