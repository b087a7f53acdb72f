"""Short runs of stage 2 in the process of the test, and interruptions of them."""

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

import numpy as np
import torch

from skyfall_ns.idu import episode_runner, episode_store
from skyfall_ns.idu.curriculum import Curriculum
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.idu.synthetic_views import SyntheticViews
from skyfall_ns.method_configs import skyfall, skyfall_idu
from skyfall_ns.pipelines.idu_pipeline import IduPipeline
from skyfall_ns.refiners import denoiser_pairs
from skyfall_ns.refiners.registry import RefinerOptions

STAGE1_STEPS, EPISODE_STEPS, VIEWS = 6, 8, 4  # steps of stage 1 and of an episode, views of an episode
TINY = Curriculum(
    elevations_deg=(60.0, 35.0),
    radii_m=(150.0,),
    fov_deg=(25.0,),
    steps=(EPISODE_STEPS,),
    grid=1,
    azimuths=VIEWS,
    size_px=48,
)
END_STEP = STAGE1_STEPS + 2 * EPISODE_STEPS
VIEW_NAMES = [f"{index:03d}" for index in range(VIEWS)]
EACH_IMAGE_ONCE = Counter({(f"episode_{episode:02d}", name): 1 for episode in (1, 2) for name in VIEW_NAMES})


class SimulatedKill(BaseException):
    """Raised in place of the end of the process."""


@dataclass
class CountingRefiner:
    """Returns negatives of the views; counts calls per view, and uses random numbers."""

    generative: ClassVar[bool] = False
    batch: int = 1
    training_pairs: int = 0
    calls: Counter = field(default_factory=Counter)

    def check(self) -> None:
        """Nothing can be missing."""

    def identity(self, episode=None) -> dict[str, Any]:
        return {"name": "counting"}

    @contextmanager
    def load(self, device, episode):
        def refine_views(views):
            for view in views:
                self.calls[episode.name, view.name] += 1
                random.random(), torch.rand(3)
            return [1 - view.image for view in views]

        yield refine_views


def use_refiner(refiner):
    """Context in which runs refine with this object."""
    return patch.object(RefinerOptions, "build", lambda options: refiner)


def make_config(scene: Path, out: Path, name: str, method=skyfall_idu, refiner: str = "identity", **options):
    """Configuration of a short run; `options` are fields of the pipeline's configuration."""
    config = copy.deepcopy(method.config)
    config.output_dir, config.experiment_name, config.timestamp = Path(out), "city", name
    config.vis, config.machine.device_type, config.logging.local_writer.enable = "tensorboard", "cpu", False
    config.steps_per_eval_image = 1000
    config.pipeline.datamanager.data = Path(scene)
    config.pipeline.depth.prior = "none"
    if method is skyfall:
        config.max_num_iterations = STAGE1_STEPS
        return config
    config.pipeline.stage1_steps, config.pipeline.curriculum = STAGE1_STEPS, TINY
    config.pipeline.refiner = RefinerOptions(refiner)
    for key, value in options.items():
        assert hasattr(config.pipeline, key)
        setattr(config.pipeline, key, value)
    return config


def make_densifying_config(scene: Path, out: Path, name: str, **options):
    """Configuration of a run with all state that a resume could lose: densification, shadows that move, episodes that
    are replayed, and checkpoints in the middle of episodes."""
    config = make_config(scene, out, name, densify_fraction=0.9, densify_grad_thresh=1e-4, replay_decay=0.5, **options)
    config.steps_per_save, config.optimizers["means"]["optimizer"].lr = 3, 3e-3  # shadows move
    config.pipeline.model.refine_every = 2  # statistics are collected over a checkpoint
    return config


def resume_config(config, name: str):
    """The same command with another timestamp, resumed from the checkpoint of a run."""
    resumed = copy.deepcopy(config)
    resumed.timestamp, resumed.load_dir = name, config.get_checkpoint_dir()
    resumed.max_num_iterations = skyfall_idu.config.max_num_iterations  # Nerfstudio changes it
    return resumed


def set_up_trainer(config, seed: int = 0):
    """The trainer before its first step."""
    random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
    config.save_config()
    trainer = config.setup(local_rank=0, world_size=1)
    trainer.setup()
    return trainer


def train(config, seed: int = 0):
    """Train as ns-train does; returns the trainer."""
    trainer = set_up_trainer(config, seed)
    trainer.train()
    return trainer


def kill_in_second_episode(scene: Path, out: Path, refiner: CountingRefiner):
    """Configuration of a run that was killed in the training of its second episode."""
    config = make_densifying_config(scene, out, "killed")
    try:
        with use_refiner(refiner), kill_at("step", END_STEP - 2):
            train(config)
    except SimulatedKill:
        return config
    raise AssertionError("the run was not killed")


def kill_at(event: str, count: int):
    """Context in which the run is killed before an event that has happened `count` times: a write of an image
    ("render", "depth", "refined", "weight"), of the manifest or of training "pairs", the "swap" of training images, a
    "checkpoint", or a training "step"."""
    remaining = [count]

    def kill_before(function: Callable, is_event: Callable[..., bool] = lambda *args: True) -> Callable:
        def wrapped(*args, **keywords):
            if is_event(*args):
                if remaining[0] == 0:
                    raise SimulatedKill
                remaining[0] -= 1
            return function(*args, **keywords)

        return wrapped

    if event == "pairs":
        return patch.object(denoiser_pairs, "atomic_write", kill_before(denoiser_pairs.atomic_write))
    if event in ("render", "depth", "refined", "weight"):
        write = kill_before(episode_store.atomic_write, lambda path, data: path.parent.name == event)
        return patch.object(episode_store, "atomic_write", write)
    if event == "manifest":
        write = kill_before(episode_store.atomic_write, lambda path, data: path.name == "manifest.json")
        return patch.object(episode_store, "atomic_write", write)
    if event == "swap":
        return patch.object(episode_runner.SyntheticViews, "from_store", kill_before(SyntheticViews.from_store))
    if event == "checkpoint":
        return patch.object(torch, "save", kill_before(torch.save))
    assert event == "step"
    return patch.object(IduPipeline, "get_train_loss_dict", kill_before(IduPipeline.get_train_loss_dict))


def read_checkpoint(config) -> dict[str, Any]:
    """The only checkpoint of a run."""
    (path,) = config.get_checkpoint_dir().glob("*.ckpt")
    return torch.load(path, weights_only=True)


def open_episodes(config) -> list[EpisodeStore]:
    """The episodes of a run."""
    directories = sorted((config.get_base_dir() / "idu").glob("*"))
    return [EpisodeStore.open(path) for path in directories if (path / "poses.json").exists()]


def read_run_episodes(config) -> dict[str, Any]:
    """Content of all files of the episodes of a run; see `read_episode_files`."""
    return read_episode_files(config.get_base_dir() / "idu")


def read_episode_files(idu: Path) -> dict[str, Any]:
    """Bytes of every file of episodes, and manifests without times and peak memory."""
    files = {str(path.relative_to(idu)): path.read_bytes() for path in sorted(idu.rglob("*")) if path.is_file()}
    return {name: _strip_times(data) if name.endswith("manifest.json") else data for name, data in files.items()}


def _strip_times(manifest: bytes) -> dict[str, Any]:
    data = json.loads(manifest)
    return data | {"phases": sorted(data["phases"])}
