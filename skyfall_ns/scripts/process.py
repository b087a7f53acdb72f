"""`skyfall-process`: vendor images (GeoTIFF + RPC), or a synthetic city, to a scene folder."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from skyfall_ns.scripts._cli import run


@dataclass(frozen=True)
class Images:
    """Vendor images with RPCs to a scene: ties, adjustment, cameras, dense surface, points, report."""

    images: tuple[Path, ...]
    """The vendor's files (GeoTIFF, JP2, NITF), each with its RPC in it or beside it; at least two."""
    output_dir: Path
    """Scene folder to make."""
    aoi: Path | None = None
    """GeoJSON polygon (lon, lat) of the area of interest; by default all the ground that every image shows."""
    center: tuple[float, float] | None = None
    """LON LAT of the centre of a square area (with --size)."""
    size: float | None = None
    """Side of the square in metres (with --center)."""
    height_range: tuple[float, float] | None = None
    """Lowest and highest ellipsoidal height in metres; by default found from tie points."""
    camera: Literal["quadratic", "affine"] = "quadratic"
    """Camera fitted to each RPC over the scene: quadratic is exact, affine leaves up to a tenth of a pixel."""
    no_adjust: bool = False
    """Trust the vendor's pointing: report residuals, but leave the RPCs as they are."""
    points: Literal["dense", "sparse"] = "dense"
    """Start splats on a dense surface, or on the tie points alone."""
    test_images: tuple[str, ...] = ()
    """Names or globs of images to hold out of training."""
    force: bool = False
    """Replace the scene folder if it exists."""

    def main(self) -> None:
        """Process, report."""
        from skyfall_ns.data.area import Area
        from skyfall_ns.data.prepare import Options, new_folder

        options = Options(
            area=Area(self.aoi, self.center, self.size),
            height_range_m=self.height_range,
            camera=self.camera,
            adjust=not self.no_adjust,
            points=self.points,
            test_images=self.test_images,
        )
        with new_folder(self.output_dir, self.force) as folder:
            _process(self.images, folder, options)
        _say_where(self.output_dir)


@dataclass(frozen=True)
class City:
    """A synthetic georeferenced city with exact truth, delivered as a vendor would and processed like `images`."""

    output_dir: Path
    """Scene folder to make; the delivery is in its raw/, the truth in its truth/."""
    size: float = 192.0
    """Side of the city in metres."""
    views: int = 9
    """Number of satellite images; the last one of five or more is held out."""
    seed: int = 0
    """The same seed makes the same city."""
    points: Literal["dense", "sparse"] = "dense"
    """Start splats on a dense surface, or on the tie points alone."""
    force: bool = False
    """Replace the scene folder if it exists."""

    def main(self) -> None:
        """Build, process, report."""
        from skyfall_ns.data.area import Area
        from skyfall_ns.data.city import write_city
        from skyfall_ns.data.prepare import Options, new_folder

        with new_folder(self.output_dir, self.force) as folder:
            with _Bar("Building the city") as bar:
                city = write_city(folder, size_m=self.size, views=self.views, seed=self.seed, progress=bar)
            held_out = (city.images[-1].stem,) if self.views >= 5 else ()
            area = Area(center=city.center, size_m=city.size_m)
            _process(city.images, folder, Options(area=area, points=self.points, test_images=held_out))
        _say_where(self.output_dir)


class _Bar:
    """A progress bar as a callable of (done, total); appears at the first call, and only where somebody watches."""

    def __init__(self, text: str) -> None:
        self._text, self._bar = text, None

    def __enter__(self) -> "_Bar":
        return self

    def __call__(self, done: int, total: int) -> None:
        from tqdm import tqdm

        if self._bar is None:
            self._bar = tqdm(desc=self._text, total=total, unit="", leave=False, file=sys.stderr, disable=None)
        self._bar.update(done - self._bar.n)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def _process(images: tuple[Path, ...], folder: Path, options) -> None:  # type: ignore[no-untyped-def]
    from skyfall_ns.data.prepare import prepare
    from skyfall_ns.data.report import write_reports

    with _Bar("Dense surface") as bar:
        prepared = prepare(images, folder, options, lambda text: print(f"- {text}", flush=True), bar)
    write_reports(folder, prepared)


def _say_where(folder: Path) -> None:
    print(f"Scene: {folder}\nReport: {folder / 'report.html'}\nNext: ns-train skyfall --data {folder}")


def main() -> None:
    """Entry point."""
    commands = {"images": Images, "city": City}
    run(lambda: tyro.extras.subcommand_cli_from_dict(commands, prog="skyfall-process", description=__doc__).main())
