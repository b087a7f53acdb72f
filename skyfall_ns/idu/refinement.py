"""Refinement of an episode: missing views, batch by batch; each image is written as soon as it is refined."""

import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.refiners.base import Refiner, RefinerConfig
from skyfall_ns.refiners.model_loading import empty_cache
from skyfall_ns.refiners.options import FLAG


@dataclass(frozen=True)
class RefineReport:
    """Result of one call of `refine_episode`."""

    refined_count: int
    """Number of images that were written."""
    kept_count: int
    """Number of these that are renders, because the output of the refiner had NaN or infinity."""
    seconds: float
    peak_memory_bytes: int | None
    """Of the accelerator, or of the whole process on a CPU; None where the system does not report it."""


def refine_episode(
    store: EpisodeStore, config: RefinerConfig, device: torch.device, progress: bool = True
) -> RefineReport:
    """Refine the views without a refined image; the refiner is loaded only if there are any.

    Raises TrainingError if renders are missing, or if the device has too little memory for one view."""
    store.set_refiner(config.identity(store.path), config.generative)
    missing = store.missing_refined()
    if not missing:
        return RefineReport(0, 0, 0.0, None)
    _check_renders_complete(store)
    start, refined_count, kept_count, peak = time.perf_counter(), 0, 0, None
    _reset_peak_memory(device)
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(missing), desc="Refining", unit="view", leave=False, file=sys.stderr,
                 disable=None if progress else True)
        )  # fmt: skip
        refine = _load_refiner(stack, config, device, store)
        batch, batch_start = max(config.batch, 1), start
        while missing:
            names = missing[:batch]
            images = _refine_batch(refine, store, names)
            if images is None:
                empty_cache(device)
                batch = _halve_batch(len(names))
                continue
            for name, image in zip(names, images, strict=True):
                kept_count += not _write_image(store, name, image)
                refined_count += 1
                bar.update()
            missing = missing[len(names) :]
            peak, now = peak_memory_bytes(device), time.perf_counter()
            store.record_phase("refine", now - batch_start, peak)
            batch_start = now
    return RefineReport(refined_count, kept_count, time.perf_counter() - start, peak)


def peak_memory_bytes(device: torch.device) -> int | None:
    """Peak memory so far in bytes: of the accelerator, or of the whole process on a CPU (None where unknown)."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _load_refiner(stack: ExitStack, config: RefinerConfig, device: torch.device, store: EpisodeStore) -> Refiner:
    try:
        return stack.enter_context(config.load(device, store.path))
    except torch.OutOfMemoryError as error:
        raise _out_of_memory_error() from error


def _refine_batch(refine: Refiner, store: EpisodeStore, names: Sequence[str]) -> list[Tensor] | None:
    """Refined images, or None if memory ran out; the memory of the attempt is free when this returns."""
    try:
        return refine(store.rendered_views(names))
    except torch.OutOfMemoryError:
        return None


def _halve_batch(batch: int) -> int:
    if batch == 1:
        raise _out_of_memory_error()
    warnings.warn(f"Memory ran out with {batch} views per batch; continuing with {batch // 2}.", stacklevel=3)
    return batch // 2


def _write_image(store: EpisodeStore, name: str, image: Tensor) -> bool:
    """Write a refined image; False if its render was written instead (float16 overflows in some models)."""
    is_finite = store.write_refined(name, image)
    if not is_finite:
        warnings.warn(f"The refined image of view {name} has NaN or infinity; its render is kept.", stacklevel=3)
    return is_finite


def _out_of_memory_error() -> TrainingError:
    return TrainingError(
        "The device has too little memory to refine even a single view. "
        f"Pass {FLAG}.offload model or group, {FLAG}.quantize fp8 or nf4, or a smaller "
        "--pipeline.curriculum.size-px."
    )


def _check_renders_complete(store: EpisodeStore) -> None:
    missing = store.missing_renders()
    if missing:
        listed = ", ".join(missing[:5]) + (" and more" if len(missing) > 5 else "")
        raise TrainingError(
            f"{len(missing)} of {len(store.view_names)} renders of {store.path} are missing or damaged: {listed}. "
            "Resume the training, which renders them again, or copy the directory again."
        )


def _reset_peak_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
