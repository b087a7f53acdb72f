"""Loading of trained runs, for exports and evaluation."""

import pickle
from pathlib import Path

import torch
from nerfstudio.engine.trainer import TrainerConfig

from skyfall_ns import nerfstudio_patches
from skyfall_ns.errors import TrainingError
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.run_config import newest_checkpoint_step, read_run_config


def find_checkpoint(config_path: Path, step: int | None = None) -> Path:
    """Path of the newest checkpoint of the run of a config.yml, or of that of a step. Raises TrainingError if there is
    none."""
    config_path = Path(config_path)
    if not config_path.is_file():
        raise TrainingError(f"{config_path} does not exist. Pass the config.yml that ns-train wrote.")
    directory = config_path.parent / "nerfstudio_models"
    newest = newest_checkpoint_step(directory)
    if newest is None:
        raise TrainingError(f"{config_path} belongs to a run without a checkpoint. Train it again, or let it finish.")
    checkpoint = directory / f"step-{newest if step is None else step:09d}.ckpt"
    if not checkpoint.is_file():
        steps = ", ".join(str(int(path.stem.removeprefix("step-"))) for path in sorted(directory.glob("step-*.ckpt")))
        raise TrainingError(f"{config_path} has no checkpoint of step {step}. Give one of its steps: {steps}.")
    return checkpoint


def _first_sentence(error: Exception) -> str:
    """First sentence of the message of a library, so that our messages have two sentences."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".") or type(error).__name__


def load_run(config_path: Path, step: int | None = None) -> SkyfallModel:
    """Load the trained model of a run's config.yml, in evaluation mode: of its newest checkpoint, or of that of a step.

    Raises TrainingError if the run is not of a skyfall method, or has no usable checkpoint.
    """
    from nerfstudio.utils.eval_utils import eval_setup

    nerfstudio_patches.apply_patches()
    config_path = Path(config_path)
    find_checkpoint(config_path, step)
    read_run_config(config_path)

    def choose_step(config: TrainerConfig) -> TrainerConfig:
        if step is not None:  # else that of the newest checkpoint, which `read_run_config` has set
            config.load_step = step
        return config

    try:
        _, pipeline, _, _ = eval_setup(config_path, test_mode="inference", update_config_callback=choose_step)
    except (EOFError, KeyError, RuntimeError, pickle.UnpicklingError) as error:
        raise TrainingError(
            f"The checkpoint of {config_path} is damaged ({_first_sentence(error)}). Train the run again."
        ) from error
    if not isinstance(pipeline.model, SkyfallModel):
        raise TrainingError(f"{config_path} is a run of another method. Pass a run of ns-train skyfall.")
    torch.set_grad_enabled(False)
    return pipeline.model
