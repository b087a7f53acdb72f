"""`skyfall-eval`: scores of DSMs and of trained runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from skyfall_ns.io.files import write_json
from skyfall_ns.io.outputs import check_output_directory, check_output_files
from skyfall_ns.scripts._cli import run_command
from skyfall_ns.scripts._evaluate_dsm import Change, Dsm, Dsms
from skyfall_ns.scripts._evaluate_images import Images

if TYPE_CHECKING:
    from skyfall_ns.models.renderer import Renderer


@dataclass(frozen=True)
class Views:
    """Compare a trained run with ground-truth images from other directions (a synthetic city's oblique views).

    Gain and bias per channel are fitted on the left half of each image; PSNR and SSIM are those of the right half,
    where lines of sight are over the scene's box.
    """

    load_config: Path
    """config.yml of the run."""
    truth: Path
    """Directory with the images and cameras.json, such as SCENE/truth/oblique of skyfall-process city."""
    dsm: Path | None = None
    """True DSM. The run is first registered with it by one 3-D shift. By default, the shift is that of the true cameras
    in `rpc` beside the directory, or else that of the dsm.tif there."""
    json: Path | None = None
    """Write the report to this file."""
    pictures: Path | None = None
    """Write ground truth and rendering side by side to this directory."""

    def main(self) -> None:
        """Render, compare, print the scores, write the report and the images."""
        from tqdm import tqdm

        from skyfall_ns.evaluation.views import GroundTruth, score_views, summarize_scores
        from skyfall_ns.pipelines.load_run import load_run

        check_output_files({"--json": self.json})
        check_output_directory("--pictures", self.pictures)
        truth = GroundTruth.from_directory(self.truth)
        renderer = load_run(self.load_config).renderer
        shift_m = self._shift_m(renderer)
        steps = score_views(renderer, truth, shift_m or (0.0, 0.0, 0.0))
        scores = list(tqdm(steps, desc="Views", total=len(truth.views), leave=False, disable=None))
        result = summarize_scores(scores, truth.sun is not None, shift_m)
        print(_view_table(result))
        if self.json:
            write_json(self.json, result)
        if self.pictures:
            from skyfall_ns.io.images import bgr_image, write_png

            for score in scores:
                write_png(self.pictures / f"{score.view.path.stem}.png", bgr_image(score.comparison.numpy()))

    def _shift_m(self, renderer: "Renderer") -> tuple[float, float, float] | None:
        from skyfall_ns.evaluation.georegistration import fit_shift_to_true_rpcs
        from skyfall_ns.evaluation.views import find_dsm_shift
        from skyfall_ns.geo.raster import read_raster

        truth_directory = self.truth.resolve().parent
        if self.dsm is None:
            camera_shift = fit_shift_to_true_rpcs(renderer.normalized.scene, truth_directory / "rpc")
            if camera_shift or not (truth_directory / "dsm.tif").is_file():
                return camera_shift
        return find_dsm_shift(renderer, read_raster(self.dsm or truth_directory / "dsm.tif"))


def _view_table(report: dict[str, Any]) -> str:
    rows = [f"{'elevation (deg)':18}{'PSNR (dB)':>10}{'SSIM':>8}{'views':>7}"]
    rows += [
        f"{name:18}{scores['psnr']:10.2f}{scores['ssim']:8.3f}{scores['n']:7}"
        for name, scores in report["elevations"].items()
    ]
    if report["shift_m"]:
        rows.append("moved east, north, up: {:+.3f} {:+.3f} {:+.3f} m".format(*report["shift_m"]))
    else:
        rows.append("not registered: no --dsm, and neither rpc nor dsm.tif beside the directory")
    if not report["sunlit"]:
        rows.append("cameras.json has no sun: rendered without shadows")
    return "\n".join(rows)


EVALUATIONS: dict[str, type] = {"dsm": Dsm, "dsms": Dsms, "change": Change, "views": Views, "images": Images}
"""Subcommands: frozen dataclasses whose `main` does the work."""


def main() -> None:
    """Entry point."""
    command = tyro.extras.subcommand_cli_from_dict(EVALUATIONS, prog="skyfall-eval", description=__doc__)
    run_command(command.main)
