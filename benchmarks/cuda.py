"""Compare gsplat on a GPU with the CPU rasterizer, time a large training step, and write cuda.md.

    python benchmarks/cuda.py

It takes a few minutes on a GPU after gsplat has compiled. `--device cpu --gaussians 500 --size 64` runs the same code
without one, at toy size and without a comparison.
"""

import argparse
import datetime
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PARITY_GAUSSIANS, PARITY_PX = 5000, 256
BANDS = 3
STEPS = 5  # timed steps, after one that is not
PAGE = Path(__file__).with_name("cuda.md")


@dataclass(frozen=True)
class Parity:
    """Largest differences of a rendering on two devices, relative to the largest value."""

    projection: str
    color: float
    depth: float
    gradients: float
    absgrad: float


@dataclass(frozen=True)
class StepCost:
    """Time of a step and peak memory; None where the device does not report it."""

    milliseconds: float
    peak_bytes: int | None


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the benchmark and write its page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gaussians", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=2048, help="width and height of the image of a step, pixels")
    parser.add_argument("--output", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    from skyfall_ns.models.rasterizers import prepare_rasterizer

    prepare_rasterizer(device)
    count = min(options.gaussians, PARITY_GAUSSIANS)
    parities = [compare_devices(projection, count, device) for projection in ("parallel", "pinhole")]
    cost = time_step(options.gaussians, options.size, device)
    options.output.write_text(page_text(device, options.gaussians, options.size, parities, cost))
    print(options.output.read_text())


def make_view(projection: str, size: int) -> Any:
    """A view of a unit cube around (0, 0, 4) that fills the image."""
    from skyfall_ns.view import View

    camera = torch.eye(4, dtype=torch.float64)
    intrinsics = torch.tensor([[1.0, 0, size / 2], [0, 1, size / 2], [0, 0, 1]], dtype=torch.float64)
    if projection == "pinhole":
        intrinsics[0, 0] = intrinsics[1, 1] = 3.0 * size
    else:
        camera[:2, :3] = torch.tensor([[size, 0.0, 0.1 * size], [0.0, size, 0.2 * size]], dtype=torch.float64)
        camera[:2, 3] = -camera[:2, 2] * 4
    return View(camera, intrinsics, size, size, projection)  # type: ignore[arg-type]


def make_tensors(count: int, size: int) -> list[torch.Tensor]:
    """Means, quaternions, scales, opacities and colors of random Gaussians of some pixels; seeded."""
    g = torch.Generator().manual_seed(0)
    means = torch.rand(count, 3, generator=g) - 0.5 + torch.tensor([0.0, 0.0, 4.0])
    scales = (1 + 2 * torch.rand(count, 3, generator=g)) / size
    opacities = 0.1 + 0.8 * torch.rand(count, generator=g)
    return [means, torch.randn(count, 4, generator=g), scales, opacities, torch.rand(count, BANDS, generator=g)]


def render_with_gradients(tensors: Sequence[torch.Tensor], view: Any, device: torch.device) -> dict[str, torch.Tensor]:
    """Color, depth, gradients and absolute gradients on the CPU, of a rendering on `device`."""
    from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer

    leaves = [t.to(device, copy=True).requires_grad_() for t in tensors]
    rendering = pick_rasterizer(device)(Gaussians(*leaves[:4]), leaves[4], view, absgrad=True)
    rendering.info["means2d"].retain_grad()
    weights = torch.linspace(0, 1, view.width, device=device)[None, :, None]
    (rendering.color * weights).sum().backward()
    gradients = torch.cat([leaf.grad.flatten() for leaf in leaves if leaf.grad is not None])
    absgrad = rendering.info["means2d"].absgrad
    named = {"color": rendering.color, "depth": rendering.depth, "gradients": gradients, "absgrad": absgrad}
    return {name: value.detach().float().cpu() for name, value in named.items()}


def compare_devices(projection: str, count: int, device: torch.device) -> Parity:
    """Differences between a device and the CPU rasterizer for one kind of view."""
    tensors, view = make_tensors(count, PARITY_PX), make_view(projection, PARITY_PX)
    found = render_with_gradients(tensors, view, device)
    expected = render_with_gradients(tensors, view, torch.device("cpu"))
    errors = {
        name: float((found[name] - expected[name]).abs().max() / expected[name].abs().max().clamp_min(1e-12))
        for name in expected
    }
    return Parity(projection, **errors)


def time_step(count: int, size: int, device: torch.device) -> StepCost:
    """Cost of rendering, photometric loss, backward pass and optimizer step of one image."""
    from skyfall_ns.models.losses import photometric_loss
    from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer

    leaves = [t.to(device).requires_grad_() for t in make_tensors(count, size)]
    view, optimizer = make_view("parallel", size), torch.optim.Adam(leaves, lr=1e-5, fused=True)
    target = torch.full((size, size, BANDS), 0.5, device=device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    start = 0.0
    for step in range(STEPS + 1):
        if step == 1:
            synchronize(device)
            start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        rendering = pick_rasterizer(device)(Gaussians(*leaves[:4]), leaves[4], view, absgrad=True)
        photometric_loss(rendering.color, target).backward()
        optimizer.step()
    synchronize(device)
    peak = int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
    return StepCost(1e3 * (time.perf_counter() - start) / STEPS, peak)


def synchronize(device: torch.device) -> None:
    """Wait until the device has computed everything."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def page_text(device: torch.device, count: int, size: int, parities: Sequence[Parity], cost: StepCost) -> str:
    """The page as Markdown."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    rows = [
        f"| {p.projection} | {p.color:.1e} | {p.depth:.1e} | {p.gradients:.1e} | {p.absgrad:.1e} |" for p in parities
    ]
    peak = "unknown" if cost.peak_bytes is None else f"{cost.peak_bytes / 2**30:.2f} GiB"
    return "\n".join(
        [
            "# gsplat on CUDA",
            "",
            f"{name}, torch {torch.__version__}, gsplat {version('gsplat')}, {datetime.date.today()}. Written by "
            "`python benchmarks/cuda.py`.",
            "",
            "Largest difference from the CPU rasterizer, relative to the largest value:",
            "",
            "| view | color | depth | gradients | absolute gradients |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"A step with {count:,} Gaussians and {size} x {size} pixels (rendering, loss, backward pass, optimizer): "
            f"{cost.milliseconds:.0f} ms, peak memory {peak}.",
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
