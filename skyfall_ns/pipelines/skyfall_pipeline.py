"""Stage 1: Nerfstudio's pipeline with depth supervision, checkpoints for an exact resume, and options that are checked
before training.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from skyfall_ns import nerfstudio_patches
from skyfall_ns.dataparsers.skyfall_datamanager import SkyfallDatamanager, SkyfallDatamanagerConfig
from skyfall_ns.geo.waiting_policy import shorten_busy_waiting
from skyfall_ns.models.rasterizers import prepare_rasterizer
from skyfall_ns.models.skyfall import SkyfallModel, SkyfallModelConfig
from skyfall_ns.option_checks import check_options
from skyfall_ns.pipelines import checkpoint_state
from skyfall_ns.pipelines.depth_supervision import DepthSupervision, DepthSupervisionConfig

FLAG = "--pipeline."


@dataclass
class SkyfallPipelineConfig(VanillaPipelineConfig):
    """Stage 1: satellite images to Gaussians."""

    _target: type = field(default_factory=lambda: SkyfallPipeline)
    datamanager: SkyfallDatamanagerConfig = field(default_factory=SkyfallDatamanagerConfig)
    """The scene and its images."""
    model: SkyfallModelConfig = field(default_factory=SkyfallModelConfig)
    """The Gaussians and their losses."""
    depth: DepthSupervisionConfig = field(default_factory=DepthSupervisionConfig)
    """Depth supervision from pseudo cameras."""


class SkyfallPipeline(VanillaPipeline):
    """Stage 1 training."""

    LENGTH_FLAG: ClassVar[str] = "--max-num-iterations"  # the flag that makes a run longer
    VIEWER_ADDRESS: ClassVar[str] = "127.0.0.1"  # see nerfstudio_patches.serve_viewers_locally
    config: SkyfallPipelineConfig
    datamanager: SkyfallDatamanager
    model: SkyfallModel

    def __init__(self, config: SkyfallPipelineConfig, device: str, test_mode: str = "val", **kwargs: Any) -> None:
        """Raises MissingExtraError if the rasterizer cannot be compiled for a GPU. Raises MissingExtraError or
        TrainingError if an option is out of range or depth supervision lacks a package or weights; checked before
        training only ("val", as Nerfstudio calls it)."""
        if test_mode == "val":
            check_options(config, FLAG)
            prepare_rasterizer(device)
        shorten_busy_waiting()
        super().__init__(config, device, test_mode, **kwargs)  # type: ignore[arg-type]
        self.depth_supervision: DepthSupervision | None = None  # a plain object: neither a module nor in checkpoints
        self._resume_state: dict[str, Any] | None = None  # of a loaded checkpoint
        if test_mode != "val":
            nerfstudio_patches.prepare_export(self.model)
        if test_mode == "val":
            self.depth_supervision = DepthSupervision.from_config(
                config.depth, self.model.normalized, seed=torch.initial_seed() % 2**32
            )
            if config.depth.prior == "auto" and config.depth.weight > 0 and self.depth_supervision is None:
                CONSOLE.log("The scene has no dense surface: training runs without depth supervision.")

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Losses of the training view, and at some steps the depth loss of a pseudo view."""
        outputs, losses, metrics = super().get_train_loss_dict(step)
        return outputs, losses | self.depth_losses(step), metrics

    def depth_losses(self, step: int) -> dict[str, Tensor]:
        """Depth loss of a pseudo view at steps that have one."""
        return {} if self.depth_supervision is None else self.depth_supervision.step_losses(self.model.renderer, step)

    def get_extra_state(self) -> dict[str, Any]:
        """Extra state of checkpoints: version, the scene that the Gaussians belong to, and the state of the run."""
        run = checkpoint_state.capture_state(self.model, self.datamanager)
        run["depth_seed"] = None if self.depth_supervision is None else self.depth_supervision.seed
        scene = checkpoint_state.scene_identity(self.model.normalized)
        return {"version": checkpoint_state.VERSION, "scene": scene, "run": run}

    def set_extra_state(self, state: dict[str, Any] | None) -> None:
        """Keep the state of a checkpoint until training resumes."""
        self._resume_state = None if state is None else state["run"]

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """Load a checkpoint. Raises TrainingError if it has another version, other images or another frame."""
        state = loaded_state.get("_extra_state")
        checkpoint_state.check_version(state)
        checkpoint_state.check_identity(state["scene"], self.model.normalized)  # type: ignore[index]
        super().load_pipeline(loaded_state, step)

    def clear_cache(self) -> None:
        """Drop caches that are not in checkpoints, so that a resumed run continues exactly as this one."""
        self.model.clear_cache()
        if self.depth_supervision is not None:
            self.depth_supervision.clear_cache()

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Callbacks of the model; Nerfstudio calls this once, after loading a checkpoint and before the first step."""
        trainer = training_callback_attributes.trainer
        if trainer is not None:
            self.datamanager.read_all_images()
            nerfstudio_patches.save_checkpoints_atomically(trainer, on_saved=self.clear_cache)
            nerfstudio_patches.count_total_steps(trainer, self.LENGTH_FLAG)
            if self._resume_state is not None:
                self._restore_run(self._resume_state)
        return super().get_training_callbacks(training_callback_attributes)

    def _restore_run(self, state: dict[str, Any]) -> None:
        checkpoint_state.restore_state(state, self.model, self.datamanager)
        if self.depth_supervision is not None and state.get("depth_seed") is not None:
            self.depth_supervision.seed = state["depth_seed"]
