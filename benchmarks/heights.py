"""Compare definitions of the height of a trained run with a reference DSM, and write a table to heights.md.

    python benchmarks/heights.py CONFIG REFERENCE.tif [CONFIG REFERENCE.tif ...]

Gaussians are soft: at the edge of a roof, some light passes to the street below, so the height there depends on the
definition.
"""

import argparse
import datetime
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from rasterizer import describe_machine

from skyfall_ns.export.dsm import Dsm
from skyfall_ns.geo.dsm_comparison import compare_dsm
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.grid import Grid
from skyfall_ns.geo.raster import Raster, read_raster
from skyfall_ns.models.geometry.height_map import (
    DEPTH_TOLERANCE_M,
    MAX_LAYER_GAP_M,
    SOLID_ALPHA,
    SUBCELLS,
    nadir_height_m,
    nadir_view_of_grid,
    straighten_walls,
    window_cells,
    window_medians,
)
from skyfall_ns.models.rasterizers import Gaussians, Rendering, pick_rasterizer
from skyfall_ns.pipelines.load_run import load_run
from skyfall_ns.scene.model_space import NormalizedScene

CELL_M = 0.5
TITLE = (
    "# Definitions of height\n\nWritten by `python benchmarks/heights.py CONFIG REFERENCE`. Meters, after one 3-D "
    "shift: median of the differences, share within 1 m, mean, mean up to 1.5 m from height steps of the reference; "
    "seconds of rendering on the CPU. The last row of each run is the definition of `skyfall-export dsm`.\n"
)


def read_depths(rendering: Rendering, scale: float) -> dict[str, Tensor]:
    """Depth images by the name of their definition."""
    assert rendering.transmittance_depths is not None
    half, deep = rendering.transmittance_depths
    return {
        "expected depth": rendering.depth,
        "where half of the light is absorbed": half,
        "where most of the light is absorbed": deep,
        f"half, or most where {MAX_LAYER_GAP_M:g} m deeper": rendering.surface_depth(MAX_LAYER_GAP_M * scale, 0.0),
        f"the same, or the expected depth within {DEPTH_TOLERANCE_M:g} m": rendering.surface_depth(
            MAX_LAYER_GAP_M * scale, DEPTH_TOLERANCE_M * scale
        ),
    }


def render_from_above(
    gaussians: Gaussians, normalized: NormalizedScene, grid: Grid, oversampling: int
) -> tuple[Rendering, float]:
    """Render the Gaussians from above, with `oversampling`² pixels per cell and a margin of one cell, and measure the
    seconds of the second rendering (the first one compiles kernels)."""
    cell_m = grid.resolution_m
    size = oversampling * (grid.width + 2), oversampling * (grid.height + 2)
    pixels = Grid(grid.x_min_m - cell_m, grid.y_max_m + cell_m, cell_m / oversampling, *size)
    view = nadir_view_of_grid(normalized, pixels)
    for _ in range(2):
        start = time.perf_counter()
        rendering = pick_rasterizer("cpu")(gaussians, torch.zeros(len(gaussians.means), 0), view)
    return rendering, time.perf_counter() - start


def read_heights(
    gaussians: Gaussians, normalized: NormalizedScene, grid: Grid, oversampling: int
) -> tuple[dict[str, Tensor], float]:
    """Heights of cells by the name of their definition, and the seconds of rendering."""
    rendering, seconds = render_from_above(gaussians, normalized, grid, oversampling)
    centers = slice(oversampling + oversampling // 2, -oversampling, oversampling)
    solid = rendering.alpha >= SOLID_ALPHA
    heights = {
        name: torch.where(solid, nadir_height_m(depth, normalized), torch.nan)
        for name, depth in read_depths(rendering, normalized.scale).items()
    }
    cells = {name: fine[centers, centers] for name, fine in heights.items()}
    if oversampling > 1:
        final = list(heights.values())[-1]
        sizes = (3, 5, 7, window_cells(CELL_M / oversampling))
        cells |= {f"the last, median of {n} x {n} pixels": window_medians(final, n) for n in sizes}
    return cells, seconds


def run_rows(config: Path, reference: Path) -> list[str]:
    """Table rows of one run."""
    renderer = load_run(config).renderer
    frame, normalized = renderer.normalized.scene.frame, renderer.normalized
    grid, truth, gaussians = (
        Grid.covering_box(normalized.scene.box_m, CELL_M),
        read_raster(reference),
        renderer.gaussians(),
    )
    lines = [f"\n## {normalized.scene.directory.name}, against {reference.name}\n"]
    lines += [
        "| height | walls | pixels per cell | median | within 1 m | mean | at edges | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for oversampling, walls in ((1, "as they are"), (SUBCELLS, "as they are"), (SUBCELLS, "upright")):
        source = straighten_walls(gaussians) if walls == "upright" else gaussians
        cells, seconds = read_heights(source, normalized, grid, oversampling)
        for name, height in cells.items():
            scores = score_height_map(truth, height.double().numpy() + frame.origin[2], frame, grid)
            lines.append(
                f"| {name} | {walls} | {oversampling * oversampling} | {scores['median_m']:.3f} "
                f"| {scores['within_1m']:.1%} | {scores['mae_m']:.3f} | {scores['edges']['mae_m']:.3f} "
                f"| {seconds:.2f} |"
            )
    return lines


def score_height_map(truth: Raster, heights: np.ndarray, frame: LocalFrame, grid: Grid) -> dict[str, Any]:
    """Score a height map after a round trip through its file."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "dsm.tif"
        Dsm(heights, frame.crs, grid.affine_transform(frame.origin)).write_heights(path)
        return compare_dsm(read_raster(path), truth).report["registered"]


def main() -> None:
    """Compare all definitions for each run and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", type=Path, metavar="CONFIG REFERENCE")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("heights.md"))
    args = parser.parse_args()
    if len(args.pairs) % 2:
        parser.error("give a reference DSM after each config.yml")
    lines = [TITLE, f"{describe_machine()}, {datetime.date.today()}."]
    for config, reference in zip(args.pairs[::2], args.pairs[1::2], strict=True):
        lines += run_rows(config, reference)
    args.output.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
