"""Measure time and peak memory of training steps by number of Gaussians and image size; write training_memory.md.

    python benchmarks/training_memory.py            # on the CPU, and on CUDA if there is a device
    python benchmarks/training_memory.py --quick    # the smallest case of each device, as a check

Every case is a new process that creates a scene of gentle hills (half a meter per pixel, evenly distributed Gaussians)
and trains it with Nerfstudio's trainer; every second step includes the surface loss. Times are medians. Memory is the
peak of the process on a CPU, and that of the allocator on CUDA.
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
from rasterizer import describe_machine, peak_memory_gb
from training_step import PartTimer, run_step, setup_trainer

COUNTS, SIZES_PX, IMAGES = (50_000, 150_000, 400_000), (256, 512, 1024), 3
BIG = (1_000_000, 2048, 20)  # a city district; on CUDA only
GSD_M, SURFACE_M, GROUND_M = 0.5, 1.0, 200.0
# for every cell: full confidence, matched, sigma of a fifth of a meter
LAYERS = {"_confidence": np.float32(1.0), "_source": np.uint8(1), "_sigma": np.float32(0.2)}


def hills_m(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return 4.0 * np.sin(x / 15.0) * np.cos(y / 21.0)


def make_scene(directory: Path, count: int, size_px: int, images: int) -> None:
    """Write a scene with `count` points and square images from directions around the zenith."""
    from skyfall_ns.geo.frame import LocalFrame
    from skyfall_ns.io.ply import PlyPoints, write_ply
    from skyfall_ns.scene.scene import Scene

    rng, half = np.random.default_rng(0), GSD_M * size_px / 2
    xy = rng.uniform(-half, half, (count, 2))
    normals = np.tile(np.float32([0, 0, 1]), (count, 1))
    colors = rng.integers(0, 256, (count, 3), np.uint8)
    xyz = np.column_stack([xy, hills_m(*xy.T)])
    write_ply(directory / "points.ply", PlyPoints(xyz, normals, colors, np.ones(count, np.float32)))
    grid = write_surface(directory, half)
    frame = LocalFrame("EPSG:32631", (374_000.0, 4_829_000.0, GROUND_M))
    box = np.array([[-half, -half, -10.0], [half, half, 10.0]])
    scene_images = tuple(write_image(directory, number, size_px, rng) for number in range(images))
    layers = {f"surface{part}": f"surface{part}.tif" for part in ("", *LAYERS)}
    Scene(frame, box, scene_images, surface_grid=grid, **layers).save_to(directory)


def write_surface(directory: Path, half: float) -> tuple[float, float, float]:
    """Write the surface of the hills, with all cells matched; return its grid."""
    import cv2

    centers = np.arange(-half + SURFACE_M / 2, half, SURFACE_M)
    height = hills_m(centers[None, :], -centers[:, None]).astype(np.float32)
    cv2.imwrite(str(directory / "surface.tif"), height + np.float32(GROUND_M))
    for part, layer in LAYERS.items():
        cv2.imwrite(str(directory / f"surface{part}.tif"), np.full_like(height, layer, type(layer)))
    return -half, half, SURFACE_M


def write_image(directory: Path, number: int, size_px: int, rng: np.random.Generator):
    """Write an image of random brightness; the views are tilted by a tangent of 0.2 to different sides."""
    import cv2

    from skyfall_ns.geo.cameras import AffineCamera
    from skyfall_ns.scene.scene import SceneImage, Tone

    small = rng.integers(0, 2048, (size_px // 8, size_px // 8, 3)).astype(np.uint16)
    cv2.imwrite(str(directory / f"{number}.tif"), cv2.resize(small, (size_px, size_px), interpolation=cv2.INTER_LINEAR))
    tilt, center = 0.2 * np.array([np.cos(2.4 * number), np.sin(2.4 * number)]) / GSD_M, (size_px - 1) / 2
    matrix = np.array([[1 / GSD_M, 0, tilt[0], center], [0, -1 / GSD_M, tilt[1], center]])
    camera, tone = AffineCamera(matrix, None, (size_px, size_px)), Tone((0.0,) * 3, (2047.0,) * 3)
    sun = (0.3, -0.4, float(np.sqrt(0.75)))
    return SceneImage(str(number), f"{number}.tif", size_px, size_px, camera, tone, sun_direction=sun)


def measure_case(count: int, size_px: int, images: int, device: str, steps: int) -> dict[str, float]:
    """Measure one case in this process: {"ms", "gb", "imports_gb"}."""
    imports_gb, cuda = peak_memory_gb(), device == "cuda"
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        make_scene(directory, count, size_px, images)
        trainer, step_ms, warmup = setup_trainer(directory, directory, device), [], images + 4
        for step in range(1, warmup + steps):
            start = time.perf_counter()
            run_step(trainer, step, PartTimer())
            if cuda:
                torch.cuda.synchronize()
            if step >= warmup:
                step_ms.append(1e3 * (time.perf_counter() - start))
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else peak_memory_gb()
    return {"ms": statistics.median(step_ms), "gb": peak, "imports_gb": 0.0 if cuda else imports_gb}


def case_row(case: tuple[int, int, int], device: str, steps: int) -> str:
    """Table row of one case, measured in a new process."""
    command = [sys.executable, __file__, "--case", json.dumps([*case, device, steps])]
    environment = os.environ | ({} if device == "cuda" else {"CUDA_VISIBLE_DEVICES": ""})
    process = subprocess.run(command, capture_output=True, text=True, env=environment)
    count, size_px, images = case
    prefix = f"| {device} | {count:,} | {images} x {size_px} x {size_px} |"
    if process.returncode:
        return f"{prefix} failed: {process.stderr.strip().splitlines()[-1]} | | |"
    result = json.loads(process.stdout.splitlines()[-1])
    return f"{prefix} {result['ms']:.1f} | {result['gb']:.2f} | {result['imports_gb']:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure_case(*json.loads(arguments.case))))
        return
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    grid = [(n, size, IMAGES) for n in COUNTS for size in SIZES_PX]
    rows = [
        "| device | Gaussians | images, px | ms per step | peak, GB | of it imports, GB |",
        "|---|---|---|---|---|---|",
    ]
    for device in devices:
        for case in [grid[0]] if arguments.quick else [*grid, *([BIG] if device == "cuda" else [])]:
            rows.append(case_row(case, device, arguments.steps))
            print(rows[-1], flush=True)
    gpu = f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    text = (
        "# Training steps by size\n\nWritten by `python benchmarks/training_memory.py` on "
        f"{datetime.date.today()}: {describe_machine()}{gpu}.\nSteps of Nerfstudio's trainer, half of them with the "
        f"surface loss; medians of {arguments.steps}.\n\n" + "\n".join(rows) + "\n"
    )
    if not arguments.quick:
        Path(__file__).with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
