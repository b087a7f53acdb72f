"""Offload of the model and its optimizers to CPU memory while a refiner uses the accelerator."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from nerfstudio.engine.optimizers import Optimizers
from torch import nn


@contextmanager
def offload_to_cpu(model: nn.Module, optimizers: Optimizers) -> Iterator[None]:
    """Keep parameters and optimizer states in CPU memory during the context; does nothing on a CPU."""
    device = next(model.parameters()).device
    if device.type != "cuda":
        yield
        return
    _move_to(model, optimizers, torch.device("cpu"))
    torch.cuda.empty_cache()
    try:
        yield
    finally:
        torch.cuda.empty_cache()
        _move_to(model, optimizers, device)


def _move_to(model: nn.Module, optimizers: Optimizers, device: torch.device) -> None:
    for parameter in model.parameters():
        parameter.data = parameter.data.to(device)
        parameter.grad = None
    for optimizer in optimizers.optimizers.values():
        for state in optimizer.state.values():
            for name, value in state.items():
                if isinstance(value, torch.Tensor) and value.dim() > 0:
                    state[name] = value.to(device)
