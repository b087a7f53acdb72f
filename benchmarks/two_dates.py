"""Compare DSMs of an area that changed with reference DSMs of before and after, and write a table to two_dates.md.

    python benchmarks/two_dates.py BEFORE.tif AFTER.tif DSM.tif [DSM.tif ...]
    python benchmarks/two_dates.py BEFORE.tif AFTER.tif --unchanged UNCHANGED.tif

Ground is unchanged where the references agree within a meter after one 3-D shift. The second form writes the later
reference on unchanged ground only.
"""

import argparse
import datetime
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from rasterizer import describe_machine

from skyfall_ns.geo.dsm_comparison import compare_dsm, error_statistics
from skyfall_ns.geo.raster import read_raster, write_raster

UNCHANGED_M = 1.0
TITLE = (
    "# One scene of two dates\n\nWritten by `python benchmarks/two_dates.py BEFORE AFTER DSM`. Meters, after one 3-D "
    "shift: median of the differences, share within 1 m, mean; on ground where both references agree within 1 m, and "
    "mean where they do not.\n"
)


def dsm_rows(dsm: Path, references: tuple[Path, Path]) -> list[str]:
    """Table rows of one DSM."""
    before, after = map(read_raster, references)
    lines = []
    for path, reference, other in ((references[0], before, after), (references[1], after, before)):
        difference = compare_dsm(read_raster(dsm), reference).difference_m
        change = np.abs(compare_dsm(other, reference).difference_m)
        unchanged = error_statistics(difference[change < UNCHANGED_M])
        changed = error_statistics(difference[change >= UNCHANGED_M])
        lines.append(
            f"| {dsm.stem} | {path.name} | {unchanged['median_m']:.3f} | {unchanged['within_1m']:.1%} "
            f"| {unchanged['mae_m']:.3f} | {changed['mae_m']:.2f} "
            f"| {(change >= UNCHANGED_M).sum() / np.isfinite(change).sum():.1%} |"
        )
    return lines


def write_unchanged(before: Path, after: Path, output: Path) -> None:
    """Write the later reference, with nodata where the ground is not known to be unchanged."""
    raster, nodata = read_raster(after), -9999.0
    change = np.abs(compare_dsm(read_raster(before), raster).difference_m)
    band = np.where(change < UNCHANGED_M, raster.band_values(), nodata).astype(np.float32)
    write_raster(output, band[None], crs=raster.crs, transform=raster.transform, nodata=nodata)


def main() -> None:
    """Score each DSM and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("dsms", nargs="*", type=Path, metavar="DSM")
    parser.add_argument("--unchanged", type=Path, help="write the later reference, without changed ground, here")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("two_dates.md"))
    args = parser.parse_args()
    if args.unchanged:
        write_unchanged(args.before, args.after, args.unchanged)
    if not args.dsms:
        return
    lines = [TITLE, f"{describe_machine()}, {datetime.date.today()}.\n"]
    lines += ["| heights | reference | unchanged: median | within 1 m | mean | changed: mean | share changed |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for dsm in args.dsms:
        lines += dsm_rows(dsm, (args.before, args.after))
    args.output.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
