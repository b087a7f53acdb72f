"""Times whole training steps through the host's own trainer, part by part, and writes training_step.md.

    python benchmarks/training_step.py                 # a synthetic city thinned to 150 000 splats, made first
    python benchmarks/training_step.py --data SCENE    # a scene made by skyfall-process

Parts are timed where they are called, so each holds what it calls and no other part. Every figure is the median of all
steps, which alternate between those with and without a look at the surface; the least step is told beside it.
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
from rasterizer import machine

CITY_M, CITY_VIEWS, SPLATS = 292, 3, 150_000  # images of half a megapixel, as 516 x 975 px


class Parts:
    """Seconds of named parts of a step, each without the parts it calls."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        self._inner.append(0.0)
        yield
        spent = time.perf_counter() - start
        self.seconds[name] += spent - self._inner.pop()
        self._inner[-1] += spent

    def watch(self, owner: Any, attribute: str, name: str) -> None:
        """Count every call of owner.attribute as a part."""
        plain = owner.__dict__[attribute] if isinstance(owner, type) else getattr(owner, attribute)
        function = plain.__func__ if isinstance(plain, staticmethod) else plain

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return function(*args, **kwargs)

        setattr(owner, attribute, staticmethod(timed) if isinstance(plain, staticmethod) else timed)


def trainer_on(scene: Path, folder: Path, device: str = "cpu"):
    """The host's trainer as `ns-train skyfall` sets it up, without viewer and logs."""
    from skyfall_ns.method_configs import skyfall

    config = copy.deepcopy(skyfall.config)
    config.vis, config.output_dir, config.machine.device_type = "tensorboard", folder, device
    config.logging.local_writer.enable = False
    config.pipeline.datamanager.data = scene
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def watch(parts: Parts, trainer) -> None:
    """Name the parts of a step. The way back runs in autograd's order on the calling thread's behalf."""
    from skyfall_ns.models import losses
    from skyfall_ns.models.appearance import shadow_lookup
    from skyfall_ns.models.rasterizers import cpu
    from skyfall_ns.models.ssim import _FusedSsim

    model = trainer.pipeline.model
    parts.watch(cpu._Rasterize, "forward", "rasterizer, forward")
    parts.watch(cpu._Rasterize, "backward", "rasterizer, backward")
    parts.watch(_FusedSsim, "forward", "SSIM and L1")
    parts.watch(_FusedSsim, "backward", "SSIM and L1")
    parts.watch(losses, "photometric_loss", "SSIM and L1")
    parts.watch(model, "surface_losses", "surface term around its drawing")
    parts.watch(model.shadows, "_cached", "shadows around their drawing")
    parts.watch(shadow_lookup._Lookup, "forward", "lookups in the sun's map")
    parts.watch(shadow_lookup._Lookup, "backward", "lookups in the sun's map")
    parts.watch(model.strategy, "step_pre_backward", "densification")
    parts.watch(model, "get_metrics_dict", "metrics")
    parts.watch(model, "get_outputs", "colours, scales, background")
    parts.watch(trainer.pipeline.datamanager, "next_train", "data")
    parts.watch(torch.Tensor, "backward", "torch's own way back")
    parts.watch(trainer.optimizers, "optimizer_scaler_step_some", "Adam")
    parts.watch(trainer.optimizers, "zero_grad_some", "Adam")


def one_step(trainer, step: int, parts: Parts) -> None:
    """As the host's loop makes it: callbacks before, the iteration, callbacks after (those densify)."""
    from nerfstudio.engine.callbacks import TrainingCallbackLocation as Place

    trainer.step = step
    trainer.pipeline.train()
    for callback in trainer.callbacks:
        callback.run_callback_at_location(step, location=Place.BEFORE_TRAIN_ITERATION)
    trainer.train_iteration(step)
    with parts.part("densification"):
        for callback in trainer.callbacks:
            callback.run_callback_at_location(step, location=Place.AFTER_TRAIN_ITERATION)


def measure(trainer, steps: int) -> tuple[list[dict[str, float]], list[float]]:
    """Parts and whole time of each step, milliseconds; the first steps compile and fill caches."""
    parts, rows, wholes = Parts(), [], []
    watch(parts, trainer)
    warm = 2 * trainer.pipeline.datamanager.train_dataset.cameras.shape[0] + 2
    for step in range(1, warm + steps):
        parts.seconds.clear()
        start = time.perf_counter()
        with parts.part("host and everything else"):
            one_step(trainer, step, parts)
        if step >= warm:
            wholes.append(1e3 * (time.perf_counter() - start))
            rows.append({name: 1e3 * seconds for name, seconds in parts.seconds.items()})
    return rows, wholes


def table(rows: list[dict[str, float]], wholes: list[float]) -> str:
    """Median of each part over pairs of steps (with and without the surface), and its share."""
    pairs = [(rows[i], rows[i + 1]) for i in range(0, len(rows) - 1, 2)]
    names = sorted({name for row in rows for name in row})
    both = {n: statistics.median(0.5 * (a.get(n, 0.0) + b.get(n, 0.0)) for a, b in pairs) for n in names}
    whole = sum(both.values())
    lines = ["| part | ms a step | share |", "|---|---|---|"]
    lines += [f"| {n} | {v:.1f} | {v / whole:.0%} |" for n, v in sorted(both.items(), key=lambda item: -item[1])]
    least = min(0.5 * (wholes[i] + wholes[i + 1]) for i in range(0, len(wholes) - 1, 2))
    lines.append(f"| **whole step, median** (least of two successive: {least:.1f}) | **{whole:.1f}** | |")
    return "\n".join(lines)


def made_city(folder: Path) -> Path:
    command = ["skyfall-process", "city", "--output-dir", str(folder / "city"), "--size", str(CITY_M)]
    subprocess.run([*command, "--views", str(CITY_VIEWS)], check=True)
    thin(folder / "city/points.ply")
    return folder / "city"


def thin(path: Path) -> None:
    """Keep SPLATS of a scene's points."""
    from skyfall_ns.io.ply import read_ply, write_ply

    cloud = read_ply(path)
    kept = np.sort(np.random.default_rng(0).permutation(len(cloud.xyz_m))[:SPLATS])
    write_ply(path, replace(cloud, **{f.name: getattr(cloud, f.name)[kept] for f in fields(cloud)}))


def report(trainer, name: str, body: str, steps: int) -> str:
    cameras = trainer.pipeline.datamanager.train_dataset.cameras
    width, height = int(cameras.width[0]), int(cameras.height[0])
    return (
        "# A training step\n\nWritten by `python benchmarks/training_step.py` on "
        f"{datetime.date.today()}: {machine()}.\n"
        f"{name}: {len(cameras)} images of {width} x {height} px, {trainer.pipeline.model.num_points:,} splats; "
        f"{steps} steps through the host's `Trainer.train_iteration` with all callbacks, half of them with a look at "
        f"the surface; medians.\n\n{body}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="a scene made by skyfall-process; without it a city is made")
    parser.add_argument("--steps", type=int, default=60)
    arguments = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    with tempfile.TemporaryDirectory() as folder:
        scene = arguments.data or made_city(Path(folder))
        trainer = trainer_on(scene, Path(folder))
        text = report(trainer, scene.name, table(*measure(trainer, arguments.steps)), arguments.steps)
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
