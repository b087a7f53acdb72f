"""The directory of a run's episodes, RUN/idu: no two runs share it, and a run that resumes in another directory copies
it."""

import shutil
from pathlib import Path

from nerfstudio.engine.trainer import TrainerConfig

from skyfall_ns.errors import TrainingError

EPISODES_DIRECTORY = "idu"


def refuse_existing_episodes(directory: Path) -> None:
    """Raise TrainingError if a run that starts stage 2 would train on the episodes of another run."""
    if directory.exists():
        raise TrainingError(
            f"{directory} contains episodes of an earlier run. Choose another --timestamp, or resume that run with "
            f"--load-dir {directory.with_name('nerfstudio_models')}."
        )


def import_episodes(config: TrainerConfig, directory: Path) -> None:
    """Copy the episodes of the run that is resumed, unless `directory` exists."""
    models = config.load_dir if config.load_checkpoint is None else config.load_checkpoint.parent
    if models is None or directory.exists():
        return
    source = models.resolve().parent / EPISODES_DIRECTORY
    partial = directory.with_name(f".{EPISODES_DIRECTORY}.partial")
    if source.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        partial.rename(directory)
