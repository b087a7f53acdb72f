"""Adapter of Z-Image, whose network takes time 1 - sigma and predicts the velocity with the opposite sign."""

from typing import Any

import torch

from skyfall_ns.refiners.diffusion_models.base import Condition, Embedding, FlowAdapter
from skyfall_ns.refiners.flowedit_algorithm import Latents


class ZImage(FlowAdapter):
    """ZImagePipeline; its guidance g corresponds to 1 + g of the other models, 0 means none."""

    text_parts = ("text_encoder", "tokenizer")

    @staticmethod
    def embed_prompt(pipe: Any, prompt: str, device: torch.device, guided: bool = True) -> Embedding:
        embeds, _ = pipe.encode_prompt(prompt, device=device, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds[0]}

    @staticmethod
    def uses_negative(guidance: float) -> bool:
        return guidance > 0

    def apply_guidance(self, positive: Latents, negative: Latents, guidance: float) -> Latents:
        return positive + guidance * (positive - negative)

    def pipeline_arguments(self, condition: Condition, batch: int) -> dict[str, Any]:
        positive = {name: [part] * batch for name, part in condition.text.items()}
        negative = {f"negative_{name}": [part] * batch for name, part in (condition.negative or {}).items()}
        return {**positive, **negative, "guidance_scale": condition.guidance}

    def predict_velocity(self, z: Latents, sigma: float, text: Embedding, guidance: float) -> Latents:
        transformer = self.pipe.transformer
        samples = list(z.to(transformer.dtype)[:, :, None].unbind())
        embeddings = [text["prompt_embeds"]] * len(z)
        velocities = transformer(samples, self._timestep_batch(1 - sigma, z), embeddings, return_dict=False)[0]
        return -torch.stack(list(velocities)).squeeze(2)
