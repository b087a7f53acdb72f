"""Ways to read the heights of a trained run, each against a reference DSM; writes a table to heights.md.

    python benchmarks/heights.py CONFIG REFERENCE.tif [CONFIG REFERENCE.tif ...]

Splats are soft: at a roof's rim some light passes to the street below, and its height is a matter of definition.
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
from rasterizer import machine

from skyfall_ns.export.dsm import Dsm
from skyfall_ns.geo.dsm_comparison import compare_dsm
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.raster import Grid, Raster, read_raster
from skyfall_ns.models.geometry.height_map import (
    APART_M,
    FINER,
    NEAR_M,
    SOLID,
    height_m,
    medians,
    nadir_over,
    window,
    with_upright_walls,
)
from skyfall_ns.models.rasterizers import Gaussians, Rendering, pick_rasterizer
from skyfall_ns.pipelines.load_run import load_run
from skyfall_ns.scene.model_space import SceneOnModel

CELL_M = 0.5
TITLE = (
    "# Reading heights\n\nWritten by `python benchmarks/heights.py CONFIG REFERENCE`. Metres, after one 3-D shift: "
    "median of the differences, share within 1 m, mean, mean up to 1.5 m from height steps of the reference; seconds "
    "of drawing on the CPU. The last row of each run is what `skyfall-export dsm` does.\n"
)


def ways(drawn: Rendering, scale: float) -> dict[str, Tensor]:
    """Depth images by what they are."""
    assert drawn.layers is not None
    half, deep = drawn.layers
    return {
        "expected depth": drawn.depth,
        "where half of the light has stopped": half,
        "where most of the light has stopped": deep,
        f"half, or most where {APART_M:g} m deeper": drawn.sharp_depth(APART_M * scale, 0.0),
        f"the same, or the expected depth within {NEAR_M:g} m": drawn.sharp_depth(APART_M * scale, NEAR_M * scale),
    }


def draw(splats: Gaussians, on_model: SceneOnModel, grid: Grid, finer: int) -> tuple[Rendering, float]:
    """Splats from above, `finer` pixels a cell and a cell more on each side, and the seconds that took (the second
    time: kernels are compiled)."""
    cell_m = grid.resolution_m
    size = finer * (grid.width + 2), finer * (grid.height + 2)
    view = nadir_over(on_model, grid.x_min_m - cell_m, grid.y_max_m + cell_m, cell_m / finer, *size)
    for _ in range(2):
        start = time.perf_counter()
        drawn = pick_rasterizer("cpu")(splats, torch.zeros(len(splats.means), 0), view)
    return drawn, time.perf_counter() - start


def read(splats: Gaussians, on_model: SceneOnModel, grid: Grid, finer: int) -> tuple[dict[str, Tensor], float]:
    """Heights of cells by the way they are read, and the seconds of drawing."""
    drawn, seconds = draw(splats, on_model, grid, finer)
    middle = slice(finer + finer // 2, -finer, finer)
    solid = drawn.alpha >= SOLID
    heights = {
        name: torch.where(solid, height_m(depth, on_model), torch.nan)
        for name, depth in ways(drawn, on_model.scale).items()
    }
    cells = {name: fine[middle, middle] for name, fine in heights.items()}
    if finer > 1:
        last = list(heights.values())[-1]
        sizes = (3, 5, 7, window(CELL_M / finer))
        cells |= {f"the last, median of {n} x {n} pixels": medians(last, n) for n in sizes}
    return cells, seconds


def rows(config: Path, reference: Path) -> list[str]:
    """Lines of the table for one run."""
    model = load_run(config)
    frame, on_model = LocalFrame.from_dict(model.on_model.scene.frame), model.on_model
    grid, truth, splats = Grid.over(on_model.scene.box_m, CELL_M), read_raster(reference), model.gaussians()
    lines = [f"\n## {on_model.scene.folder.name}, against {reference.name}\n"]
    lines += [
        "| height | walls | pixels a cell | median | within 1 m | mean | at edges | s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for finer, walls in ((1, "as they are"), (FINER, "as they are"), (FINER, "upright")):
        read_from = with_upright_walls(splats) if walls == "upright" else splats
        cells, seconds = read(read_from, on_model, grid, finer)
        for name, height in cells.items():
            score = against(truth, height.double().numpy() + frame.origin[2], frame, grid)
            lines.append(
                f"| {name} | {walls} | {finer * finer} | {score['median_m']:.3f} | {score['within_1m']:.1%} | "
                f"{score['mae_m']:.3f} | {score['edges']['mae_m']:.3f} | {seconds:.2f} |"
            )
    return lines


def against(truth: Raster, up_m: np.ndarray, frame: LocalFrame, grid: Grid) -> dict[str, Any]:
    """Scores of a height map, through the file that it would be."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dsm.tif"
        Dsm(up_m, frame.crs, grid.transform(frame.origin)).write(path)
        return compare_dsm(read_raster(path), truth).report["registered"]


def main() -> None:
    """Read each run in every way and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="+", type=Path, metavar="CONFIG REFERENCE")
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("heights.md"))
    args = parser.parse_args()
    if len(args.pairs) % 2:
        parser.error("give a reference DSM after each config.yml")
    lines = [TITLE, f"{machine()}, {datetime.date.today()}."]
    for config, reference in zip(args.pairs[::2], args.pairs[1::2], strict=True):
        lines += rows(config, reference)
    args.output.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
