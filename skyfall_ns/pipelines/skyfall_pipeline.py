"""Stage 1: the host's pipeline with whole checkpoints that a killed run goes on from, and honest step counts."""

from dataclasses import dataclass, field
from typing import Any

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig

from skyfall_ns import host
from skyfall_ns.data.datamanager import SkyfallDatamanager, SkyfallDatamanagerConfig
from skyfall_ns.models.config import SkyfallModelConfig
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.pipelines import resume


@dataclass
class SkyfallPipelineConfig(VanillaPipelineConfig):
    """Satellite images in, splats out."""

    _target: type = field(default_factory=lambda: SkyfallPipeline)
    datamanager: SkyfallDatamanagerConfig = field(default_factory=SkyfallDatamanagerConfig)
    """The scene and its images."""
    model: SkyfallModelConfig = field(default_factory=SkyfallModelConfig)
    """The splats."""


class SkyfallPipeline(VanillaPipeline):
    """Stage 1 training."""

    config: SkyfallPipelineConfig
    datamanager: SkyfallDatamanager
    model: SkyfallModel
    _stopped: dict[str, Any] | None = None  # what a loaded checkpoint says of its run

    def get_extra_state(self) -> dict[str, Any]:
        """For checkpoints: whose splats these are, and the state of the run."""
        return {"scene": resume.identity(self.model.on_model), "run": resume.captured(self.model, self.datamanager)}

    def set_extra_state(self, state: dict[str, Any] | None) -> None:
        """Remembered until training goes on; runs that are only looked at need none of it."""
        self._stopped = None if state is None else state["run"]

    def load_pipeline(self, loaded_state: dict[str, Any], step: int) -> None:
        """As the host's; TrainingError if the checkpoint is of other images or of another place."""
        loaded_state = {"_extra_state": None} | loaded_state  # checkpoints of before say nothing of it
        if loaded_state["_extra_state"] is not None:
            resume.check_identity(loaded_state["_extra_state"]["scene"], self.model.on_model)
        super().load_pipeline(loaded_state, step)

    def forget(self) -> None:
        """Drop what is kept between steps but not in checkpoints, so that a run goes on from each as one that starts
        there."""
        self.model.sunlight.forget()

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """The model's callbacks; called once, when a checkpoint has been loaded and before the first step."""
        trainer = training_callback_attributes.trainer
        if trainer is not None:
            self.datamanager.read_all()
            host.save_whole_checkpoints(trainer, then=self.forget)
            host.count_all_steps(trainer)
            if self._stopped is not None:
                resume.restore(self._stopped, self.model, self.datamanager)
        return super().get_training_callbacks(training_callback_attributes)
