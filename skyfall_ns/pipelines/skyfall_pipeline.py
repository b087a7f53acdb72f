"""Stage 1: the host's pipeline with whole checkpoints and honest step counts."""

from dataclasses import dataclass, field

from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes
from nerfstudio.pipelines.base_pipeline import VanillaPipeline, VanillaPipelineConfig

from skyfall_ns import host
from skyfall_ns.data.datamanager import SkyfallDatamanagerConfig
from skyfall_ns.models.config import SkyfallModelConfig


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

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """The model's callbacks; called once, when a checkpoint has been loaded and before the first step."""
        trainer = training_callback_attributes.trainer
        if trainer is not None:
            host.save_whole_checkpoints(trainer)
            host.count_all_steps(trainer)
        return super().get_training_callbacks(training_callback_attributes)
