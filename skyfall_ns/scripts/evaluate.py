"""`skyfall-eval`: scores of what came out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from skyfall_ns.scripts._cli import run, write_json


@dataclass(frozen=True)
class Dsm:
    """Compare a DSM with a reference: as it is, and registered by one 3-D shift."""

    pred: tyro.conf.Positional[Path]
    """The DSM to judge (GeoTIFF)."""
    ref: tyro.conf.Positional[Path]
    """The reference DSM (GeoTIFF); its cells are the ones that count."""
    json: Path | None = None
    """Write the report to this file."""
    map: Path | None = None
    """Write a picture of the registered differences (blue: too low, red: too high)."""

    def main(self) -> None:
        """Compare, print, write."""
        from skyfall_ns.geo.dsm import compare_dsm
        from skyfall_ns.geo.raster import read_raster

        names = (str(self.pred), str(self.ref))
        result = compare_dsm(read_raster(self.pred), read_raster(self.ref), names)
        print(_table(result.report))
        if self.json:
            write_json(self.json, result.report)
        if self.map:
            from skyfall_ns.data.pictures import difference_map, write_png

            self.map.parent.mkdir(parents=True, exist_ok=True)
            write_png(self.map, difference_map(result.difference_m))


def _table(report: dict[str, Any]) -> str:
    names = {
        "mae_m": "MAE (m)",
        "median_m": "median |dz| (m)",
        "nmad_m": "NMAD (m)",
        "rmse_m": "RMSE (m)",
        "within_1m": "within 1 m",
        "bias_m": "bias (m)",
    }
    rows = [f"{'':18}{'unregistered':>14}{'registered':>14}"]
    rows += [
        f"{label:18}{report['unregistered'][k]:14.3f}{report['registered'][k]:14.3f}" for k, label in names.items()
    ]
    dx, dy, dz = report["shift_m"]
    rows.append(f"shift east, north, up: {dx:+.3f} {dy:+.3f} {dz:+.3f} m")
    rows.append(f"completeness {report['completeness']:.4f}, {report['pixels']} cells of {report['resolution_m']:g} m")
    return "\n".join(rows)


def main() -> None:
    """Entry point."""
    command = tyro.extras.subcommand_cli_from_dict({"dsm": Dsm}, prog="skyfall-eval", description=__doc__)
    run(command.main)
