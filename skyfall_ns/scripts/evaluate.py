"""`skyfall-eval`: scores of what came out."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from skyfall_ns.errors import SkyfallError
from skyfall_ns.scripts._cli import run, write_json

if TYPE_CHECKING:
    from skyfall_ns.models.skyfall import SkyfallModel


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
    edges: float = 1.5
    """Cells at most so many metres from a height step (1.5 m or more between two cells of the reference) are scored by
    themselves too."""

    def main(self) -> None:
        """Compare, print, write."""
        from skyfall_ns.geo.dsm_comparison import compare_dsm
        from skyfall_ns.geo.raster import read_raster

        if not 0 <= self.edges <= 1000:
            raise SkyfallError(f"--edges {self.edges:g} is no distance from edges. Give 0 to 1000 metres.")
        names = (str(self.pred), str(self.ref))
        result = compare_dsm(read_raster(self.pred), read_raster(self.ref), names, self.edges)
        print(_table(result.report))
        if self.json:
            write_json(self.json, result.report)
        if self.map:
            from skyfall_ns.io.images import difference_map, write_png

            self.map.parent.mkdir(parents=True, exist_ok=True)
            write_png(self.map, difference_map(result.difference_m))


@dataclass(frozen=True)
class Views:
    """Compare a trained run with true pictures from directions that no satellite has (a synthetic city's obliques).

    Gain and bias per channel are fitted on the left half of each picture; PSNR and SSIM are those of the right half,
    where lines of sight are over the scene's box.
    """

    load_config: Path
    """config.yml of the run."""
    truth: Path
    """Folder with the pictures and cameras.json, such as SCENE/truth/oblique of skyfall-process city."""
    dsm: Path | None = None
    """True DSM that says by which 3-D shift to move the run first. By default the true cameras in `rpc` beside the
    folder say it, or else the dsm.tif there."""
    json: Path | None = None
    """Write the report to this file."""
    pictures: Path | None = None
    """Write truth beside rendering to this folder."""

    def main(self) -> None:
        """Draw, compare, print, write."""
        from tqdm import tqdm

        from skyfall_ns.evaluation.views import Truth, report, score_views
        from skyfall_ns.pipelines.load_run import load_run

        truth = Truth.load(self.truth)
        model = load_run(self.load_config)
        shift_m = self._shift_m(model)
        steps = score_views(model, truth, shift_m or (0.0, 0.0, 0.0))
        scores = list(tqdm(steps, desc="Views", total=len(truth.views), leave=False, disable=None))
        result = report(scores, truth.sun is not None, shift_m)
        print(_view_table(result))
        if self.json:
            write_json(self.json, result)
        if self.pictures:
            from skyfall_ns.io.images import preview, write_png

            self.pictures.mkdir(parents=True, exist_ok=True)
            for score in scores:
                write_png(self.pictures / f"{score.view.path.stem}.png", preview(score.pictures.numpy()))

    def _shift_m(self, model: "SkyfallModel") -> tuple[float, float, float] | None:
        from skyfall_ns.evaluation.georegistration import shift_of_cameras
        from skyfall_ns.evaluation.views import register
        from skyfall_ns.geo.raster import read_raster

        beside = self.truth.resolve().parent
        if self.dsm is None:
            of_cameras = shift_of_cameras(model.on_model.scene, beside / "rpc")
            if of_cameras or not (beside / "dsm.tif").is_file():
                return of_cameras
        return register(model, read_raster(self.dsm or beside / "dsm.tif"))


def _view_table(report: dict[str, Any]) -> str:
    rows = [f"{'elevation (deg)':18}{'PSNR (dB)':>10}{'SSIM':>8}{'views':>7}"]
    rows += [f"{name:18}{e['psnr']:10.2f}{e['ssim']:8.3f}{e['n']:7}" for name, e in report["elevations"].items()]
    if report["shift_m"]:
        rows.append("moved east, north, up: {:+.3f} {:+.3f} {:+.3f} m".format(*report["shift_m"]))
    else:
        rows.append("not registered: no --dsm, and neither rpc nor dsm.tif beside the folder")
    if not report["sunlit"]:
        rows.append("cameras.json does not tell the sun: the look without shadows was compared")
    return "\n".join(rows)


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
    edges = report["registered"]["edges"]
    label = f"MAE <= {edges['distance_m']:g} m of edges"
    rows.append(f"{label:32}{edges['mae_m']:14.3f}" if edges["mae_m"] is not None else f"{label:32}{'no edges':>14}")
    dx, dy, dz = report["shift_m"]
    rows.append(f"shift east, north, up: {dx:+.3f} {dy:+.3f} {dz:+.3f} m")
    rows.append(f"completeness {report['completeness']:.4f}, {report['pixels']} cells of {report['resolution_m']:g} m")
    return "\n".join(rows)


def main() -> None:
    """Entry point."""
    command = tyro.extras.subcommand_cli_from_dict(
        {"dsm": Dsm, "views": Views}, prog="skyfall-eval", description=__doc__
    )
    run(command.main)
