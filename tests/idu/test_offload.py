"""Offload to CPU memory: nothing changes on a CPU; on a GPU everything is moved and restored."""

import pytest
import torch
from nerfstudio.engine.optimizers import Optimizers

from skyfall_ns.idu.offload import offload_to_cpu
from skyfall_ns.nerfstudio_patches import FusedAdamConfig


def train_layer(device: str) -> tuple[torch.nn.Module, Optimizers]:
    """A trained layer and its optimizer with moments."""
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2).to(device)
    optimizers = Optimizers({"all": {"optimizer": FusedAdamConfig(lr=0.1), "scheduler": None}},
                            {"all": list(model.parameters())})  # fmt: skip
    for _ in range(3):
        optimizers.zero_grad_all()
        model(torch.ones(4, 3, device=device)).square().sum().backward()
        optimizers.optimizers["all"].step()
    return model, optimizers


def test_nothing_changes_on_a_cpu():
    model, optimizers = train_layer("cpu")
    pointers = [(p, p.data_ptr(), p.grad) for p in model.parameters()]
    moments = [s["exp_avg"] for s in optimizers.optimizers["all"].state.values()]
    with pytest.raises(KeyError), offload_to_cpu(model, optimizers):
        assert all(p.data_ptr() == pointer and p.grad is grad for p, pointer, grad in pointers)
        raise KeyError
    assert all(p.data_ptr() == pointer and p.grad is grad for p, pointer, grad in pointers)
    states = optimizers.optimizers["all"].state.values()
    assert all(s["exp_avg"] is moment for s, moment in zip(states, moments, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_continues_identically_after_an_offload_on_a_gpu():
    (model, optimizers), (other, others) = train_layer("cuda"), train_layer("cuda")
    with offload_to_cpu(model, optimizers):
        assert all(p.device.type == "cpu" for p in model.parameters())
        assert all(s["exp_avg"].device.type == "cpu" for s in optimizers.optimizers["all"].state.values())
    for layer, optimizer in ((model, optimizers), (other, others)):
        optimizer.zero_grad_all()
        layer(torch.ones(4, 3, device="cuda")).square().sum().backward()
        optimizer.optimizers["all"].step()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
