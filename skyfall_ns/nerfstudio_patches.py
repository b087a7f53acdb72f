"""Cures for what the host (Nerfstudio 1.1.5) does not do on today's machines; each is listed in tests/test_host.py."""

import atexit
import io
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecayScheduler, ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils import writer
from numpy._core.multiarray import scalar  # type: ignore[attr-defined]
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from skyfall_ns.errors import SkyfallError, TrainingError, disk_message

LAST_PICTURE_S = 20.0


def allow_numpy_scalars() -> None:
    """torch >= 2.6 loads checkpoints without pickled code; other methods' schedulers leave numpy floats in theirs
    (nerfstudio issue 3683)."""
    torch.serialization.add_safe_globals([scalar, np.dtype, np.float64, np.dtypes.Float64DType])


def find_ffmpeg() -> None:
    """ns-render stops without an `ffmpeg` on the PATH, even for images; lend it the one of imageio-ffmpeg (the extra
    `video`) where the system has none."""
    if shutil.which("ffmpeg"):
        return
    try:
        import imageio_ffmpeg
    except ImportError:
        return
    binary = Path(imageio_ffmpeg.get_ffmpeg_exe())
    folder = Path(tempfile.gettempdir()) / f"skyfall-ns-ffmpeg-{os.getuid() if hasattr(os, 'getuid') else 0}"
    folder.mkdir(mode=0o700, exist_ok=True)
    link = folder / "ffmpeg"
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(binary)
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}{os.pathsep}{folder}"


def speak_plainly() -> None:
    """Errors that a person can mend end in their message, not in the host's traceback."""
    before = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        message = str(error) if isinstance(error, SkyfallError) else None
        if isinstance(error, OSError):
            message = disk_message(error)
        if message is not None:
            print(f"Error: {message}", file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = hook


def cure() -> None:
    """All cures that concern the whole process; called when the method is registered."""
    allow_numpy_scalars()
    find_ffmpeg()
    speak_plainly()
    look_for_checkpoints()


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Adam in one pass over the parameters: half the time of torch's default on a CPU."""

    fused: bool = True
    """One kernel per parameter group."""


class PlainExponentialDecay(ExponentialDecayScheduler):
    """The host's decay with plain floats, so that checkpoints hold nothing but tensors and numbers."""

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        """lr_init -> lr_final over max_steps, log-linear."""
        final = lr_init if self.config.lr_final is None else self.config.lr_final

        def factor(step: int) -> float:
            share = min(max(step / self.config.max_steps, 0.0), 1.0)
            return float((final / lr_init) ** share)

        return LambdaLR(optimizer, lr_lambda=factor)


@dataclass
class PlainExponentialDecayConfig(ExponentialDecaySchedulerConfig):
    """Log-linear decay of a learning rate."""

    _target: type = field(default_factory=lambda: PlainExponentialDecay)


def save_whole_checkpoints(trainer: Trainer, then: Callable[[], None] = lambda: None) -> None:
    """Make this trainer write a checkpoint beside the old one and swap them when it is complete, so that a killed run
    never leaves half a file as its newest. `then` is called after each: a run goes on as one that starts from it."""
    write: Callable[[int], None] = trainer.save_checkpoint

    def save(step: int) -> None:
        final = trainer.checkpoint_dir
        partial = final.with_name(".checkpoint.partial")
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed here
        for folder in (final, partial):
            folder.mkdir(parents=True, exist_ok=True)
        trainer.checkpoint_dir = partial
        try:
            write(step)
            (new,) = partial.glob("*.ckpt")
            os.replace(new, final / new.name)
        finally:
            trainer.checkpoint_dir = final
            shutil.rmtree(partial, ignore_errors=True)
        if trainer.config.save_only_latest_checkpoint:
            for old in final.glob("*.ckpt"):
                if old.name != new.name:
                    old.unlink()
        then()

    trainer.save_checkpoint = save  # type: ignore[method-assign]


def count_all_steps(trainer: Trainer, flag: str) -> None:
    """After a resume the host trains `max_num_iterations` more steps; here the number is the total, and `flag` asks for
    more. The progress that is printed counts towards the total too, or it would tell 150 % and a day to go.

    Raises TrainingError if the run is already that long."""
    total, train = trainer.config.max_num_iterations, trainer.train
    if total <= trainer._start_step:
        raise TrainingError(
            f"This run has already done {trainer._start_step} of {total} steps. Ask for more with {flag}."
        )

    def train_towards_total() -> None:
        writer.GLOBAL_BUFFER["max_iter"] = total
        train()

    trainer.config.max_num_iterations = total - trainer._start_step
    trainer.train = train_towards_total  # type: ignore[method-assign]


def look_for_checkpoints() -> None:
    """The host ends in an IndexError where --load-dir holds no checkpoint, as after a kill before the first one."""
    load = Trainer._load_checkpoint
    if getattr(load, "looks", False):
        return

    def look(trainer: Trainer) -> None:
        folder = trainer.config.load_dir
        if folder is not None and not any(Path(folder).glob("step-*.ckpt")):
            raise TrainingError(
                f"{folder} holds no checkpoint. Pass RUN/nerfstudio_models of a run that has saved one "
                "(--steps-per-save), or train from the start without --load-dir."
            )
        load(trainer)

    look.looks = True  # type: ignore[attr-defined]
    Trainer._load_checkpoint = look  # type: ignore[method-assign]


def cure_viewer(viewer: Any) -> None:
    """Cures for a viewer that begins: its threads neither wait for each other nor outlive the process."""
    load_picture_codecs()
    atexit.register(stop_drawing, viewer)


def load_picture_codecs() -> None:
    """With a page open when the viewer starts, two threads at once would import what writes pictures, and can wait for
    each other forever; so write one before there are two."""
    import imageio.v3

    for kind in (".jpeg", ".png"):
        imageio.v3.imwrite(io.BytesIO(), np.zeros((1, 1, 3), np.uint8), extension=kind)


def stop_drawing(viewer: Any) -> None:
    """A thread that still draws for a page when the process ends aborts it: a run that is done would exit with 134."""
    threads = list(viewer.render_statemachines.values())
    for thread in threads:
        thread.running = False
    for thread in threads:
        thread.join(timeout=LAST_PICTURE_S)


def is_training(trainer: Any) -> bool:
    """Whether callbacks are set up by the host's trainer (and not by a test or an evaluation)."""
    return isinstance(trainer, Trainer)
