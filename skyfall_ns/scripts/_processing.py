"""What the importers of `skyfall-process` share: stages on the console, processing, report and next steps."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

    from skyfall_ns.processing.options import ProcessingOptions


class StagePrinter:
    """Prints the current stage; shows a progress bar if the stage reports progress and the output is a terminal."""

    def __init__(self) -> None:
        self._text = ""
        self._bar: tqdm | None = None

    def __enter__(self) -> "StagePrinter":
        return self

    def announce_stage(self, text: str) -> None:
        """Print the next stage."""
        self.__exit__()
        self._text = text
        print(f"- {text}", flush=True)

    def show_progress(self, done: int, total: int) -> None:
        """Update the progress bar of the stage."""
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=f"  {self._text}", total=total, unit="", leave=False, file=sys.stderr, disable=None)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def process_and_report(
    images: tuple[Path, ...], directory: Path, options: "ProcessingOptions", stages: StagePrinter
) -> None:
    """Process images into a scene directory, write its report and print a summary; SkyfallError for bad input."""
    from skyfall_ns.processing.process import process_scene
    from skyfall_ns.processing.report import write_reports

    result = process_scene(images, directory, options, stages.announce_stage, stages.show_progress)
    stages.announce_stage("Writing the report")
    report = write_reports(directory, result)
    adjustment, heights = report["adjustment"], report["heights_m"]
    if report["surface"]:
        print("Surface: {matched:.0%} matched, {filled:.0%} filled, {unknown:.0%} unknown".format(**report["surface"]))
    print(
        f"{adjustment['tracks']} tie points: {adjustment['median_px_before']:.2f} px residual before adjustment, "
        f"{adjustment['median_px_after']:.2f} px after; heights {heights['p1']:.0f} to {heights['p99']:.0f} m; "
        f"{report['points']['count']:,} points; {report['seconds']['total']:.0f} s"
    )


def print_next_steps(directory: Path) -> None:
    """Print where the scene is, and the command that trains it."""
    print(f"Scene: {directory}\nReport: {directory / 'report.html'}\nNext: ns-train skyfall --data {directory}")
