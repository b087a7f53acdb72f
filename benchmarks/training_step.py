"""Time the parts of training steps with Nerfstudio's trainer, and write training_step.md.

    python benchmarks/training_step.py                 # a synthetic city, thinned to 150 000 Gaussians
    python benchmarks/training_step.py --data SCENE    # a scene of skyfall-process

The time of a part excludes the other parts that it calls. Every figure is the median of all steps, which alternate
between those with and without the surface loss; the fastest step is given as well.
"""

import argparse
import copy
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from rasterizer import describe_machine

CITY_M, CITY_VIEWS, GAUSSIANS = 292, 3, 150_000  # images of half a megapixel, like 516 x 975 px


class PartTimer:
    """Seconds of named parts of a step, each without the other parts that it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def time_part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self._inner.append(0.0)
        yield
        seconds = time.perf_counter() - start
        self.seconds[name] += seconds - self._inner.pop()
        self._inner[-1] += seconds

    def watch_calls(self, owner: Any, attribute: str, name: str) -> None:
        """Time every call of owner.attribute as a part."""
        original = owner.__dict__[attribute] if isinstance(owner, type) else getattr(owner, attribute)
        function = original.__func__ if isinstance(original, staticmethod) else original

        def timed_call(*args: Any, **kwargs: Any) -> Any:
            with self.time_part(name):
                return function(*args, **kwargs)

        setattr(owner, attribute, staticmethod(timed_call) if isinstance(original, staticmethod) else timed_call)


def setup_trainer(scene: Path, directory: Path, device: str = "cpu"):
    """Set up Nerfstudio's trainer as `ns-train skyfall` does, without viewer and logs."""
    from skyfall_ns.method_configs import skyfall

    config = copy.deepcopy(skyfall.config)
    config.vis, config.output_dir, config.machine.device_type = "tensorboard", directory, device
    config.logging.local_writer.enable = False
    config.pipeline.datamanager.data = scene
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def watch_parts(timer: PartTimer, trainer) -> None:
    """Watch the parts of a step. Autograd runs the backward passes while `Tensor.backward` is called."""
    from skyfall_ns.models import losses
    from skyfall_ns.models.appearance import shadow_lookup
    from skyfall_ns.models.rasterizers import cpu
    from skyfall_ns.models.ssim import _FusedSsim

    model = trainer.pipeline.model
    timer.watch_calls(cpu._Rasterize, "forward", "rasterizer, forward")
    timer.watch_calls(cpu._Rasterize, "backward", "rasterizer, backward")
    timer.watch_calls(_FusedSsim, "forward", "SSIM and L1")
    timer.watch_calls(_FusedSsim, "backward", "SSIM and L1")
    timer.watch_calls(losses, "photometric_loss", "SSIM and L1")
    timer.watch_calls(model.regularization, "surface_losses", "surface loss without rendering")
    timer.watch_calls(model.renderer.shadow_maps, "_get_or_render", "shadow maps without rendering")
    timer.watch_calls(shadow_lookup._ShadowLookup, "forward", "shadow map lookups")
    timer.watch_calls(shadow_lookup._ShadowLookup, "backward", "shadow map lookups")
    timer.watch_calls(model.densifier.strategy, "step_pre_backward", "densification")
    timer.watch_calls(model, "get_metrics_dict", "metrics")
    timer.watch_calls(model, "get_outputs", "colors, scales, background")
    timer.watch_calls(trainer.pipeline.datamanager, "next_train", "data")
    timer.watch_calls(torch.Tensor, "backward", "other backward passes of torch")
    timer.watch_calls(trainer.optimizers, "optimizer_scaler_step_some", "Adam")
    timer.watch_calls(trainer.optimizers, "zero_grad_some", "Adam")


def run_step(trainer, step: int, timer: PartTimer) -> None:
    """Run a step as Nerfstudio's training loop does: callbacks, the iteration, callbacks (these densify)."""
    from nerfstudio.engine.callbacks import TrainingCallbackLocation as Place

    trainer.step = step
    trainer.pipeline.train()
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=Place.BEFORE_TRAIN_ITERATION)
    trainer.train_iteration(step)
    with timer.time_part("densification"):
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=Place.AFTER_TRAIN_ITERATION)


def measure_steps(trainer, steps: int) -> tuple[list[dict[str, float]], list[float]]:
    """Measure the parts and the total of each step, milliseconds, after steps that compile kernels and fill caches."""
    timer, rows, step_ms = PartTimer(), [], []
    watch_parts(timer, trainer)
    warmup = 2 * trainer.pipeline.datamanager.train_dataset.cameras.shape[0] + 2
    for step in range(1, warmup + steps):
        timer.seconds.clear()
        start = time.perf_counter()
        with timer.time_part("Nerfstudio and everything else"):
            run_step(trainer, step, timer)
        if step >= warmup:
            step_ms.append(1e3 * (time.perf_counter() - start))
            rows.append({name: 1e3 * seconds for name, seconds in timer.seconds.items()})
    return rows, step_ms


def parts_table(rows: list[dict[str, float]], step_ms: list[float]) -> str:
    """Median of each part over pairs of steps (with and without the surface), and its share."""
    pairs = [(rows[i], rows[i + 1]) for i in range(0, len(rows) - 1, 2)]
    names = sorted({name for row in rows for name in row})
    medians = {n: statistics.median(0.5 * (a.get(n, 0.0) + b.get(n, 0.0)) for a, b in pairs) for n in names}
    total = sum(medians.values())
    lines = ["| part | ms per step | share |", "|---|---|---|"]
    lines += [f"| {n} | {v:.1f} | {v / total:.0%} |" for n, v in sorted(medians.items(), key=lambda item: -item[1])]
    fastest = min(0.5 * (step_ms[i] + step_ms[i + 1]) for i in range(0, len(step_ms) - 1, 2))
    lines.append(f"| **whole step, median** (fastest pair of steps: {fastest:.1f}) | **{total:.1f}** | |")
    return "\n".join(lines)


def make_city(directory: Path) -> Path:
    command = ["skyfall-process", "city", "--output-dir", str(directory / "city"), "--size", str(CITY_M)]
    subprocess.run([*command, "--views", str(CITY_VIEWS)], check=True)
    thin_points(directory / "city/points.ply")
    return directory / "city"


def thin_points(path: Path) -> None:
    """Keep a random selection of `GAUSSIANS` points of a scene."""
    from skyfall_ns.io.ply import read_ply, write_ply

    points = read_ply(path)
    selected = np.sort(np.random.default_rng(0).permutation(len(points.xyz_m))[:GAUSSIANS])
    write_ply(path, replace(points, **{f.name: getattr(points, f.name)[selected] for f in fields(points)}))


def format_report(trainer, name: str, body: str, steps: int) -> str:
    cameras = trainer.pipeline.datamanager.train_dataset.cameras
    width, height = int(cameras.width[0]), int(cameras.height[0])
    return (
        "# A training step\n\nWritten by `python benchmarks/training_step.py` on "
        f"{datetime.date.today()}: {describe_machine()}.\n"
        f"{name}: {len(cameras)} images of {width} x {height} px, {trainer.pipeline.model.num_points:,} Gaussians; "
        f"{steps} steps of Nerfstudio's `Trainer.train_iteration` with all callbacks, half of them with the surface "
        f"loss; medians.\n\n{body}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="scene directory of skyfall-process; by default a new city")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    with tempfile.TemporaryDirectory() as directory:
        scene = arguments.data or make_city(Path(directory))
        trainer = setup_trainer(scene, Path(directory))
        table = parts_table(*measure_steps(trainer, arguments.steps))
        text = format_report(trainer, scene.name, table, arguments.steps)
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
