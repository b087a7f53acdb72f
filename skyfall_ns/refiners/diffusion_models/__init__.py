"""Adapters from diffusers pipelines to `FlowModel`, by the pipeline class in model_index.json."""

from skyfall_ns.refiners.diffusion_models.base import FlowAdapter
from skyfall_ns.refiners.diffusion_models.flux import Flux1
from skyfall_ns.refiners.diffusion_models.flux2 import Flux2Klein
from skyfall_ns.refiners.diffusion_models.sd3 import StableDiffusion3
from skyfall_ns.refiners.diffusion_models.zimage import ZImage

ADAPTERS: dict[str, type[FlowAdapter]] = {
    "FluxPipeline": Flux1,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "Flux2KleinPipeline": Flux2Klein,
    "ZImagePipeline": ZImage,
}

__all__ = ["ADAPTERS", "FlowAdapter"]
