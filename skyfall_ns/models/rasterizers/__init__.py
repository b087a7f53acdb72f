"""Gaussian rasterizers behind one call: gsplat on CUDA, Numba kernels on the CPU."""

import torch

from skyfall_ns.models.rasterizers.types import Gaussians, Rasterizer, Rendering

__all__ = ["Gaussians", "Rasterizer", "Rendering", "pick_rasterizer", "prepare_rasterizer"]


def pick_rasterizer(device: torch.device | str) -> Rasterizer:
    """The rasterizer of a device: gsplat for CUDA, the Numba kernels for the CPU."""
    if torch.device(device).type == "cuda":
        from skyfall_ns.models.rasterizers.gsplat_cuda import GsplatRasterizer

        return GsplatRasterizer()
    from skyfall_ns.models.rasterizers.cpu import CpuRasterizer

    return CpuRasterizer()


def prepare_rasterizer(device: torch.device | str) -> None:
    """Make the rasterizer of a device ready: on CUDA, gsplat's code is loaded, or compiled at the first time.

    Raises MissingExtraError if a compiler is missing, TrainingError if the compilation fails."""
    if torch.device(device).type == "cuda":
        from skyfall_ns.models.rasterizers.cuda_toolkit import load_gsplat

        load_gsplat()
