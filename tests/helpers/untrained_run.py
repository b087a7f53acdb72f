"""A saved run without training steps."""

import copy
from pathlib import Path

import torch

from skyfall_ns.method_configs import skyfall


def save_untrained_run(scene: Path, directory: Path) -> Path:
    """Save a run whose Gaussians are those of the initialization; return its config.yml."""
    config = copy.deepcopy(skyfall.config)
    config.output_dir, config.timestamp, config.experiment_name = directory, "t", "run"
    config.pipeline.datamanager.data = scene
    config.machine.device_type = "cpu"
    config.save_config()
    pipeline = config.pipeline.setup(device="cpu")
    outputs = pipeline.datamanager.train_dataparser_outputs
    outputs.save_dataparser_transform(config.get_base_dir() / "dataparser_transforms.json")
    config.get_checkpoint_dir().mkdir()
    torch.save({"step": 0, "pipeline": pipeline.state_dict()}, config.get_checkpoint_dir() / "step-000000000.ckpt")
    return config.get_base_dir() / "config.yml"
