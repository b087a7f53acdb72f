"""Trained runs, loaded for exports."""

from pathlib import Path

import torch
import yaml

from skyfall_ns import host
from skyfall_ns.errors import TrainingError
from skyfall_ns.models.skyfall import SkyfallModel


def load_run(config_path: Path) -> SkyfallModel:
    """The trained model behind a run's config.yml, in evaluation mode.

    Raises TrainingError if the file is not a skyfall run's, or if the run has no checkpoint.
    """
    from nerfstudio.utils.eval_utils import eval_setup

    host.cure()
    config_path = Path(config_path)
    if not config_path.is_file():
        raise TrainingError(f"{config_path} does not exist. Pass the config.yml that ns-train wrote.")
    if not any((config_path.parent / "nerfstudio_models").glob("*.ckpt")):
        raise TrainingError(f"{config_path} belongs to a run without a checkpoint. Train it again, or let it finish.")
    try:
        _, pipeline, _, _ = eval_setup(config_path, test_mode="inference")
    except (yaml.YAMLError, AttributeError, RuntimeError) as error:
        raise TrainingError(
            f"{config_path} cannot be loaded ({error}). Pass the config.yml of a run made by ns-train skyfall."
        ) from error
    if not isinstance(pipeline.model, SkyfallModel):
        raise TrainingError(f"{config_path} is a run of another method. Pass one made by ns-train skyfall.")
    torch.set_grad_enabled(False)
    return pipeline.model
