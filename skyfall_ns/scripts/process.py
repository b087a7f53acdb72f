"""`skyfall-process`: vendor images (GeoTIFF + RPC), or a synthetic city, to a scene folder."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from skyfall_ns.scripts._cli import run

if TYPE_CHECKING:
    from tqdm import tqdm

    from skyfall_ns.processing.process import Options


@dataclass(frozen=True)
class Images:
    """Vendor images with RPCs to a scene: ties, adjustment, cameras, dense surface, points, report.

    For example: skyfall-process images --images vendor/*.tif --output-dir scene --center 36.908 37.585 --size 250
    """

    images: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE FILE ...")]
    """The vendor's files (GeoTIFF, JP2, NITF), each with its RPC in it or beside it; at least two."""
    output_dir: Annotated[Path, tyro.conf.arg(metavar="SCENE")]
    """Scene folder to make."""
    aoi: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """GeoJSON polygon (lon, lat): the scene is its bounding box. By default all the ground that every image shows."""
    center: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LON LAT")] = None
    """Degrees of the centre of a square area (with --size)."""
    size: Annotated[float | None, tyro.conf.arg(metavar="METRES")] = None
    """Side of the square (with --center)."""
    height_range: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """Lowest and highest ellipsoidal height in metres. By default found by a coarse surface over all heights (with
    --points sparse: from tie points)."""
    camera: Literal["quadratic", "affine"] = "quadratic"
    """Camera fitted to each RPC over the scene: quadratic is exact, affine leaves up to a tenth of a pixel."""
    no_adjust: bool = False
    """Trust the vendor's pointing: report residuals, but leave the RPCs as they are."""
    points: Literal["dense", "sparse"] = "dense"
    """Start splats on a dense surface, or on the tie points alone."""
    test_images: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Names (without .tif) or globs of images to hold out of training."""
    sun: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=AZIMUTH,ELEVATION ...")] = ()
    """Where the sun stood, where files do not tell: degrees from true north and above the horizon, per name or glob."""
    gamma: float | None = None
    """Brightness of the scene's images: value ** (1 / gamma) after a linear stretch. By default 2.2; for
    images of 8 bits, which may be ready for display, what brings their median to mid-gray, at least 1."""
    force: bool = False
    """Replace the scene folder if it exists."""

    def main(self) -> None:
        """Process, report."""
        from skyfall_ns.io.directories import new_folder
        from skyfall_ns.processing.area_of_interest import Area
        from skyfall_ns.processing.process import Options

        options = Options(
            area=Area(self.aoi, self.center, self.size),
            height_range_m=self.height_range,
            camera=self.camera,
            adjust=not self.no_adjust,
            points=self.points,
            test_images=self.test_images,
            suns=self.sun,
            gamma=self.gamma,
        )
        inputs = [*self.images, *([self.aoi] if self.aoi else [])]
        with _Steps() as steps, new_folder(self.output_dir, self.force, inputs) as folder:
            _process(self.images, folder, options, steps)
        _say_where(self.output_dir)


@dataclass(frozen=True)
class City:
    """A synthetic georeferenced city with exact truth, delivered as a vendor would and processed like `images`."""

    output_dir: Annotated[Path, tyro.conf.arg(metavar="SCENE")]
    """Scene folder to make; the delivery is in its raw/, the truth in its truth/."""
    size: Annotated[float, tyro.conf.arg(metavar="METRES")] = 192.0
    """Side of the city."""
    views: int = 9
    """Number of satellite images; the last one of five or more is held out."""
    seed: int = 0
    """The same seed makes the same city."""
    hard: bool = False
    """As difficult as real places: saturated and blank roofs, black shadows, a tower, a steep slope, water, seasons,
    thin clouds, JPEG blocks, and one image that points 35 px off. The images are 8-bit RGB, ready for display."""
    points: Literal["dense", "sparse"] = "dense"
    """Start splats on a dense surface, or on the tie points alone."""
    force: bool = False
    """Replace the scene folder if it exists."""

    def main(self) -> None:
        """Build, process, report."""
        from skyfall_ns.io.directories import new_folder
        from skyfall_ns.processing.area_of_interest import Area
        from skyfall_ns.processing.process import Options
        from skyfall_ns.synthetic_city import write_city

        with _Steps() as steps, new_folder(self.output_dir, self.force) as folder:
            steps.announce("Building the city")
            city = write_city(
                folder, size_m=self.size, views=self.views, seed=self.seed, hard=self.hard, progress=steps.progress
            )
            held_out = (city.images[-1].stem,) if self.views >= 5 else ()
            area = Area(center=city.center, size_m=city.size_m)
            _process(city.images, folder, Options(area=area, points=self.points, test_images=held_out), steps)
        _say_where(self.output_dir)


class _Steps:
    """Says what is under way, with a bar where a step reports its progress and somebody watches."""

    def __init__(self) -> None:
        self._text = ""
        self._bar: tqdm | None = None

    def __enter__(self) -> "_Steps":
        return self

    def announce(self, text: str) -> None:
        """The next step."""
        self.__exit__()
        self._text = text
        print(f"- {text}", flush=True)

    def progress(self, done: int, total: int) -> None:
        """How far the step is."""
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=f"  {self._text}", total=total, unit="", leave=False, file=sys.stderr, disable=None)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _process(images: tuple[Path, ...], folder: Path, options: "Options", steps: _Steps) -> None:
    from skyfall_ns.processing.process import prepare
    from skyfall_ns.processing.report import write_reports

    prepared = prepare(images, folder, options, steps.announce, steps.progress)
    steps.announce("Writing the report")
    report = write_reports(folder, prepared)
    adjustment, heights = report["adjustment"], report["heights_m"]
    if report["surface"]:
        print("Surface: {matched:.0%} matched, {filled:.0%} filled, {unknown:.0%} unknown".format(**report["surface"]))
    print(
        f"{adjustment['tracks']} tie points: {adjustment['median_px_before']:.2f} px apart before, "
        f"{adjustment['median_px_after']:.2f} px after; heights {heights['p1']:.0f} to {heights['p99']:.0f} m; "
        f"{report['points']['count']:,} points; {report['seconds']['total']:.0f} s"
    )


def _say_where(folder: Path) -> None:
    print(f"Scene: {folder}\nReport: {folder / 'report.html'}\nNext: ns-train skyfall --data {folder}")


def main() -> None:
    """Entry point."""
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    command = tyro.extras.subcommand_cli_from_dict(
        {"images": Images, "city": City}, prog="skyfall-process", description=__doc__, config=config
    )
    run(command.main)
