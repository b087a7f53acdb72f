"""A pretended CUDA device: tensors that compute on the CPU and say that they are on a GPU.

An operation on tensors of both devices raises, as torch does with a GPU: tensors without dimensions may be mixed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from skyfall_ns.models.rasterizers import Gaussians, Rendering
from skyfall_ns.models.rasterizers.cpu import CpuRasterizer
from skyfall_ns.view import View

GPU = torch.device("cuda", 0)


class PretendedTensor(torch.Tensor):
    """A tensor of the pretended GPU; `values` are its values on the CPU."""

    values: torch.Tensor

    @staticmethod
    def __new__(cls, values: torch.Tensor, requires_grad: bool = False):
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), storage_offset=values.storage_offset(), dtype=values.dtype,
            device="meta", requires_grad=requires_grad,
        )  # fmt: skip
        tensor.values = values
        return tensor

    device = property(lambda self: GPU)
    is_cuda = property(lambda self: True)
    is_meta = property(lambda self: False)
    is_cpu = property(lambda self: False)

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
        """As torch does it, on the device of this tensor; torch's own makes it on the CPU for such a class."""
        return PretendedTensor(torch.tensor(data, dtype=dtype or self.dtype), requires_grad)

    def __repr__(self, *, tensor_contents=None) -> str:
        return f"PretendedTensor({self.values})"

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def compute(func, args, kwargs):
    """Compute on the CPU; the result is on the pretended GPU if the arguments are, or if it is requested there."""
    device = kwargs.get("device")
    flat, spec = tree_flatten((args, kwargs))
    on_gpu = [isinstance(value, PretendedTensor) for value in flat]
    if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
        source_on_gpu = isinstance(args[0], PretendedTensor)
        to_gpu = source_on_gpu if device is None else torch.device(device).type in ("cuda", "meta")
    else:
        mixed = [value for value in flat if type(value) is torch.Tensor or type(value) is torch.nn.Parameter]
        if any(on_gpu) and any(value.dim() > 0 for value in mixed):
            raise RuntimeError(f"{func} has arguments on the GPU and on the CPU")
        to_gpu = any(on_gpu) if device is None else torch.device(device).type in ("cuda", "meta")
    plain = [value.values if isinstance(value, PretendedTensor) else value for value in flat]
    plain_args, plain_kwargs = tree_unflatten(plain, spec)
    if device is not None:
        plain_kwargs = plain_kwargs | {"device": torch.device("cpu")}
    result = func(*plain_args, **plain_kwargs)
    in_place = func._schema.name.endswith("_") or "out" in kwargs
    if in_place:
        target = kwargs.get("out", args[0] if args else None)
        return target
    if not to_gpu:
        return result
    return tree_map(lambda value: PretendedTensor(value) if type(value) is torch.Tensor else value, result)


class _PretendedMode(TorchDispatchMode):
    """Intercepts operations on plain tensors, so that results that are requested on the GPU are there."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


@contextmanager
def pretended_gpu() -> Iterator[torch.device]:
    """Context with a pretended GPU, on which gsplat is replaced; yields its device."""
    rasterizers = "skyfall_ns.models.rasterizers.gsplat_cuda.GsplatRasterizer"
    with (
        patch("torch.cuda._lazy_init", lambda: None),
        patch("torch.cuda.get_rng_state", lambda device=None: torch.get_rng_state()),
        patch("torch.cuda.set_rng_state", lambda state, device=None: None),
        patch(rasterizers, PretendedRasterizer),
        _PretendedMode(),
    ):
        yield GPU


class PretendedRasterizer:
    """In place of gsplat on the pretended GPU: refuses inputs that are not there, and rasterizes on the CPU."""

    def __call__(self, gaussians: Gaussians, colors: torch.Tensor, view: View, *, absgrad: bool = False) -> Rendering:
        inputs = [gaussians.means, gaussians.quats, gaussians.scales, gaussians.opacities, colors]
        if not all(isinstance(value, PretendedTensor) for value in inputs):
            raise RuntimeError("the rasterizer has inputs on the CPU")
        *shapes, colors = (value.cpu() for value in inputs)
        rendering = CpuRasterizer()(Gaussians(*shapes), colors, view, absgrad=absgrad)
        info = dict(rendering.info)
        info["radii"] = info["radii"].to(GPU)
        info["means2d"] = _Probe(info["means2d"])
        return Rendering(*(image.to(GPU) for image in (rendering.color, rendering.depth, rendering.alpha)), info)


class _Probe:
    """Image positions whose gradients are on the pretended GPU."""

    def __init__(self, positions: torch.Tensor) -> None:
        self._positions = positions

    grad = property(lambda self: self._positions.grad.to(GPU))
    absgrad = property(lambda self: self._positions.absgrad.to(GPU))

    def retain_grad(self) -> None:
        """Keep the gradients of the backward pass."""
        self._positions.retain_grad()
