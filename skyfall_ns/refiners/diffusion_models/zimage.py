"""Z-Image: its time runs from noise to picture, and its network answers with the opposite sign."""

from typing import Any

import torch

from skyfall_ns.refiners.diffusion_models.base import Condition, Embedding, FlowAdapter
from skyfall_ns.refiners.flowedit import Latents


class ZImage(FlowAdapter):
    """ZImagePipeline; guidance 0 is none, and g pushes by g times the difference: others' g - 1."""

    text_parts = ("text_encoder", "tokenizer")

    @staticmethod
    def embed(pipe: Any, prompt: str, device: torch.device) -> Embedding:
        embeds, _ = pipe.encode_prompt(prompt, device=device, do_classifier_free_guidance=False)
        return {"prompt_embeds": embeds[0]}

    @staticmethod
    def uses_negative(guidance: float) -> bool:
        return guidance > 0

    def guide(self, positive: Latents, negative: Latents, guidance: float) -> Latents:
        return positive + guidance * (positive - negative)

    def arguments(self, condition: Condition, batch: int) -> dict[str, Any]:
        given = {name: [part] * batch for name, part in condition.text.items()}
        negative = {f"negative_{name}": [part] * batch for name, part in (condition.negative or {}).items()}
        return {**given, **negative, "guidance_scale": condition.guidance}

    def predict(self, z: Latents, sigma: float, text: Embedding, guidance: float) -> Latents:
        transformer = self.pipe.transformer
        pictures = list(z.to(transformer.dtype)[:, :, None].unbind())
        answers = transformer(pictures, self._times(1 - sigma, z), [text["prompt_embeds"]] * len(z), return_dict=False)[
            0
        ]
        return -torch.stack(list(answers)).squeeze(2)
