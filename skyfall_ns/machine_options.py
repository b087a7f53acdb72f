"""The machine that a method trains on: one device, which must be there."""

from dataclasses import dataclass

import torch
from nerfstudio.configs.base_config import MachineConfig

from skyfall_ns.errors import TrainingError


@dataclass
class SingleDeviceConfig(MachineConfig):
    """Nerfstudio's machine options, checked when the command line is read."""

    def __post_init__(self) -> None:
        """TrainingError for several devices or machines, or a device type that this machine lacks."""
        for name in ("num_devices", "num_machines"):
            if getattr(self, name) != 1:
                raise TrainingError(
                    f"--machine.{name.replace('_', '-')} is {getattr(self, name)}, but a scene is trained on one "
                    "device. Leave the flag out, and train several scenes side by side to use several devices, with "
                    "skyfall-batch --shard."
                )
        if self.device_type not in available_device_types():
            raise TrainingError(
                f"--machine.device-type is {self.device_type}, but PyTorch finds no such device here. "
                "Pass --machine.device-type cpu, or install the driver and a PyTorch that supports the device."
            )


def available_device_types() -> tuple[str, ...]:
    """Device types on which PyTorch can compute here."""
    kinds = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    return tuple(kind for kind, available in kinds.items() if available)
