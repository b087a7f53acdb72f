"""Loading of diffusers pipelines from local files, with quantization and offloading; memory is released at the end."""

import gc
import importlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from skyfall_ns.errors import TrainingError
from skyfall_ns.refiners.options import FLAG, DiffusionOptions
from skyfall_ns.refiners.weights import Weights

_NETWORKS = ("transformer", "vae")


@contextmanager
def load_pipeline(
    weights: Weights,
    excluded: Collection[str],
    options: DiffusionOptions,
    device: torch.device,
    loader: str = "DiffusionPipeline",
) -> Iterator[Any]:
    """Load a pipeline to `device` without the components in `excluded`; `loader`: name of a class of diffusers.

    Raises TrainingError if the device or its memory does not suffice."""
    require_device(options, device)
    with _release_memory_at_end(device):
        with _explain_out_of_memory(options):
            pipe = _read_components(weights, excluded, loader, options)
            if options.quantize == "fp8":
                pipe.transformer.enable_layerwise_casting(
                    storage_dtype=torch.float8_e4m3fn, compute_dtype=getattr(torch, options.dtype)
                )
            _move_to_device(pipe, options, device)
        with _drop_networks_at_end(pipe):
            yield pipe


@contextmanager
def load_text_encoders(
    weights: Weights, text_parts: Collection[str], options: DiffusionOptions, device: torch.device
) -> Iterator[Any]:
    """Load a pipeline with only its text encoders, for encoding prompts."""
    excluded = [name for name in _NETWORKS if name not in text_parts]
    with _release_memory_at_end(device):
        with _explain_out_of_memory(options):
            pipe = _read_components(weights, excluded, "DiffusionPipeline", options)
            pipe.to(device)
        with _drop_networks_at_end(pipe):
            yield pipe


def require_device(options: DiffusionOptions, device: torch.device) -> None:
    """Raise TrainingError for options that need a CUDA device if `device` is none."""
    if device.type == "cuda":
        return
    for name, supported in (("quantize", ("none", "fp8")), ("offload", ("none",))):
        value = getattr(options, name)
        if value not in supported:
            raise TrainingError(
                f"{FLAG}.{name} {value} needs a CUDA device, and this is {device}. Pass {FLAG}.{name} none."
            )


def empty_cache(device: torch.device) -> None:
    """Release unused memory of the GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _read_components(weights: Weights, excluded: Collection[str], loader: str, options: DiffusionOptions) -> Any:
    diffusers = importlib.import_module("diffusers")
    extra: dict[str, Any] = {name: None for name in excluded if name in weights.components}
    if options.quantize == "nf4" and "transformer" not in excluded:
        extra["quantization_config"] = diffusers.PipelineQuantizationConfig(
            quant_backend="bitsandbytes_4bit",
            quant_kwargs={
                "load_in_4bit": True,
                "bnb_4bit_quant_type": "nf4",
                "bnb_4bit_compute_dtype": getattr(torch, options.dtype),
            },
            components_to_quantize=["transformer"],
        )
    pipe = getattr(diffusers, loader).from_pretrained(
        str(weights.directory), dtype=getattr(torch, options.dtype), local_files_only=True, **extra
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _move_to_device(pipe: Any, options: DiffusionOptions, device: torch.device) -> None:
    if options.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif options.offload == "group":
        pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=True)
    else:
        pipe.to(device)


@contextmanager
def _drop_networks_at_end(pipe: Any) -> Iterator[None]:
    """Remove the networks from the pipeline at the end, so that remaining references to it hold no memory."""
    try:
        yield
    finally:
        pipe.remove_all_hooks()
        for name in [name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)]:
            setattr(pipe, name, None)


@contextmanager
def _release_memory_at_end(device: torch.device) -> Iterator[None]:
    try:
        yield
    finally:
        empty_cache(device)


@contextmanager
def _explain_out_of_memory(options: DiffusionOptions) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{options.model} does not fit into the memory of the GPU. "
            f"Pass {FLAG}.offload model or group, {FLAG}.quantize fp8 or nf4, or a smaller {FLAG}.model."
        ) from error
