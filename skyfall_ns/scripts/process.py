"""`skyfall-process`: vendor images (GeoTIFF + RPC), or a synthetic city, to a scene directory."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from skyfall_ns.scripts._cli import run_command
from skyfall_ns.scripts._processing import StagePrinter, print_next_steps, process_and_report


@dataclass(frozen=True)
class Images:
    """Vendor images with RPCs to a scene: tie points, bundle adjustment, cameras, dense surface, points, report.

    For example: skyfall-process images --images vendor/*.tif --output-dir scene --center 36.908 37.585 --size 250
    """

    images: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE FILE ...")]
    """The vendor's files (GeoTIFF, JP2, NITF), each with its RPC inside or beside it; at least two."""
    output_dir: Annotated[Path, tyro.conf.arg(metavar="SCENE")]
    """Scene directory to create."""
    aoi: Annotated[Path | None, tyro.conf.arg(metavar="FILE")] = None
    """GeoJSON polygon (lon, lat): the scene is its bounding box. By default the ground that all images show."""
    center: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LON LAT")] = None
    """Center of a square area, in degrees (with --size)."""
    size: Annotated[float | None, tyro.conf.arg(metavar="METERS")] = None
    """Side of the square (with --center)."""
    height_range: Annotated[tuple[float, float] | None, tyro.conf.arg(metavar="LOW HIGH")] = None
    """Lowest and highest ellipsoidal height in meters. By default from a coarse surface over all heights (with
    --points sparse: from tie points)."""
    camera: Literal["quadratic", "affine"] = "quadratic"
    """Camera fitted to each RPC over the scene: quadratic is exact, affine leaves up to a tenth of a pixel."""
    no_adjust: bool = False
    """Keep the vendor's RPCs: report the residuals, but do not adjust."""
    points: Literal["dense", "sparse"] = "dense"
    """Initial points of the Gaussians: on a dense surface, or the tie points alone."""
    test_images: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME ...")] = ()
    """Names (without .tif) or globs of images to hold out of training."""
    sun: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=AZIMUTH,ELEVATION ...")] = ()
    """Sun position, which replaces that of an image's metadata: degrees from true north and above the horizon, per name
    or glob."""
    rpc: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=FILE ...")] = ()
    """RPC file of an image, which replaces those in or beside it, per name or glob: .RPB, _RPC.TXT, XML, .geom, CSV or
    JSON."""
    mask: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=FILE ...")] = ()
    """Mask of an image (of clouds, for example), per name or glob: an image of the same size, 0 where pixels are not to
    be used."""
    bands: Annotated[tuple[int, ...], tyro.conf.arg(metavar="BAND ...")] = ()
    """Band numbers from 1: those of red, green and blue, or one. By default those that the file names."""
    gamma: float | None = None
    """Brightness of the scene's images: value ** (1 / gamma) after a linear stretch. By default 2.2; for
    images of 8 bits, which may be ready for display, the value that brings their median to mid-gray, at least 1."""
    force: bool = False
    """Replace the scene directory if it exists."""

    def main(self) -> None:
        """Process the images and print the results."""
        from skyfall_ns.io.directories import atomic_directory
        from skyfall_ns.processing.area_of_interest import AreaOfInterest
        from skyfall_ns.processing.options import ProcessingOptions
        from skyfall_ns.processing.vendor_images import ImageFlags

        options = ProcessingOptions(
            area=AreaOfInterest(self.aoi, self.center, self.size),
            height_range_m=self.height_range,
            camera=self.camera,
            adjust=not self.no_adjust,
            points=self.points,
            test_images=self.test_images,
            suns=self.sun,
            flags=ImageFlags(self.rpc, self.mask, self.bands),
            gamma=self.gamma,
        )
        inputs = [*self.images, *([self.aoi] if self.aoi else [])]
        with StagePrinter() as stages, atomic_directory(self.output_dir, self.force, inputs) as directory:
            process_and_report(self.images, directory, options, stages)
        print_next_steps(self.output_dir)


@dataclass(frozen=True)
class City:
    """A synthetic georeferenced city with exact ground truth, delivered as vendors do and processed like `images`."""

    output_dir: Annotated[Path, tyro.conf.arg(metavar="SCENE")]
    """Scene directory to create; the delivery is in its raw/, the ground truth in its truth/."""
    size: Annotated[float, tyro.conf.arg(metavar="METERS")] = 192.0
    """Side of the city."""
    views: int = 9
    """Number of satellite images; the last one of five or more is held out."""
    seed: int = 0
    """Random seed of the city."""
    hard: bool = False
    """As difficult as real scenes: saturated and blank roofs, black shadows, a tower, a steep slope, water, seasons,
    thin clouds, JPEG artifacts, and one image with an RPC bias of 35 px. The images are 8-bit RGB for display."""
    points: Literal["dense", "sparse"] = "dense"
    """Initial points of the Gaussians: on a dense surface, or the tie points alone."""
    force: bool = False
    """Replace the scene directory if it exists."""

    def main(self) -> None:
        """Build the city, process it and print the results."""
        from skyfall_ns.io.directories import atomic_directory
        from skyfall_ns.processing.area_of_interest import AreaOfInterest
        from skyfall_ns.processing.options import ProcessingOptions
        from skyfall_ns.synthetic_city import write_city

        with StagePrinter() as stages, atomic_directory(self.output_dir, self.force) as directory:
            stages.announce_stage("Building the city")
            city = write_city(
                directory,
                size_m=self.size,
                views=self.views,
                seed=self.seed,
                hard=self.hard,
                progress=stages.show_progress,
            )
            held_out = (city.images[-1].stem,) if self.views >= 5 else ()
            area = AreaOfInterest(center=city.center, size_m=city.size_m)
            process_and_report(
                city.images, directory, ProcessingOptions(area=area, points=self.points, test_images=held_out), stages
            )
        print_next_steps(self.output_dir)


IMPORTERS: dict[str, type] = {"images": Images, "city": City}
"""Subcommands: how data become a scene directory. Each is a frozen dataclass whose `main` does the work."""


def main() -> None:
    """Entry point."""
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone)
    command = tyro.extras.subcommand_cli_from_dict(
        IMPORTERS, prog="skyfall-process", description=__doc__, config=config
    )
    run_command(command.main)
