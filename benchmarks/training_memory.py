"""Times whole training steps and tells their peak memory by number of splats and size of images; writes
training_memory.md.

    python benchmarks/training_memory.py            # on the CPU, and on CUDA where there is a device
    python benchmarks/training_memory.py --quick    # the smallest case of each device, to see that it works

Every case is a fresh process that makes a scene of gentle hills (images half a metre a pixel, splats spread evenly) and
trains it through the host's trainer, every other step with a look at the surface. Times are medians. Memory on a CPU is
the process' own peak, on CUDA the allocator's.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from rasterizer import machine, memory_gb
from training_step import Parts, one_step, trainer_on

SPLATS, SIZES_PX, IMAGES = (50_000, 150_000, 400_000), (256, 512, 1024), 3
BIG = (1_000_000, 2048, 20)  # a city district at once; on CUDA only
GSD_M, SURFACE_M, GROUND_M = 0.5, 1.0, 200.0
# of every cell: sure, matched, and off by a fifth of a meter
LAYERS = {"_confidence": np.float32(1.0), "_source": np.uint8(1), "_sigma": np.float32(0.2)}


def hills_m(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 4.0 * np.sin(x / 15.0) * np.cos(y / 21.0)


def make_scene(folder: Path, splats: int, size_px: int, images: int) -> None:
    """A scene of square images with as many points, seen from directions around the zenith."""
    from skyfall_ns.io.ply import Cloud, write_ply
    from skyfall_ns.scene.scene import Scene

    rng, half = np.random.default_rng(0), GSD_M * size_px / 2
    xy = rng.uniform(-half, half, (splats, 2))
    normals = np.tile(np.float32([0, 0, 1]), (splats, 1))
    colors = rng.integers(0, 256, (splats, 3), np.uint8)
    xyz = np.column_stack([xy, hills_m(*xy.T)])
    write_ply(folder / "points.ply", Cloud(xyz, normals, colors, np.ones(splats, np.float32)))
    grid = write_surface(folder, half)
    frame = {"crs": "EPSG:32631", "origin": [374_000.0, 4_829_000.0, GROUND_M]}
    box = np.array([[-half, -half, -10.0], [half, half, 10.0]])
    shown = tuple(write_image(folder, number, size_px, rng) for number in range(images))
    layers = {f"surface{part}": f"surface{part}.tif" for part in ("", *LAYERS)}
    Scene(frame, box, shown, surface_grid=grid, **layers).save(folder)


def write_surface(folder: Path, half: float) -> tuple[float, float, float]:
    """The hills on a grid, known everywhere."""
    import cv2

    centres = np.arange(-half + SURFACE_M / 2, half, SURFACE_M)
    height = hills_m(centres[None, :], -centres[:, None]).astype(np.float32)
    cv2.imwrite(str(folder / "surface.tif"), height + np.float32(GROUND_M))
    for part, layer in LAYERS.items():
        cv2.imwrite(str(folder / f"surface{part}.tif"), np.full_like(height, layer, type(layer)))
    return -half, half, SURFACE_M


def write_image(folder: Path, number: int, size_px: int, rng: np.random.Generator):
    """Patches of random brightness; the view leans by a tenth or two, each to another side."""
    import cv2

    from skyfall_ns.geo.cameras import AffineCamera
    from skyfall_ns.scene.scene import SceneImage, Tone

    small = rng.integers(0, 2048, (size_px // 8, size_px // 8, 3)).astype(np.uint16)
    cv2.imwrite(str(folder / f"{number}.tif"), cv2.resize(small, (size_px, size_px), interpolation=cv2.INTER_LINEAR))
    lean, middle = 0.2 * np.array([np.cos(2.4 * number), np.sin(2.4 * number)]) / GSD_M, (size_px - 1) / 2
    matrix = np.array([[1 / GSD_M, 0, lean[0], middle], [0, -1 / GSD_M, lean[1], middle]])
    camera, tone = AffineCamera(matrix, None, (size_px, size_px)), Tone((0.0,) * 3, (2047.0,) * 3)
    sun = (0.3, -0.4, float(np.sqrt(0.75)))
    return SceneImage(str(number), f"{number}.tif", size_px, size_px, camera.to_dict(), tone, sun_direction=sun)


def measured(splats: int, size_px: int, images: int, device: str, steps: int) -> dict[str, float]:
    """Of this process: {"ms", "gb", "imports_gb"}."""
    imports, cuda = memory_gb(), device == "cuda"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_scene(folder, splats, size_px, images)
        trainer, wholes, warm = trainer_on(folder, folder, device), [], images + 4
        for step in range(1, warm + steps):
            start = time.perf_counter()
            one_step(trainer, step, Parts())
            if cuda:
                torch.cuda.synchronize()
            if step >= warm:
                wholes.append(1e3 * (time.perf_counter() - start))
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else memory_gb()
    return {"ms": statistics.median(wholes), "gb": peak, "imports_gb": 0.0 if cuda else imports}


def row(case: tuple[int, int, int], device: str, steps: int) -> str:
    """A case in a process of its own."""
    command = [sys.executable, __file__, "--case", json.dumps([*case, device, steps])]
    environment = os.environ | ({} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""})
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    splats, size_px, images = case
    begin = f"| {device} | {splats:,} | {images} x {size_px} x {size_px} |"
    if done.returncode:
        return f"{begin} failed: {done.stderr.strip().splitlines()[-1]} | | |"
    result = json.loads(done.stdout.splitlines()[-1])
    return f"{begin} {result['ms']:.1f} | {result['gb']:.2f} | {result['imports_gb']:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measured(*json.loads(arguments.case))))
        return
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    grid = [(n, size, IMAGES) for n in SPLATS for size in SIZES_PX]
    rows = ["| device | splats | images, px | ms a step | peak, GB | of it imports, GB |", "|---|---|---|---|---|---|"]
    for device in devices:
        for case in [grid[0]] if arguments.quick else [*grid, *([BIG] if device == "cuda" else [])]:
            rows.append(row(case, device, arguments.steps))
            print(rows[-1], flush=True)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    text = (
        "# Training steps by size\n\nWritten by `python benchmarks/training_memory.py` on "
        f"{datetime.date.today()}: {machine()}{gpu}.\nWhole steps through the host's trainer, half of them with a look "
        f"at the surface; medians of {arguments.steps}.\n\n" + "\n".join(rows) + "\n"
    )
    if not arguments.quick:
        Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
