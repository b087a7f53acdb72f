"""Pipelines lent from local files: number format, quantisation, offload, and all memory back at the end."""

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
def lend_pipeline(
    weights: Weights,
    without: Collection[str],
    options: DiffusionOptions,
    device: torch.device,
    loader: str = "DiffusionPipeline",
) -> Iterator[Any]:
    """The pipeline, ready on `device`, except for components in `without`. `loader` names a class of diffusers."""
    require_device(options, device)
    with _memory_returned(device):
        with _out_of_memory_named(options):
            pipe = _from_disk(weights, without, loader, options)
            if options.quantize == "fp8":
                pipe.transformer.enable_layerwise_casting(
                    storage_dtype=torch.float8_e4m3fn, compute_dtype=getattr(torch, options.dtype)
                )
            _place(pipe, options, device)
        with _emptied_at_end(pipe):
            yield pipe


@contextmanager
def lend_text_encoders(
    weights: Weights, text_parts: Collection[str], options: DiffusionOptions, device: torch.device
) -> Iterator[Any]:
    """The pipeline with nothing but its text encoders, for encoding prompts."""
    without = [name for name in _NETWORKS if name not in text_parts]
    with _memory_returned(device):
        with _out_of_memory_named(options):
            pipe = _from_disk(weights, without, "DiffusionPipeline", options)
            pipe.to(device)
        with _emptied_at_end(pipe):
            yield pipe


def require_device(options: DiffusionOptions, device: torch.device) -> None:
    """TrainingError for options that need a GPU where there is none."""
    if device.type == "cuda":
        return
    for name, works in (("quantize", ("none", "fp8")), ("offload", ("none",))):
        value = getattr(options, name)
        if value not in works:
            raise TrainingError(
                f"{FLAG}.{name} {value} needs a CUDA device, and this is {device}. Pass {FLAG}.{name} none."
            )


def empty_cache(device: torch.device) -> None:
    """Give memory that nothing uses back to the GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _from_disk(weights: Weights, without: Collection[str], loader: str, options: DiffusionOptions) -> Any:
    diffusers = importlib.import_module("diffusers")
    extra: dict[str, Any] = {name: None for name in without if name in weights.components}
    if options.quantize == "nf4" and "transformer" not in without:
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
        str(weights.folder), dtype=getattr(torch, options.dtype), local_files_only=True, **extra
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _place(pipe: Any, options: DiffusionOptions, device: torch.device) -> None:
    if options.offload == "model":
        pipe.enable_model_cpu_offload(device=device)
    elif options.offload == "group":
        pipe.enable_group_offload(onload_device=device, offload_type="leaf_level", use_stream=True)
    else:
        pipe.to(device)


@contextmanager
def _emptied_at_end(pipe: Any) -> Iterator[None]:
    """Networks go away even where somebody still holds the pipeline."""
    try:
        yield
    finally:
        pipe.remove_all_hooks()
        for name in [name for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)]:
            setattr(pipe, name, None)


@contextmanager
def _memory_returned(device: torch.device) -> Iterator[None]:
    try:
        yield
    finally:
        empty_cache(device)


@contextmanager
def _out_of_memory_named(options: DiffusionOptions) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"{options.model} does not fit into the memory of the GPU. "
            f"Pass {FLAG}.offload model or group, {FLAG}.quantize fp8 or nf4, or a smaller {FLAG}.model."
        ) from error
