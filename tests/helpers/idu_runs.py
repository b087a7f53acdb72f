"""Short runs of stage 2 for tests, in this process or, by `NsTrain`, in one of their own that can be killed."""

import copy
import json
import os
import random
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch

from skyfall_ns.idu.curriculum import Curriculum
from skyfall_ns.method_configs import skyfall, skyfall_idu
from skyfall_ns.refiners.registry import RefinerOptions

STAGE1, STEPS, VIEWS = 6, 8, 4  # steps of stage 1 and of an episode, views of an episode
TINY = Curriculum(
    elevations_deg=(60.0, 35.0), radii_m=(150.0,), fov_deg=(25.0,), steps=(STEPS,), grid=1, azimuths=VIEWS, size_px=48
)
END = STAGE1 + 2 * STEPS


@dataclass
class Counting:
    """Negatives of the views; counts what it is asked, and draws random numbers."""

    generative: ClassVar[bool] = False
    batch: int = 1
    asked: Counter = field(default_factory=Counter)

    def check(self) -> None:
        """Nothing can be missing."""

    def identity(self, episode=None) -> dict[str, Any]:
        return {"name": "counting"}

    @contextmanager
    def load(self, device, episode):
        def refine(views):
            for view in views:
                self.asked[episode.name, view.name] += 1
                random.random(), torch.rand(3)
            return [1 - view.image for view in views]

        yield refine


def refined_by(refiner):
    """Runs in this context are refined by an object of a test."""
    return patch.object(RefinerOptions, "choose", lambda options: refiner)


def config_for(scene: Path, out: Path, name: str, method=skyfall_idu, refiner: str = "none", **options):
    """A short run; `options` are the pipeline's."""
    config = copy.deepcopy(method.config)
    config.output_dir, config.experiment_name, config.timestamp = Path(out), "city", name
    config.vis, config.machine.device_type, config.logging.local_writer.enable = "tensorboard", "cpu", False
    config.steps_per_eval_image = 1000
    config.pipeline.datamanager.data = Path(scene)
    config.pipeline.depth.prior = "none"
    if method is skyfall:
        config.max_num_iterations = STAGE1
        return config
    config.pipeline.stage1_steps, config.pipeline.curriculum = STAGE1, TINY
    config.pipeline.refiner = RefinerOptions(refiner)
    for key, value in options.items():
        assert hasattr(config.pipeline, key)
        setattr(config.pipeline, key, value)
    return config


def set_up(config, seed: int = 0):
    """The trainer, ready for its first step."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def train(config, seed: int = 0):
    """As ns-train does; the trainer at its end."""
    trainer = set_up(config, seed)
    trainer.train()
    return trainer


def checkpoint(config) -> dict[str, Any]:
    """The one checkpoint of a run."""
    (only,) = config.get_checkpoint_dir().glob("*.ckpt")
    return torch.load(only, weights_only=True)


def pictures(config) -> dict[str, Any]:
    """What the episodes of a run hold."""
    return contents(config.get_base_dir() / "idu")


def contents(idu: Path) -> dict[str, Any]:
    """Bytes of every file of episodes, and manifests without their times and peaks of memory."""
    files = {str(path.relative_to(idu)): path.read_bytes() for path in sorted(idu.rglob("*")) if path.is_file()}
    return {name: timeless(data) if name.endswith("manifest.json") else data for name, data in files.items()}


def timeless(manifest: bytes) -> dict[str, Any]:
    data = json.loads(manifest)
    return data | {"phases": sorted(data["phases"])}


class NsTrain:
    """The command `ns-train`, one after the other, each in a process of its own. They are forked where the imports are
    done, which take longer than a short run."""

    def __init__(self) -> None:
        self._server = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def start(self, log: Path, *arguments: object) -> int:
        """The process that has begun; what it tells goes into `log`."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([str(log), *map(str, arguments)]).encode() + b"\n")
        self._server.stdin.flush()
        return self._answer()

    def wait(self) -> int:
        """The exit code of the process that was started last, as subprocess has it."""
        return self._answer()

    def close(self) -> None:
        self._server.communicate(timeout=60)

    def _answer(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


def serve() -> None:
    """For each line {a log file and a command's arguments} the number of its process, and then its exit code."""
    from nerfstudio.scripts.train import entrypoint

    for line in iter(sys.stdin.readline, ""):
        log, *arguments = json.loads(line)
        process = os.fork()
        if process == 0:
            with open(log, "w") as file:
                os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
            sys.argv = ["ns-train", *arguments]
            sys.exit(entrypoint())
        print(process, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
