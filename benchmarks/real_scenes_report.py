"""Tables and HTML page of real_scenes.py."""

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
    """Table of errors on the reference's cells, and of blunders over all cells."""
    columns = "median, within 1 m, MAE, RMSE, 99th percentile, completeness, above, below, towers, tallest, deepest"
    rows = [["scene", "heights", *columns.split(", ")]]
    for name, heights, scores in _iterate_scores(results, "reference"):
        error, envelope = scores["reference"], scores["envelope"]
        rows.append([
            name, heights, f"{error['median_m']:.3f}", f"{error['within_1m']:.1%}", f"{error['mae_m']:.3f}",
            f"{error['rmse_m']:.2f}", f"{error['p99_m']:.2f}", f"{error['completeness']:.1%}",
            f"{envelope['above']:.3%}", f"{envelope['below']:.3%}", str(envelope["towers"]),
            f"{envelope['tallest_m']:.1f}", f"{envelope['deepest_m']:.1f}",
        ])  # fmt: skip
    return rows


def lidar_rows(results: Mapping[str, Any]) -> Rows:
    """Table of the lidar protocol, with the mean difference removed (in brackets: the median difference)."""
    columns = "MAE, median, RMSE, 99th percentile, within 1 m, 10 m off without trees, completeness"
    rows = [["scene", "heights", *columns.split(", ")]]
    for name, heights, scores in _iterate_scores(results, "lidar"):
        lidar = scores["lidar"]
        mean, median = lidar["mean_z"]["all"], lidar["median_z"]["all"]
        errors = [f"{mean[k]:.2f} ({median[k]:.2f})" for k in ("mae_m", "median_m", "rmse_m", "p99_m")]
        outliers = [f"{lidar[z]['no_trees']['off_10m']:.2%}" for z in ("mean_z", "median_z")]
        within = f"{mean['within_1m']:.1%} ({median['within_1m']:.1%})"
        rows.append([name, heights, *errors, within, f"{outliers[0]} ({outliers[1]})", f"{lidar['completeness']:.1%}"])
    return rows


def sigma_rows(results: Mapping[str, Any]) -> Rows:
    """Table of the calibration of standard deviations, over matched cells."""
    rows = [["scene", "heights", "within 1 sigma", "within 2 sigma", "error of the best half", "cells"]]
    for name, heights, scores in _iterate_scores(results, "sigma"):
        sigma = scores["sigma"]
        shares = [f"{sigma[k]:.1%}" for k in ("within_1_sigma", "within_2_sigma", "best_half")]
        rows.append([name, heights, *shares, f"{sigma['cells']:,}"])
    return rows


def exposure_rows(results: Mapping[str, Any]) -> Rows:
    """Table of exposure and color of renderings and images, 0..255."""
    rows = [["scene", "images", "mean luma", "median luma", "clipped", "chroma p99"]]
    for name, section in results.items():
        for source, exposure in section.get("exposure", {}).items():
            numbers = [f"{exposure['luma']:.1f}", f"{exposure['median_luma']:.1f}"]
            rows.append([name, source, *numbers, f"{exposure['clipped']:.2%}", f"{exposure['chroma_p99']:.1f}"])
    return rows


def _iterate_scores(results: Mapping[str, Any], key: str):
    for name, section in results.items():
        for heights, scores in section["heights"].items():
            if key in scores:
                yield name, heights, scores


TABLES: dict[str, Callable[[Mapping[str, Any]], Rows]] = {
    "Heights against reference DSMs, and blunders over all cells (meters)": height_rows,
    "Heights against lidar: mean difference removed (median removed), meters": lidar_rows,
    "Standard deviations of heights": sigma_rows,
    "Exposure and color of renders and training images": exposure_rows,
}


def markdown_report(results: Mapping[str, Any]) -> str:
    """Report of all tables that have rows, in Markdown."""
    parts = ["# Real scenes\n\nWritten by `python benchmarks/real_scenes.py`."]
    for title, make_rows in TABLES.items():
        head, *rows = make_rows(results)
        if rows:
            lines = [head, ["---"] * len(head), *rows]
            parts.append(f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(parts) + "\n"


def html_report(results: Mapping[str, Any]) -> str:
    """Report of the tables and of the renderings, grouped by direction so that sections can be compared, in HTML."""
    parts = [
        f"<!doctype html><meta charset='utf-8'><title>Real scenes</title><style>{STYLE}</style><h1>Real scenes</h1>"
    ]
    for title, make_rows in TABLES.items():
        columns, *rows = make_rows(results)
        if rows:
            cells = "".join(f"<tr>{''.join(f'<td>{html.escape(v)}</td>' for v in row)}</tr>" for row in rows)
            names = "".join(f"<th>{html.escape(v)}</th>" for v in columns)
            parts.append(f"<h2>{html.escape(title)}</h2><table><tr>{names}</tr>{cells}</table>")
    views = {file.rpartition("/")[2]: None for section in results.values() for file in section.get("renders", [])}
    for view in views:
        elevation, azimuth = (int(word[1:]) for word in view.rpartition(".")[0].split("_"))
        parts.append(f"<h2>From {elevation} degrees, azimuth {azimuth}</h2>")
        parts += [
            f"<figure><a href='{html.escape(file)}'><img src='{html.escape(file)}' loading='lazy'></a>"
            f"<figcaption>{html.escape(name)}</figcaption></figure>"
            for name, section in results.items()
            for file in section.get("renders", [])
            if file.endswith(f"/{view}")
        ]
    return "\n".join(parts) + "\n"
