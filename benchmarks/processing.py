"""Time `skyfall-process images` by number of images, and write processing.md.

    python benchmarks/processing.py

A synthetic city is delivered once, as 40 images of 40 dates with about 0.65 megapixels each, and processed from 4, 10,
19 and all 40 of them, each time in a new process, after a first one that compiles kernels.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Literal

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from rasterizer import describe_machine

SIZE_M = 320.0  # about 0.65 megapixels an image, with the margin and lean
VIEWS = 40
COUNTS = (4, 10, 19, 40)
STEPS = ("read", "tie_points", "adjust", "crop", "surface", "points")
TIE_POINTS_STAGE = "Finding tie points"
TITLE = (
    "# Processing time by number of images\n\nWritten by `python benchmarks/processing.py`: seconds of each step of "
    "`skyfall-process images` on a synthetic city of {size:.0f} m, {views} dates, {megapixels:.2f} megapixels an image "
    "(mean), points {points}. Processor: seconds of all cores together, which other work on the machine changes "
    "little.\n"
)


def choose_images(images: list[Path], count: int) -> list[Path]:
    """Choose `count` images, spread evenly over all."""
    return [images[k] for k in np.linspace(0, len(images) - 1, count).round().astype(int)]


def measure_processing(images: list[Path], directory: Path, size_m: float, points: Literal["dense", "sparse"]) -> dict:
    """Process images of a synthetic city into an empty directory; return times and counts."""
    from skyfall_ns.processing.area_of_interest import AreaOfInterest
    from skyfall_ns.processing.options import ProcessingOptions
    from skyfall_ns.processing.process import process_scene
    from skyfall_ns.synthetic_city.delivery import CITY_LONLATH

    stages: list[str] = []
    pairs = 0

    def count_pairs(_: int, total: int) -> None:
        nonlocal pairs
        pairs = total if stages[-1] == TIE_POINTS_STAGE else pairs

    start = time.process_time()
    options = ProcessingOptions(area=AreaOfInterest(center=CITY_LONLATH[:2], size_m=size_m), points=points)
    processed = process_scene(images, directory, options, stages.append, count_pairs)
    return {
        "images": len(images),
        "pairs": pairs,
        "tie_points": int(processed.adjustment.inliers.sum()),
        "residual_px": processed.adjustment.median_px_after,
        "megapixels": float(np.mean([v.width * v.height / 1e6 for v in processed.vendor_images])),
        "seconds": processed.stage_seconds,
        "processor": time.process_time() - start,
    }


def table_header() -> list[str]:
    """Header lines of the table."""
    titles = ["images", "pairs matched", "tie points", "residual, px", *STEPS, "total", "processor"]
    return [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]


def table_row(result: dict) -> str:
    """Table row of one measurement."""
    seconds = result["seconds"]
    steps = " | ".join(f"{seconds.get(name, 0.0):.1f}" for name in STEPS)
    return (
        f"| {result['images']} | {result['pairs']} | {result['tie_points']:,} | {result['residual_px']:.3f} | {steps} "
        f"| {sum(seconds.values()):.0f} | {result['processor']:.0f} |"
    )


def measure_in_subprocess(images: list[Path], size_m: float, points: str) -> dict:
    """`measure_processing` in a new process, where no earlier run has filled memory or caches."""
    with tempfile.TemporaryDirectory() as directory:
        flags = ["--measure", directory, "--size", str(size_m), "--points", points]
        command = [sys.executable, __file__, *flags, *map(str, images)]
        result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """Deliver the city, measure each count, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=float, default=SIZE_M, help="meters of the city")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help=f"numbers of images, at most {VIEWS}")
    parser.add_argument(
        "--points", choices=("dense", "sparse"), default="dense", help="sparse: without the dense surface"
    )
    parser.add_argument("--city", type=Path, help="directory of the city; kept, and reused if it has images")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("processing.md"))
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure_processing(args.images, args.measure, args.size, args.points)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        images = deliver_city(args.city or Path(scratch), args.size)
        measure_in_subprocess(choose_images(images, 2), args.size, args.points)  # compiles kernels
        results = []
        for count in args.counts:
            results.append(measure_in_subprocess(choose_images(images, count), args.size, args.points))
            print(table_row(results[-1]), flush=True)
    megapixels = float(np.mean([r["megapixels"] for r in results]))
    lines = [TITLE.format(size=args.size, views=VIEWS, megapixels=megapixels, points=args.points)]
    lines += [f"{describe_machine()}, {datetime.date.today()}.\n"]
    lines += [*table_header(), *map(table_row, results)]
    args.output.write_text("\n".join(lines) + "\n")


def deliver_city(directory: Path, size_m: float) -> list[Path]:
    """Paths of the city's images, which are created if the directory has none."""
    from skyfall_ns.synthetic_city import write_city

    if not (directory / "raw").exists():
        write_city(directory, size_m=size_m, views=VIEWS)
    return sorted((directory / "raw").glob("*.tif"))


if __name__ == "__main__":
    main()
