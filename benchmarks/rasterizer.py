"""Time the CPU rasterizer and the fused SSIM, compare them with plain PyTorch in the same run, and write rasterizer.md.

    python benchmarks/rasterizer.py

Every time is the minimum of several repeats, because other work on the machine only adds time; memory is the peak of a
new process that renders one scene.
"""

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import torch

sys.path.insert(0, str(Path(__file__).parent))

SCENES = ((20_000, 256, 256, 9.0), (100_000, 256, 256, 5.0), (100_000, 512, 512, 9.0), (150_000, 516, 975, 9.0))
SATELLITE = (516, 975)


def make_random_scene(n: int, width: int, height: int, radius_px: float):
    """Random Gaussians with a given mean 3-sigma radius that fill a parallel view."""
    from skyfall_ns.models.rasterizers import Gaussians

    g = torch.Generator().manual_seed(0)
    means = torch.rand(n, 3, generator=g) * torch.tensor([width, height, 20.0])
    scales = radius_px / 3.3 * (0.4 + torch.rand(n, 3, generator=g))
    tensors = [means, torch.randn(n, 4, generator=g), scales, 0.1 + 0.85 * torch.rand(n, generator=g)]
    colors = torch.rand(n, 3, generator=g)
    camera = torch.eye(4, dtype=torch.float64)
    camera[0, 2], camera[1, 2], camera[2, 3] = 0.2, 0.3, 1.0
    view = SimpleNamespace(
        camera_from_model=camera, intrinsics=torch.eye(3, dtype=torch.float64), width=width, height=height,
        projection="parallel",
    )  # fmt: skip
    parameters = [t.requires_grad_() for t in [*tensors, colors]]
    return Gaussians(*parameters[:4]), parameters[4], view


def fastest_ms(function: Callable[[], None], repeats: int) -> float:
    """Milliseconds of the fastest of several calls."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def make_our_step(size) -> Callable[[], None]:
    from skyfall_ns.models.rasterizers import pick_rasterizer

    gaussians, colors, view = make_random_scene(*size)
    rasterize = pick_rasterizer("cpu")

    def run_step() -> None:
        result = rasterize(gaussians, colors, view)
        (result.color.sum() + result.depth.sum()).backward()

    return run_step


def make_plain_step(size) -> Callable[[], None]:
    import torch_tiles

    gaussians, colors, view = make_random_scene(*size)

    def run_step() -> None:
        color, depth = torch_tiles.rasterize_tiles(gaussians, colors, view)
        (color.sum() + depth.sum()).backward()

    return run_step


def make_ssim_steps() -> tuple[Callable[[], None], Callable[[], None]]:
    from skyfall_ns.models import ssim

    width, height = SATELLITE
    pred, target = torch.rand(height, width, 3, requires_grad=True), torch.rand(height, width, 3)
    run_conv2d = lambda: ssim._ssim_torch(ssim._padded_planes(pred), ssim._padded_planes(target)).backward()  # noqa: E731
    return lambda: ssim.ssim(pred, target).backward(), run_conv2d


def peak_memory_gb() -> float:
    """Peak memory of this process, GB. On Linux ru_maxrss includes the parent's, so the status file is used if there is
    one."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def scene_peak_gb(size) -> tuple[float, float]:
    """Peak memory (GB) of a new process that renders one scene forward and backward, and the part of `import torch`."""
    command = [sys.executable, __file__, "--peak", json.dumps(size)]
    peak, import_gb = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(peak), float(import_gb)


def describe_machine() -> str:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, torch {version('torch')}, numba {version('numba')}"


def results_table(repeats: int, plain_repeats: int) -> str:
    rows = ["| Gaussians | image | ours, ms | plain PyTorch, ms | ratio | peak, GB | of it torch, GB |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for size in SCENES:
        our_ms, plain_ms = fastest_ms(make_our_step(size), repeats), fastest_ms(make_plain_step(size), plain_repeats)
        n, width, height, _ = size
        peak, import_gb = scene_peak_gb(size)
        rows.append(
            f"| {n:,} | {width} x {height} | {our_ms:.1f} | {plain_ms:.0f} | {plain_ms / our_ms:.0f}x | {peak:.2f} "
            f"| {import_gb:.2f} |"
        )
        print(rows[-1], flush=True)
    fused, conv2d = make_ssim_steps()
    our_ms, plain_ms = fastest_ms(fused, repeats), fastest_ms(conv2d, max(plain_repeats, 3))
    width, height = SATELLITE
    rows += ["", f"SSIM of {width} x {height} px, 3 channels, forward and backward: fused {our_ms:.1f} ms, "
             f"conv2d {plain_ms:.0f} ms, {plain_ms / our_ms:.0f}x."]  # fmt: skip
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--plain-repeats", type=int, default=2)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        import_gb = peak_memory_gb()
        make_our_step(json.loads(arguments.peak))()
        print(peak_memory_gb(), import_gb)
        return
    body = results_table(arguments.repeats, arguments.plain_repeats)
    text = (
        "# CPU rasterizer\n\nWritten by `python benchmarks/rasterizer.py` on "
        f"{datetime.date.today()}: {describe_machine()}.\nForward and backward with projection and all gradients; the "
        f"minimum of {arguments.repeats} repeats.\n\n{body}\n"
    )
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
