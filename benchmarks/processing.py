"""Times `skyfall-process images` by number of images, and writes processing.md.

    python benchmarks/processing.py

A synthetic city is delivered once, as 40 images of 40 dates and about 0.65 megapixels, and processed from 4, 10, 19 and
all of them, each in a process of its own after one that compiles.
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
from rasterizer import machine

SIZE_M = 320.0  # about 0.65 megapixels an image, with the margin and lean
VIEWS = 40
COUNTS = (4, 10, 19, 40)
STEPS = ("read", "ties", "adjust", "crop", "surface", "points")
TIES = "Finding tie points"
TITLE = (
    "# Processing time by number of images\n\nWritten by `python benchmarks/processing.py`: seconds of each step of "
    "`skyfall-process images` on a synthetic city of {size:.0f} m, {views} dates, {megapixels:.2f} megapixels an image "
    "(mean), points {points}. Processor: seconds of all cores together, which other work on the machine changes "
    "little.\n"
)


def chosen(images: list[Path], count: int) -> list[Path]:
    """So many of the images, spread over all."""
    return [images[k] for k in np.linspace(0, len(images) - 1, count).round().astype(int)]


def measure(images: list[Path], folder: Path, size_m: float, points: Literal["dense", "sparse"]) -> dict:
    """Process images of a synthetic city into an empty folder; what it took."""
    from skyfall_ns.processing.area_of_interest import Area
    from skyfall_ns.processing.process import Options, prepare
    from skyfall_ns.synthetic_city.delivery import PLACE

    announced: list[str] = []
    pairs = 0

    def progress(_: int, total: int) -> None:
        nonlocal pairs
        pairs = total if announced[-1] == TIES else pairs

    start = time.process_time()
    options = Options(area=Area(center=PLACE[:2], size_m=size_m), points=points)
    prepared = prepare(images, folder, options, announced.append, progress)
    return {
        "images": len(images),
        "pairs": pairs,
        "ties": int(prepared.adjustment.inliers.sum()),
        "residual_px": prepared.adjustment.median_px_after,
        "megapixels": float(np.mean([v.width * v.height / 1e6 for v in prepared.vendor])),
        "seconds": prepared.seconds,
        "processor": time.process_time() - start,
    }


def heading() -> list[str]:
    """The table's first two lines."""
    titles = ["images", "pairs matched", "ties", "residual, px", *STEPS, "total", "processor"]
    return [f"| {' | '.join(titles)} |", "|" + "---|" * len(titles)]


def row(result: dict) -> str:
    """A line of the table."""
    seconds = result["seconds"]
    steps = " | ".join(f"{seconds.get(name, 0.0):.1f}" for name in STEPS)
    return (
        f"| {result['images']} | {result['pairs']} | {result['ties']:,} | {result['residual_px']:.3f} | {steps} "
        f"| {sum(seconds.values()):.0f} | {result['processor']:.0f} |"
    )


def in_a_fresh_process(images: list[Path], size_m: float, points: str) -> dict:
    """`measure` where no other count has filled memory or caches."""
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--measure", folder, "--size", str(size_m), "--points", points]
        command = [sys.executable, __file__, *flags, *map(str, images)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Deliver the city, measure each count, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", nargs="*", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--size", type=float, default=SIZE_M, help="metres of the city")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS, help=f"numbers of images, at most {VIEWS}")
    parser.add_argument("--points", choices=("dense", "sparse"), default="dense", help="sparse: without the surface")
    parser.add_argument("--city", type=Path, help="folder of the city; it is kept, and used if it has images")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("processing.md"))
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(args.images, args.measure, args.size, args.points)))
        return
    with tempfile.TemporaryDirectory() as scratch:
        images = deliver(args.city or Path(scratch), args.size)
        in_a_fresh_process(chosen(images, 2), args.size, args.points)  # compiles
        results = []
        for count in args.counts:
            results.append(in_a_fresh_process(chosen(images, count), args.size, args.points))
            print(row(results[-1]), flush=True)
    megapixels = float(np.mean([r["megapixels"] for r in results]))
    lines = [TITLE.format(size=args.size, views=VIEWS, megapixels=megapixels, points=args.points)]
    lines += [f"{machine()}, {datetime.date.today()}.\n"]
    lines += [*heading(), *map(row, results)]
    args.output.write_text("\n".join(lines) + "\n")


def deliver(folder: Path, size_m: float) -> list[Path]:
    """The city's images, made where the folder has none."""
    from skyfall_ns.synthetic_city import write_city

    if not (folder / "raw").exists():
        write_city(folder, size_m=size_m, views=VIEWS)
    return sorted((folder / "raw").glob("*.tif"))


if __name__ == "__main__":
    main()
