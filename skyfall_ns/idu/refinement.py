"""Refining an episode: what is missing, batch by batch, each image on the disk as soon as it is there."""

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
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.refiners.base import Refiner, RefinerConfig
from skyfall_ns.refiners.model_loading import empty_cache


@dataclass(frozen=True)
class RefineReport:
    """What one call has done."""

    refined: int
    """Images that were made."""
    kept: int
    """Of these, renders that were kept because the answer had numbers that are none."""
    seconds: float
    peak_memory_bytes: int | None
    """Of the accelerator, or of the whole process on a CPU; None where the system does not tell."""


def refine_episode(
    folder: EpisodeFolder,
    config: RefinerConfig,
    device: torch.device,
    progress: bool = True,
    flag: str = "--pipeline.refiner.",
) -> RefineReport:
    """Refine the views that are not refined yet; the refiner is loaded only if there are any.

    Raises TrainingError if renders are missing, or if the memory does not suffice for one view (`flag` begins the names
    of the options that help)."""
    folder.begin_refining(config.identity(folder.path), config.generative)
    missing = folder.missing_refined()
    if not missing:
        return RefineReport(0, 0, 0.0, None)
    _check_renders(folder)
    start, refined, kept, peak = time.perf_counter(), 0, 0, None
    _forget_peak(device)
    with ExitStack() as stack:
        bar = stack.enter_context(
            tqdm(total=len(missing), desc="Refining", unit="view", leave=False, file=sys.stderr,
                 disable=None if progress else True)
        )  # fmt: skip
        refine = _loaded(stack, config, device, folder, flag)
        batch, lap = max(config.batch, 1), start
        while missing:
            names = missing[:batch]
            images = _tried(refine, folder, names)
            if images is None:
                empty_cache(device)
                batch = _halved(len(names), flag)
                continue
            for name, image in zip(names, images, strict=True):
                kept += not _written(folder, name, image)
                refined += 1
                bar.update()
            missing = missing[len(names) :]
            peak, now = peak_memory_bytes(device), time.perf_counter()
            folder.record_phase("refine", now - lap, peak)
            lap = now
    return RefineReport(refined, kept, time.perf_counter() - start, peak)


def peak_memory_bytes(device: torch.device) -> int | None:
    """The most memory in use so far: of the accelerator, or of the whole process on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _loaded(stack: ExitStack, config: RefinerConfig, device: torch.device, folder: EpisodeFolder, flag: str) -> Refiner:
    try:
        return stack.enter_context(config.load(device, folder.path))
    except torch.OutOfMemoryError as error:
        raise _too_large(flag) from error


def _tried(refine: Refiner, folder: EpisodeFolder, names: Sequence[str]) -> list[Tensor] | None:
    """Refined images, None if the memory did not suffice; what the attempt held is free when this returns."""
    try:
        return refine(folder.views(names))
    except torch.OutOfMemoryError:
        return None


def _halved(tried: int, flag: str) -> int:
    if tried == 1:
        raise _too_large(flag)
    warnings.warn(f"Memory ran out with {tried} views at once; going on with {tried // 2}.", stacklevel=3)
    return tried // 2


def _written(folder: EpisodeFolder, name: str, image: Tensor) -> bool:
    """False if the render was kept instead (float16 overflows in some models)."""
    sound = folder.write_refined(name, image)
    if not sound:
        warnings.warn(f"The refined image of view {name} has numbers that are none; its render is kept.", stacklevel=3)
    return sound


def _too_large(flag: str) -> TrainingError:
    return TrainingError(
        "The device has too little memory to refine even a single view. "
        f"Pass {flag}diffusion.offload model or group, {flag}diffusion.quantize fp8 or nf4, or make smaller views by "
        "--pipeline.curriculum.size-px."
    )


def _check_renders(folder: EpisodeFolder) -> None:
    missing = folder.missing_renders()
    if missing:
        listed = ", ".join(missing[:5]) + (" and more" if len(missing) > 5 else "")
        raise TrainingError(
            f"{len(missing)} of {len(folder.names)} renders of {folder.path} are missing or damaged: {listed}. "
            "Go on with the training, which renders them again, or copy the folder again."
        )


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
