"""Adapter of FLUX.1 (dev, schnell, Krea): patches of 2 x 2 latents as tokens, guidance embedded in the network."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.refiners.diffusion_models.base import Embedding, FlowAdapter, repeat_batch
from skyfall_ns.refiners.flowedit_algorithm import Latents

SCHNELL_TOKENS = 256  # of a prompt, with which FLUX.1-schnell was trained (its model card); the others: 512


def pack_latents(z: Latents) -> Float[Tensor, "b n c4"]:
    """Pack patches of 2 x 2 latents into tokens, channels first within a patch."""
    b, c, h, w = z.shape
    return z.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


def unpack_latents(tokens: Float[Tensor, "b n c4"], h: int, w: int) -> Latents:
    """Inverse of `pack_latents`; `h`, `w`: size of the latents."""
    b, _, c = tokens.shape
    return tokens.reshape(b, h // 2, w // 2, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c // 4, h, w)


class Flux1(FlowAdapter):
    """FluxPipeline; FLUX.1-schnell ignores guidance."""

    text_parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")

    @staticmethod
    def embed_prompt(pipe: Any, prompt: str, device: torch.device, guided: bool = True) -> Embedding:
        tokens = 512 if guided else SCHNELL_TOKENS
        embeds, pooled, _ = pipe.encode_prompt(prompt, prompt_2=None, device=device, max_sequence_length=tokens)
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    @staticmethod
    def uses_negative(guidance: float) -> bool:
        return False

    def predict_velocity(self, z: Latents, sigma: float, text: Embedding, guidance: float) -> Latents:
        transformer = self.pipe.transformer
        b, _, h, w = z.shape
        rows, cols = torch.meshgrid(torch.arange(h // 2), torch.arange(w // 2), indexing="ij")
        positions = (
            torch.stack([torch.zeros_like(rows), rows, cols], -1).reshape(-1, 3).to(self.device, transformer.dtype)
        )
        tokens = transformer(
            hidden_states=pack_latents(z).to(transformer.dtype),
            timestep=self._timestep_batch(sigma, z).to(transformer.dtype),
            guidance=self._timestep_batch(guidance, z) if transformer.config.guidance_embeds else None,
            pooled_projections=repeat_batch(text["pooled_prompt_embeds"], b),
            encoder_hidden_states=repeat_batch(text["prompt_embeds"], b),
            txt_ids=positions.new_zeros(text["prompt_embeds"].shape[1], 3),
            img_ids=positions,
            return_dict=False,
        )[0]
        return unpack_latents(tokens, h, w)
