"""FLUX.1 (dev, schnell, Krea): two-by-two patches packed into tokens, guidance embedded in the network."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.refiners.diffusion_models.base import Embedding, FlowAdapter, repeated
from skyfall_ns.refiners.flowedit import Latents


def packed(z: Latents) -> Float[Tensor, "b n c4"]:
    """Tokens of two-by-two patches, channels first within a patch."""
    b, c, h, w = z.shape
    return z.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def unpacked(tokens: Float[Tensor, "b n c4"], h: int, w: int) -> Latents:
    """The inverse of `packed`."""
    b, _, c = tokens.shape
    return tokens.reshape(b, h // 2, w // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, h, w)


class Flux1(FlowAdapter):
    """FluxPipeline; schnell ignores guidance."""

    text_parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    @staticmethod
    def embed(pipe: Any, prompt: str, device: torch.device) -> Embedding:
        embeds, pooled, _ = pipe.encode_prompt(prompt, prompt_2=None, device=device)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    @staticmethod
    def uses_negative(guidance: float) -> bool:
        return False

    def predict(self, z: Latents, sigma: float, text: Embedding, guidance: float) -> Latents:
        transformer = self.pipe.transformer
        b, _, h, w = z.shape
        rows, cols = torch.meshgrid(torch.arange(h // 2), torch.arange(w // 2), indexing="ij")
        positions = (
            torch.stack([torch.zeros_like(rows), rows, cols], -1).reshape(-1, 3).to(self.device, transformer.dtype)
        )
        tokens = transformer(
            hidden_states=packed(z).to(transformer.dtype),
            timestep=self._times(sigma, z).to(transformer.dtype),
            guidance=self._times(guidance, z) if transformer.config.guidance_embeds else None,
            pooled_projections=repeated(text["pooled_prompt_embeds"], b),
            encoder_hidden_states=repeated(text["prompt_embeds"], b),
            txt_ids=positions.new_zeros(text["prompt_embeds"].shape[1], 3),
            img_ids=positions,
            return_dict=False,
        )[0]
        return unpacked(tokens, h, w)
