"""Short runs of stage 2 for tests, in this process or in one that can be killed: `python idu_runs.py SCENE OUT LOG`."""

import copy
import random
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch

from skyfall_ns.method_configs import skyfall, skyfall_idu
from skyfall_ns.pipelines.curriculum import Curriculum
from skyfall_ns.refiners.config import RefinerOptions

STAGE1, STEPS, VIEWS = 6, 8, 4  # steps of stage 1 and of an episode, views of an episode
TINY = Curriculum(
    elevations_deg=(60.0, 35.0), radii_m=(150.0,), fov_deg=(25.0,), steps=(STEPS,), grid=1, azimuths=VIEWS, size_px=48
)
END = STAGE1 + 2 * STEPS


@dataclass
class Counting:
    """Negatives of the views; counts what it is asked, in `log` too if there is one, and draws random numbers."""

    generative: ClassVar[bool] = False
    batch: int = 1
    pause_s: float = 0.0
    log: Path | None = None
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
                if self.log is not None:
                    with self.log.open("a") as log:
                        log.write(f"{episode.name} {view.name}\n")
            time.sleep(self.pause_s)
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


def pictures(config) -> dict[str, bytes]:
    """What the episodes of a run hold, without times."""
    idu = config.get_base_dir() / "idu"
    return {str(p.relative_to(idu)): p.read_bytes() for p in idu.rglob("*") if p.is_file() and p.suffix != ".json"} | {
        str(p.relative_to(idu)): p.read_bytes() for p in idu.rglob("poses.json")
    }


if __name__ == "__main__":
    scene, out, log = (Path(argument) for argument in sys.argv[1:])
    with refined_by(Counting(pause_s=0.3, log=log)):
        train(config_for(scene, out, "killed"))
