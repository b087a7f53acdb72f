"""Time the parts of training steps with Nerfstudio's trainer, and write training_step.md.

    python benchmarks/training_step.py                 # a synthetic city, thinned to 150 000 Gaussians
    python benchmarks/training_step.py --data SCENE    # a scene of skyfall-process
    python benchmarks/training_step.py --against DIR --rounds 3    # beside the package of another checkout

The time of a part excludes the other parts that it calls. Every figure is the median of all steps, which alternate
between those with and without the surface loss.
"""

import argparse
import copy
import datetime
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
from rasterizer import describe_machine

WHOLE = "**whole step**"
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


PARTS = (
    ("models.rasterizers.cpu", "_Rasterize.forward", "rasterizer, forward"),
    ("models.rasterizers.cpu", "_Rasterize.backward", "rasterizer, backward"),
    ("models.ssim", "_FusedSsim.forward", "SSIM and L1"),
    ("models.ssim", "_FusedSsim.backward", "SSIM and L1"),
    ("models.photometric", "_Photometric.forward", "SSIM and L1"),
    ("models.photometric", "_Photometric.backward", "SSIM and L1"),
    ("models.losses", "photometric_loss", "SSIM and L1"),
    ("models.appearance.shading", "_Shade.forward", "light of Gaussians"),
    ("models.appearance.shading", "_Shade.backward", "light of Gaussians"),
    ("models.appearance.display_color", "_DisplayColor.forward", "display colors"),
    ("models.appearance.display_color", "_DisplayColor.backward", "display colors"),
    ("models.appearance.shadow_lookup", "_ShadowLookup.forward", "shadow map lookups"),
    ("models.appearance.shadow_lookup", "_ShadowLookup.backward", "shadow map lookups"),
)
"""Functions by module, and the part that their time belongs to; a checkout may lack some."""


def watch_parts(timer: PartTimer, trainer) -> None:
    """Watch the parts of a step. Autograd runs the backward passes while `Tensor.backward` is called."""
    for module, path, name in PARTS:
        with suppress(ModuleNotFoundError, AttributeError):
            *owners, attribute = path.split(".")
            owner = reduce(getattr, owners, importlib.import_module(f"skyfall_ns.{module}"))
            timer.watch_calls(owner, attribute, name)
    model = trainer.pipeline.model
    timer.watch_calls(model.regularization, "surface_losses", "surface loss without rendering")
    timer.watch_calls(model.renderer.shadow_maps, "_get_or_render", "shadow maps without rendering")
    timer.watch_calls(model.densifier.strategy, "step_pre_backward", "densification")
    timer.watch_calls(model, "get_metrics_dict", "metrics")
    timer.watch_calls(model, "get_outputs", "activations, views, background")
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


def summarize_steps(rows: list[dict[str, float]], step_ms: list[float]) -> dict[str, float]:
    """Median milliseconds of each part over pairs of steps (with and without the surface), and of the whole step."""
    pairs = [(rows[i], rows[i + 1]) for i in range(0, len(rows) - 1, 2)]
    names = sorted({name for row in rows for name in row})
    medians = {n: statistics.median(0.5 * (a.get(n, 0.0) + b.get(n, 0.0)) for a, b in pairs) for n in names}
    whole = statistics.median(0.5 * (step_ms[i] + step_ms[i + 1]) for i in range(0, len(step_ms) - 1, 2))
    return medians | {WHOLE: whole}


def measure_checkout(checkout: Path, scene: Path, steps: int) -> dict[str, float]:
    """Measure the parts of a step with the package of a checkout, in a process of its own."""
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "parts.json"
        command = [sys.executable, __file__, "--data", str(scene), "--steps", str(steps), "--json", str(output)]
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": str(checkout)})
        return json.loads(output.read_text())


def parts_table(runs: Mapping[str, list[dict[str, float]]]) -> str:
    """Parts in milliseconds per step, a column for each checkout: medians over its runs."""
    names = {name for rounds in runs.values() for parts in rounds for name in parts} - {WHOLE}
    columns = {
        label: {n: statistics.median(parts.get(n, 0.0) for parts in rounds) for n in names | {WHOLE}}
        for label, rounds in runs.items()
    }
    last = columns[list(columns)[-1]]
    order = [*sorted(names, key=lambda name: -last[name]), WHOLE]
    lines = ["| ms per step | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {n} | " + " | ".join(f"{parts[n]:.1f}" for parts in columns.values()) + " |" for n in order]
    if len(columns) == 2:
        before, after = (parts[WHOLE] for parts in columns.values())
        lines.append(f"\nThe step is {before / after:.2f} times as fast as before.")
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


def format_report(scene: Path, body: str, steps: int, rounds: int) -> str:
    from skyfall_ns.scene.scene import Scene

    image = Scene.from_directory(scene).images[0]
    return (
        "# A training step\n\nWritten by `python benchmarks/training_step.py` on "
        f"{datetime.date.today()}: {describe_machine()}.\n"
        f"{scene.name}: images of {image.width} x {image.height} px, {GAUSSIANS:,} Gaussians unless a scene is given; "
        f"medians of {rounds} alternating runs of {steps} steps of Nerfstudio's `Trainer.train_iteration` with all "
        f"callbacks, half of them with the surface loss.\n\n{body}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="scene directory of skyfall-process; by default a new city")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--against", type=Path, help="another checkout, measured alternately with this one")
    parser.add_argument("--rounds", type=int, default=1, help="runs of each checkout")
    parser.add_argument("--json", type=Path, help="measure the package on the path once, and write the parts to FILE")
    arguments = parser.parse_args()
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    with tempfile.TemporaryDirectory() as directory:
        scene = arguments.data or make_city(Path(directory))
        if arguments.json:
            rows, step_ms = measure_steps(setup_trainer(scene, Path(directory)), arguments.steps)
            arguments.json.write_text(json.dumps(summarize_steps(rows, step_ms)))
            return
        here = Path(__file__).resolve().parents[1]
        checkouts = ({"before": arguments.against} if arguments.against else {}) | {"now": here}
        runs: dict[str, list[dict[str, float]]] = {label: [] for label in checkouts}
        for _ in range(arguments.rounds):
            for label, checkout in checkouts.items():
                runs[label].append(measure_checkout(checkout, scene, arguments.steps))
        text = format_report(scene, parts_table(runs), arguments.steps, arguments.rounds)
    Path(__file__).with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
