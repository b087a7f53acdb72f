"""Patches of Nerfstudio 1.1.5; tests/test_nerfstudio_patches.py lists the defect behind each of them."""

import atexit
import importlib
import io
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
import yaml
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.configs.experiment_config import ExperimentConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecayScheduler, ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import Trainer
from nerfstudio.utils import writer
from nerfstudio.viewer.viewer import Viewer
from numpy._core.multiarray import scalar  # type: ignore[attr-defined]
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from skyfall_ns.errors import SkyfallError, TrainingError, disk_message
from skyfall_ns.run_config import OUR_PACKAGE, check_calls, locate_run, newest_checkpoint_step, parse_run_config

RENDER_TIMEOUT_S = 20.0
MAX_PORTS = 100  # ports that are tried, from the default one on


def allow_numpy_scalars() -> None:
    """Allow numpy floats in checkpoints: torch >= 2.6 loads no pickled code by default, but the schedulers of other
    methods save numpy floats (nerfstudio issue 3683)."""
    torch.serialization.add_safe_globals([scalar, np.dtype, np.float64, np.dtypes.Float64DType])


def add_ffmpeg_to_path() -> None:
    """Add the ffmpeg of imageio-ffmpeg (the extra `video`) to the PATH if the system has none: ns-render requires
    `ffmpeg`, even to render images."""
    if shutil.which("ffmpeg"):
        return
    try:
        import imageio_ffmpeg
    except ImportError:
        return
    binary = Path(imageio_ffmpeg.get_ffmpeg_exe())
    directory = Path(tempfile.gettempdir()) / f"skyfall-ns-ffmpeg-{os.getuid() if hasattr(os, 'getuid') else 0}"
    directory.mkdir(mode=0o700, exist_ok=True)
    link = directory / "ffmpeg"
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(binary)
    os.environ["PATH"] = f"{os.environ.get('PATH', '')}{os.pathsep}{directory}"


def install_excepthook() -> None:
    """Print the message of errors that a user can fix, instead of a traceback."""
    previous_hook = sys.excepthook

    def print_message(error_type: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
        message = str(error) if isinstance(error, SkyfallError) else None
        if isinstance(error, OSError):
            message = disk_message(error)
        if message is not None:
            print(f"Error: {message}", file=sys.stderr)
        else:
            previous_hook(error_type, error, traceback)

    sys.excepthook = print_message


def apply_patches() -> None:
    """Apply the patches of the whole process; called when the methods are registered."""
    allow_numpy_scalars()
    add_ffmpeg_to_path()
    install_excepthook()
    check_for_checkpoints()
    restrict_config_loading()
    find_runs_where_they_lie()

    serve_viewers_locally()


@dataclass
class FusedAdamConfig(AdamOptimizerConfig):
    """Fused Adam: half the time of torch's default on a CPU."""

    fused: bool = True
    """One kernel per parameter group."""


class PlainExponentialDecay(ExponentialDecayScheduler):
    """Nerfstudio's exponential decay with Python floats, so that checkpoints contain only tensors and numbers."""

    def get_scheduler(self, optimizer: Optimizer, lr_init: float) -> LRScheduler:
        """Scheduler from lr_init to lr_final over max_steps, log-linear."""
        lr_final = lr_init if self.config.lr_final is None else self.config.lr_final

        def decay_factor(step: int) -> float:
            progress = min(max(step / self.config.max_steps, 0.0), 1.0)
            return float((lr_final / lr_init) ** progress)

        return LambdaLR(optimizer, lr_lambda=decay_factor)


@dataclass
class PlainExponentialDecayConfig(ExponentialDecaySchedulerConfig):
    """Log-linear decay of a learning rate."""

    _target: type = field(default_factory=lambda: PlainExponentialDecay)


def save_checkpoints_atomically(trainer: Trainer, on_saved: Callable[[], None] = lambda: None) -> None:
    """Make this trainer write checkpoints to a temporary directory and move them when they are complete, so that a
    killed run never leaves an incomplete file as its newest checkpoint.

    `on_saved` is called after each one, so that the run continues in the same state as a run that resumes from it.
    """
    save_checkpoint: Callable[[int], None] = trainer.save_checkpoint

    def save_atomically(step: int) -> None:
        checkpoint_dir = trainer.checkpoint_dir
        partial = checkpoint_dir.with_name(".checkpoint.partial")
        shutil.rmtree(partial, ignore_errors=True)  # left by a run that was killed
        for directory in (checkpoint_dir, partial):
            directory.mkdir(parents=True, exist_ok=True)
        trainer.checkpoint_dir = partial
        try:
            save_checkpoint(step)
            (new,) = partial.glob("*.ckpt")
            os.replace(new, checkpoint_dir / new.name)
        finally:
            trainer.checkpoint_dir = checkpoint_dir
            shutil.rmtree(partial, ignore_errors=True)
        if trainer.config.save_only_latest_checkpoint:
            for old in checkpoint_dir.glob("*.ckpt"):
                if old.name != new.name:
                    old.unlink()
        on_saved()

    trainer.save_checkpoint = save_atomically  # type: ignore[method-assign]


def count_total_steps(trainer: Trainer, flag: str) -> None:
    """Make `max_num_iterations` the total number of steps: after a resume, Nerfstudio trains that many additional ones.

    The printed progress refers to the total too. Raises TrainingError if the run already has that many steps; the
    message names `flag`, which sets the total.
    """
    total, train = trainer.config.max_num_iterations, trainer.train
    if total <= trainer._start_step:
        raise TrainingError(
            f"This run has already done {trainer._start_step} of {total} steps. Set a larger total with {flag}."
        )

    def train_toward_total() -> None:
        writer.GLOBAL_BUFFER["max_iter"] = total
        train()

    trainer.config.max_num_iterations = total - trainer._start_step
    trainer.train = train_toward_total  # type: ignore[method-assign]


def check_for_checkpoints() -> None:
    """Raise TrainingError if --load-dir has no checkpoint, as after a kill before the first one; Nerfstudio raises an
    IndexError."""
    load_checkpoint = Trainer._load_checkpoint
    if getattr(load_checkpoint, "is_checked", False):
        return

    def load_checked(trainer: Trainer) -> None:
        directory = trainer.config.load_dir
        if directory is not None and trainer.config.load_step is None:
            trainer.config.load_step = newest_checkpoint_step(directory)  # Nerfstudio stumbles over other files
            if trainer.config.load_step is None:
                raise TrainingError(
                    f"{directory} has no checkpoint. Pass RUN/nerfstudio_models of a run that has saved one "
                    "(--steps-per-save), or train from the start without --load-dir."
                )
        load_checkpoint(trainer)

    load_checked.is_checked = True  # type: ignore[attr-defined]
    Trainer._load_checkpoint = load_checked  # type: ignore[method-assign]


def restrict_config_loading() -> None:
    """Make Nerfstudio's commands read config.yml without running code in it: `eval_setup` and --load-config call
    `yaml.load` with a loader that calls whatever the file names.

    Runs of this plugin may contain its classes only. Those of other methods may contain the classes of installed
    plugins, and are otherwise read as before."""
    load = yaml.load
    if getattr(load, "is_restricted", False):
        return

    def load_restricted(stream: Any, Loader: Any) -> Any:  # PyYAML's name
        caller = sys._getframe(1)
        if Loader is not yaml.Loader or not caller.f_globals.get("__name__", "").startswith("nerfstudio."):
            return load(stream, Loader)
        path = _config_path(caller.f_locals)
        if OUR_PACKAGE in stream:
            config = parse_run_config(stream, path)
            if "config_path" in caller.f_locals:
                locate_run(config, path)
            return config
        check_calls(stream, path)
        return load(stream, Loader)

    load_restricted.is_restricted = True  # type: ignore[attr-defined]
    yaml.load = load_restricted


def _config_path(variables: dict[str, Any]) -> Path:
    """The file that a function of Nerfstudio reads: `config_path` in eval_setup, `config.load_config` in ns-train."""
    return Path(variables.get("config_path") or getattr(variables.get("config"), "load_config", None) or "config.yml")


def find_runs_where_they_lie() -> None:
    """Make runs the directory of their config.yml: Nerfstudio looks where they were written, and loads the checkpoint
    of another run that is there now."""
    get_base_dir = ExperimentConfig.get_base_dir
    if getattr(get_base_dir, "is_located", False):
        return

    def get_located_directory(config: ExperimentConfig) -> Path:
        return getattr(config, "located_directory", None) or get_base_dir(config)

    get_located_directory.is_located = True  # type: ignore[attr-defined]
    ExperimentConfig.get_base_dir = get_located_directory  # type: ignore[method-assign]


def serve_viewers_locally() -> None:
    """Serve viewers of pipelines with a `VIEWER_ADDRESS` there, at a free port: ns-viewer replaces the viewer's
    configuration of the method by its own, which listens on all interfaces, and viser moves to another port than the
    printed one if the requested one is in use.

    Raises TrainingError for a requested port that is in use; for the default one a note names the other port."""
    start_viewer = Viewer.__init__
    if getattr(start_viewer, "is_local", False):
        return

    def start_local_viewer(viewer: Viewer, config: ViewerConfig, *args: Any, **keywords: Any) -> None:
        pipeline = keywords["pipeline"] if "pipeline" in keywords else args[2]  # after log_filename and datapath
        address = getattr(pipeline, "VIEWER_ADDRESS", None)
        if address is not None:
            if config.websocket_host == ViewerConfig().websocket_host and not _is_given("--viewer.websocket-host"):
                config.websocket_host = address
            config.websocket_port = _choose_port(config)
        start_viewer(viewer, config, *args, **keywords)

    start_local_viewer.is_local = True  # type: ignore[attr-defined]
    Viewer.__init__ = start_local_viewer  # type: ignore[method-assign]


def _is_given(flag: str) -> bool:
    """Whether the command line has a flag, with dashes or underscores."""
    return any(word.partition("=")[0].replace("_", "-") == flag for word in sys.argv)


def _choose_port(config: ViewerConfig) -> int:
    """The requested port, or else the first free one from the default one on."""
    address, port = config.websocket_host, config.websocket_port
    if port is not None:
        if not 0 < port < 65536:
            raise TrainingError(f"--viewer.websocket-port {port} is not a port. Pass a number of 1024 to 65535.")
        if not _is_free(address, port):
            raise TrainingError(
                f"Port {port} is in use, so the viewer cannot start there. "
                "Pass another --viewer.websocket-port, or end the program that uses it."
            )
        return port
    default = config.websocket_port_default
    free = next((port for port in range(default, default + MAX_PORTS) if _is_free(address, port)), None)
    if free is None:
        raise TrainingError(
            f"Ports {default} to {default + MAX_PORTS - 1} are in use, so the viewer cannot start. "
            "Pass a free --viewer.websocket-port."
        )
    if free != default:
        print(f"Port {default} is in use; the viewer is at port {free}.", file=sys.stderr)
    return free


def _is_free(address: str, port: int) -> bool:
    """Whether a server can listen at this address."""
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((address, port))
        except OSError:
            return False
    return True


def patch_viewer(viewer: Any) -> None:
    """Patch a viewer at its start, so that its threads neither deadlock nor outlive the process."""
    load_image_codecs()
    atexit.register(stop_render_threads, viewer)


def load_image_codecs() -> None:
    """Import the image codecs before the viewer starts its threads: with a browser page already open, two threads would
    import them at the same time and can deadlock."""
    import imageio.v3

    for extension in (".jpeg", ".png"):
        imageio.v3.imwrite(io.BytesIO(), np.zeros((1, 1, 3), np.uint8), extension=extension)


def stop_render_threads(viewer: Any) -> None:
    """Stop the viewer's render threads: one that renders at the end of the process aborts it with exit code 134."""
    threads = list(viewer.render_statemachines.values())
    for thread in threads:
        thread.running = False
    for thread in threads:
        thread.join(timeout=RENDER_TIMEOUT_S)


def prepare_export(model: Any) -> None:
    """Make `ns-export` write placement.json, and refuse what does not work on satellite images; called when a pipeline
    is set up. Nerfstudio's command has no hook, and its module is not complete when the patches are applied. The module
    is imported by name because exports are a layer above pipelines."""
    if "nerfstudio.scripts.exporter" in sys.modules:
        importlib.import_module("skyfall_ns.export.nerfstudio_export").prepare_running_export(model)


def is_training(trainer: Any) -> bool:
    """Whether callbacks are set up by Nerfstudio's trainer (and not by a test or an evaluation)."""
    return isinstance(trainer, Trainer)
