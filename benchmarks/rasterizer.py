"""Times the CPU rasterizer and the fused SSIM beside plain PyTorch in one run, and writes rasterizer.md.

    python benchmarks/rasterizer.py

Every figure is the least of several repeats (other work on the machine only ever adds); memory is the peak of a fresh
process that draws one scene. On a CUDA machine gsplat is timed too.
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


def scene(n: int, width: int, height: int, radius_px: float):
    """Random splats of a mean 3-sigma radius, filling a parallel view."""
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
    leaves = [t.requires_grad_() for t in [*tensors, colors]]
    return Gaussians(*leaves[:4]), leaves[4], view


def least(function: Callable[[], None], repeats: int) -> float:
    """Milliseconds of the fastest of several calls."""
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
    return 1e3 * best


def ours(size) -> Callable[[], None]:
    from skyfall_ns.models.rasterizers import pick_rasterizer

    gaussians, colors, view = scene(*size)
    draw = pick_rasterizer("cpu")

    def step() -> None:
        result = draw(gaussians, colors, view)
        (result.color.sum() + result.depth.sum()).backward()

    return step


def plain(size) -> Callable[[], None]:
    import torch_tiles

    gaussians, colors, view = scene(*size)

    def step() -> None:
        color, depth = torch_tiles.rasterize(gaussians, colors, view)
        (color.sum() + depth.sum()).backward()

    return step


def ssim_steps() -> tuple[Callable[[], None], Callable[[], None]]:
    from skyfall_ns.models import ssim

    width, height = SATELLITE
    pred, target = torch.rand(height, width, 3, requires_grad=True), torch.rand(height, width, 3)
    by_conv = lambda: ssim._ssim_torch(ssim._planes(pred), ssim._planes(target)).backward()  # noqa: E731
    return lambda: ssim.ssim(pred, target).backward(), by_conv


def memory_gb() -> float:
    """This process' own peak. On Linux ru_maxrss begins with the parent's, so the status file is read where one is."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM"))) / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def peak_gb(size) -> tuple[float, float]:
    """Peak memory of a fresh process that draws one scene forward and backward, and what `import torch` took of it."""
    command = [sys.executable, __file__, "--peak", json.dumps(size)]
    peak, imported = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(peak), float(imported)


def machine() -> str:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), model)
    return f"{model}, {os.cpu_count()} cores, torch {version('torch')}, numba {version('numba')}"


def table(repeats: int, peer_repeats: int) -> str:
    rows = ["| splats | image | ours, ms | plain PyTorch, ms | ratio | peak, GB | of it torch, GB |",
            "|---|---|---|---|---|---|---|"]  # fmt: skip
    for size in SCENES:
        mine, peer = least(ours(size), repeats), least(plain(size), peer_repeats)
        n, width, height, _ = size
        peak, imported = peak_gb(size)
        rows.append(
            f"| {n:,} | {width} x {height} | {mine:.1f} | {peer:.0f} | {peer / mine:.0f}x | {peak:.2f} "
            f"| {imported:.2f} |"
        )
        print(rows[-1], flush=True)
    fused, conv = ssim_steps()
    mine, peer = least(fused, repeats), least(conv, max(peer_repeats, 3))
    width, height = SATELLITE
    rows += ["", f"SSIM of {width} x {height} px, 3 channels, forward and backward: fused {mine:.1f} ms, "
             f"conv2d {peer:.0f} ms, {peer / mine:.0f}x."]  # fmt: skip
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--peer-repeats", type=int, default=2)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        imported = memory_gb()
        ours(json.loads(arguments.peak))()
        print(memory_gb(), imported)
        return
    body = table(arguments.repeats, arguments.peer_repeats)
    text = (
        "# CPU rasterizer\n\nWritten by `python benchmarks/rasterizer.py` on "
        f"{datetime.date.today()}: {machine()}.\nForward and backward with projection and all gradients; the least "
        f"of {arguments.repeats} repeats.\n\n{body}\n"
    )
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
