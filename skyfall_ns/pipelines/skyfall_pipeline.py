"""Stage 1: the host's pipeline with depth supervision, whole checkpoints that a killed run goes on from, and honest
step counts."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from skyfall_ns import nerfstudio_patches
from skyfall_ns.dataparsers.skyfall_datamanager import SkyfallDatamanager, SkyfallDatamanagerConfig
from skyfall_ns.models.skyfall import SkyfallModel, SkyfallModelConfig
from skyfall_ns.pipelines import checkpoint_state
from skyfall_ns.pipelines.depth_supervision import DepthSupervision, DepthSupervisionConfig


@dataclass
class SkyfallPipelineConfig(VanillaPipelineConfig):
    """Satellite images in, splats out."""

    _target: type = field(default_factory=lambda: SkyfallPipeline)
    datamanager: SkyfallDatamanagerConfig = field(default_factory=SkyfallDatamanagerConfig)
    """The scene and its images."""
    model: SkyfallModelConfig = field(default_factory=SkyfallModelConfig)
    """The splats."""
    depth: DepthSupervisionConfig = field(default_factory=DepthSupervisionConfig)
    """Depth supervision from views that no satellite has."""


class SkyfallPipeline(VanillaPipeline):
    """Stage 1 training."""

    LENGTH_FLAG: ClassVar[str] = "--max-num-iterations"  # what makes runs longer
    config: SkyfallPipelineConfig
    datamanager: SkyfallDatamanager
    model: SkyfallModel
    depth: DepthSupervision | None = None  # a plain object: neither a module nor in checkpoints
    _stopped: dict[str, Any] | None = None  # what a loaded checkpoint says of its run

    def __init__(self, config: SkyfallPipelineConfig, device: str, test_mode: str = "val", **kwargs: Any) -> None:
        """Raises MissingExtraError or TrainingError if depth supervision lacks something; only training ("val", as the
        host calls it) asks for it."""
        super().__init__(config, device, test_mode, **kwargs)  # type: ignore[arg-type]
        if test_mode == "val":
            self.depth = DepthSupervision.of(config.depth, self.model.on_model, seed=torch.initial_seed() % 2**32)
            if config.depth.prior == "auto" and config.depth.weight > 0 and self.depth is None:
                CONSOLE.log("The scene has no dense surface: training goes without depth supervision.")

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """The training view's losses, and at some steps the depth loss of a pseudo view."""
        outputs, losses, metrics = super().get_train_loss_dict(step)
        return outputs, losses | self.depth_losses(step), metrics

    def depth_losses(self, step: int) -> dict[str, Tensor]:
        """The loss of a pseudo view at steps that have one."""
        return {} if self.depth is None else self.depth.losses(self.model, step)

    def get_extra_state(self) -> dict[str, Any]:
        """For checkpoints: whose splats these are, and the state of the run."""
        run = checkpoint_state.captured(self.model, self.datamanager)
        run["depth_seed"] = None if self.depth is None else self.depth.seed
        return {"scene": checkpoint_state.identity(self.model.on_model), "run": run}

    def set_extra_state(self, state: dict[str, Any] | None) -> None:
        """Remembered until training goes on; runs that are only looked at need none of it."""
        self._stopped = None if state is None else state["run"]

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """As the host's; TrainingError if the checkpoint is of other images or of another place."""
        loaded_state = {"_extra_state": None} | loaded_state  # checkpoints of before say nothing of it
        if loaded_state["_extra_state"] is not None:
            checkpoint_state.check_identity(loaded_state["_extra_state"]["scene"], self.model.on_model)
        super().load_pipeline(loaded_state, step)

    def forget(self) -> None:
        """Drop what is kept between steps but not in checkpoints, so that a run goes on from each as one that starts
        there."""
        for keeper in (self.model.shadows, self.model.smoothing, self.model.neighbors, self.depth):
            if keeper is not None:
                keeper.forget()

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """The model's callbacks; called once, when a checkpoint has been loaded and before the first step."""
        trainer = training_callback_attributes.trainer
        if trainer is not None:
            self.datamanager.read_all()
            nerfstudio_patches.save_whole_checkpoints(trainer, then=self.forget)
            nerfstudio_patches.count_all_steps(trainer, self.LENGTH_FLAG)
            if self._stopped is not None:
                checkpoint_state.restore(self._stopped, self.model, self.datamanager)
                if self.depth is not None and self._stopped.get("depth_seed") is not None:
                    self.depth.seed = self._stopped["depth_seed"]
        return super().get_training_callbacks(training_callback_attributes)
