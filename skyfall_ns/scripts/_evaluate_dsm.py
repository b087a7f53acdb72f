"""Subcommands of `skyfall-eval` on digital surface models: `dsm`, `dsms` and `change`."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from skyfall_ns.errors import SkyfallError
from skyfall_ns.io.files import atomic_write, write_json
from skyfall_ns.io.outputs import check_output_files

if TYPE_CHECKING:
    import numpy as np

    from skyfall_ns.geo.raster import Raster

MEASURES = {
    "mae_m": "MAE (m)",
    "median_m": "median |dz| (m)",
    "nmad_m": "NMAD (m)",
    "rmse_m": "RMSE (m)",
    "within_1m": "within 1 m",
    "bias_m": "bias (m)",
}


@dataclass(frozen=True, kw_only=True)
class DsmProtocol:
    """How DSMs are compared."""

    protocol: Literal["shift", "dsmr"] = "shift"
    """shift: one 3-D shift with parts of cells, the median height removed, nothing left out. dsmr: what papers report,
    a shift by whole cells with the best correlation, the mean height removed."""
    classes: Path | None = None
    """GeoTIFF of classes, such as the CLS file of DFC2019; cells of --leave-out are not scored."""
    leave_out: tuple[int, ...] = (9,)
    """Classes of --classes to leave out; 9 is water in lidar."""
    ref_crs: str | None = None
    """CRS of a reference without one, as DFC2019 has them with NAME.txt beside it: EPSG:32617."""

    def compare(self, pred_path: Path, ref_path: Path, edges_m: float) -> "tuple[dict[str, Any], np.ndarray, Raster]":
        """Report, registered differences on the cells of the reference, and the reference."""
        import numpy as np

        from skyfall_ns.evaluation import dsm_inputs
        from skyfall_ns.evaluation.lidar import LidarTruth, score_lidar
        from skyfall_ns.geo.dsm_comparison import compare_dsm
        from skyfall_ns.geo.raster import read_data_extent

        names = str(pred_path), str(ref_path)
        pred = read_data_extent(pred_path)
        ref = dsm_inputs.read_reference(ref_path, pred, names[0], self.ref_crs)
        notes = {"notes": dsm_inputs.datum_notes(pred, ref, names)}
        classes = None if self.classes is None else dsm_inputs.class_values(self.classes, ref, self.ref_crs)
        if self.protocol == "dsmr":
            labels = np.full(ref.bands.shape[1:], -1.0) if classes is None else classes
            score = score_lidar(pred, LidarTruth(ref, labels), self.leave_out)
            report = score.report | {"resolution_m": float(np.hypot(ref.transform.a, ref.transform.b))} | notes
            return report, score.difference_m, ref
        if classes is not None:
            ref = dsm_inputs.leave_out_classes(ref, classes, self.leave_out)
        result = compare_dsm(pred, ref, names, edges_m)
        return result.report | notes, result.difference_m, ref


@dataclass(frozen=True)
class Dsm(DsmProtocol):
    """Compare a DSM with a reference: unregistered, and registered by one 3-D shift."""

    pred: tyro.conf.Positional[Path]
    """DSM to score (GeoTIFF)."""
    ref: tyro.conf.Positional[Path]
    """Reference DSM (GeoTIFF); scores are computed at its cells. Only the part around the DSM is read."""
    json: Path | None = None
    """Write the report to this file."""
    map: Path | None = None
    """Write an image of the registered differences (blue: too low, red: too high)."""
    edges: float = 1.5
    """Meters. Cells up to this distance from a height step (1.5 m or more between two cells of the reference) are also
    scored separately."""
    sigma: Path | None = None
    """Standard deviations of the DSM (GeoTIFF of skyfall-export dsm --sigma), to be compared with the differences."""

    def main(self) -> None:
        """Compare, print the scores, write the report and the map."""
        if not 0 <= self.edges <= 1000:
            raise SkyfallError(f"--edges {self.edges:g} is not a distance from edges. Give 0 to 1000 meters.")
        check_output_files({"--json": self.json, "--map": self.map})
        report, difference_m, ref = self.compare(self.pred, self.ref, self.edges)
        if self.sigma is not None:
            report = report | {"sigma": _sigma_report(self.sigma, ref, difference_m)}
        print(_dsmr_table(report) if self.protocol == "dsmr" else _shift_table(report))
        if "sigma" in report:
            print(_sigma_lines(report["sigma"]))
        for note in report["notes"]:
            print(f"Note: {note}")
        if self.json:
            write_json(self.json, report)
        if self.map:
            from skyfall_ns.io.images import difference_map, write_png

            write_png(self.map, difference_map(difference_m))


@dataclass(frozen=True)
class Dsms(DsmProtocol):
    """Compare the DSMs of several scenes with their references, and write one table."""

    pred: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")]
    """DSMs to score, in the order of the references."""
    ref: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")]
    """Reference DSMs."""
    output: Path = Path("dsms.md")
    """Table to write: .md, .csv or .json."""

    def main(self) -> None:
        """Compare one after another, print and write the table."""
        if len(self.pred) != len(self.ref):
            raise SkyfallError(
                f"--pred has {len(self.pred)} files and --ref {len(self.ref)}. Give one reference for each DSM."
            )
        if self.output.suffix not in (".md", ".csv", ".json"):
            raise SkyfallError(f"--output {self.output} is of no known format. Give a name in .md, .csv or .json.")
        check_output_files({"--output": self.output})
        rows = []
        for pred, ref in zip(self.pred, self.ref, strict=True):
            report, _, _ = self.compare(pred, ref, 1.5)
            scores = report["mean_z"]["all"] if self.protocol == "dsmr" else report["registered"]
            kept = {key: scores[key] for key in ("mae_m", "median_m", "rmse_m", "within_1m")}
            rows.append({"dsm": str(pred), "reference": str(ref), **kept, "completeness": report["completeness"]})
        keys = [key for key in rows[0] if key not in ("dsm", "reference")]
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in keys}
        rows.append({"dsm": "mean", "reference": "", **mean})
        text = _markdown_table(rows)
        print(text)
        if self.output.suffix == ".json":
            write_json(self.output, {"protocol": self.protocol, "scenes": rows})
        else:
            atomic_write(self.output, (text if self.output.suffix == ".md" else _csv_table(rows)).encode())


@dataclass(frozen=True)
class Change:
    """Differences between two DSMs of one place: later minus earlier, with sigma, and volumes in polygons."""

    earlier: tyro.conf.Positional[Path]
    """Earlier DSM (GeoTIFF); differences are computed at its cells."""
    later: tyro.conf.Positional[Path]
    """Later DSM (GeoTIFF)."""
    output: Path | None = None
    """GeoTIFF to write: differences in meters, and with sigmas also their standard deviation."""
    sigmas: Annotated[tuple[Path, Path] | None, tyro.conf.arg(metavar="EARLIER LATER")] = None
    """Standard deviations of the two DSMs (skyfall-export dsm --sigma)."""
    polygons: Path | None = None
    """GeoJSON file (lon, lat) of polygons whose volumes are reported."""
    json: Path | None = None
    """Write the report to this file."""

    def main(self) -> None:
        """Compare, print volumes, write the differences and the report."""
        from skyfall_ns.evaluation.change import height_change, polygon_regions, summarize_change
        from skyfall_ns.evaluation.dsm_inputs import datum_notes
        from skyfall_ns.geo.raster import read_raster

        check_output_files({"--output": self.output, "--json": self.json})
        names = str(self.earlier), str(self.later)
        earlier, later = read_raster(self.earlier), read_raster(self.later)
        sigmas = None if self.sigmas is None else (read_raster(self.sigmas[0]), read_raster(self.sigmas[1]))
        change = height_change(earlier, later, sigmas, names)
        regions = {} if self.polygons is None else polygon_regions(self.polygons, earlier)
        report: dict[str, Any] = {
            "all": summarize_change(change),
            "polygons": {name: summarize_change(change, region) for name, region in regions.items()},
            "notes": datum_notes(earlier, later, names),
        }
        rows = [{"region": name, **values} for name, values in {"all": report["all"], **report["polygons"]}.items()]
        print(_markdown_table(rows))
        for note in report["notes"]:
            print(f"Note: {note}")
        if self.json is not None:
            write_json(self.json, report)
        if self.output is not None:
            _write_change(self.output, change)


def _write_change(path: Path, change: Any) -> None:
    import numpy as np

    from skyfall_ns.geo.raster import write_raster

    layers = [change.difference_m] + ([] if change.sigma_m is None else [change.sigma_m])
    bands = np.stack([np.where(np.isfinite(layer), layer, -9999.0) for layer in layers]).astype(np.float32)
    names = ("difference, meters", "standard deviation, meters")[: len(layers)]
    write_raster(
        path, bands, crs=change.grid.crs, transform=change.grid.transform, nodata=-9999.0, band_names=names, cog=True
    )


def _sigma_report(path: Path, ref: "Raster", difference_m: "np.ndarray") -> dict[str, Any]:
    """Calibration of sigma, and the median error of cells by sigma."""
    import numpy as np
    from rasterio.warp import Resampling

    from skyfall_ns.evaluation.calibration import sigma_calibration
    from skyfall_ns.evaluation.cells import resample_raster
    from skyfall_ns.geo.raster import read_raster

    sigma = resample_raster(read_raster(path), ref, Resampling.bilinear)
    bounds = [0.0, 0.25, 0.5, 1.0, 2.0, np.inf]
    bins = []
    for low, high in itertools.pairwise(bounds):
        error = np.abs(difference_m[(sigma >= low) & (sigma < high) & np.isfinite(difference_m)])
        median = float(np.median(error)) if len(error) else None
        bins.append({"from_m": low, "to_m": None if np.isinf(high) else high, "cells": len(error), "median_m": median})
    return sigma_calibration(difference_m, sigma) | {"by_sigma": bins}


def _sigma_lines(report: dict[str, Any]) -> str:
    rows = [f"within 1 sigma {report['within_1_sigma']:.3f} (normal: 0.683), 2 sigma {report['within_2_sigma']:.3f}"]
    for entry in report["by_sigma"]:
        if entry["cells"]:
            upper = "" if entry["to_m"] is None else f" to {entry['to_m']:g}"
            rows.append(
                f"sigma {entry['from_m']:g}{upper} m: median |dz| {entry['median_m']:.3f} m, {entry['cells']} cells"
            )
    return "\n".join(rows)


def _shift_table(report: dict[str, Any]) -> str:
    rows = [f"{'':18}{'unregistered':>14}{'registered':>14}"]
    rows += [
        f"{label:18}{report['unregistered'][k]:14.3f}{report['registered'][k]:14.3f}" for k, label in MEASURES.items()
    ]
    edges = report["registered"]["edges"]
    label = f"MAE <= {edges['distance_m']:g} m of edges"
    rows.append(f"{label:32}{edges['mae_m']:14.3f}" if edges["mae_m"] is not None else f"{label:32}{'no edges':>14}")
    dx, dy, dz = report["shift_m"]
    rows.append(f"shift east, north, up: {dx:+.3f} {dy:+.3f} {dz:+.3f} m")
    rows.append(f"completeness {report['completeness']:.4f}, {report['pixels']} cells of {report['resolution_m']:g} m")
    return "\n".join(rows)


def _dsmr_table(report: dict[str, Any]) -> str:
    rows = [f"{'mean height removed':20}{'MAE (m)':>10}{'median (m)':>12}{'RMSE (m)':>10}{'within 1 m':>12}"]
    for name, scores in report["mean_z"].items():
        values = scores["mae_m"], scores["median_m"], scores["rmse_m"], scores["within_1m"]
        rows.append(f"{name:20}{values[0]:10.3f}{values[1]:12.3f}{values[2]:10.3f}{values[3]:12.3f}")
    down, right = report["shift_cells"]
    rows.append(f"shift {down:+d} rows, {right:+d} columns; correlation {report['correlation']:.4f}")
    rows.append(f"completeness {report['completeness']:.4f}, cells of {report['resolution_m']:g} m")
    return "\n".join(rows)


def _format_cell(value: Any) -> str:
    return "" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _markdown_table(rows: list[dict[str, Any]]) -> str:
    lines = [f"| {' | '.join(rows[0])} |", f"|{'---|' * len(rows[0])}"]
    lines += [f"| {' | '.join(_format_cell(value) for value in row.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def _csv_table(rows: list[dict[str, Any]]) -> str:
    import csv
    import io

    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, rows[0].keys())
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()
