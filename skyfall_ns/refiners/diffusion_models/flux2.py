"""Adapter of FLUX.2-klein: patches normalized by batch statistics of the autoencoder; the base model has
classifier-free guidance."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.refiners.diffusion_models.base import Embedding, FlowAdapter, repeat_batch
from skyfall_ns.refiners.flowedit_algorithm import Latents


def empirical_mu(tokens: int, steps: int) -> float:
    """Schedule shift of FLUX.2: linear in tokens at 10 and at 200 steps and linear in steps between them; the value at
    200 steps for more than 4300 tokens (black-forest-labs/flux2, sampling.py)."""
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    slope = (at_200 - at_10) / 190
    return at_200 + slope * (steps - 200)


class Flux2Klein(FlowAdapter):
    """Flux2KleinPipeline; the distilled model ignores guidance."""

    text_parts = ("text_encoder", "tokenizer")

    @staticmethod
    def embed_prompt(pipe: Any, prompt: str, device: torch.device, guided: bool = True) -> Embedding:
        embeds, _ = pipe.encode_prompt(prompt, device=device)
        return {"prompt_embeds": embeds}

    def make_condition(self, prompt: str, guidance: float | None) -> Any:
        return super().make_condition(prompt, None if self.pipe.config.is_distilled else guidance)

    @classmethod
    def schedule_arguments(cls, config: Mapping[str, Any], tokens: int, steps: int) -> dict[str, Any]:
        return {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": empirical_mu(tokens, steps)}

    def predict_velocity(self, z: Latents, sigma: float, text: Embedding, guidance: float) -> Latents:
        transformer = self.pipe.transformer
        b, c, h, w = z.shape
        length = text["prompt_embeds"].shape[1]
        tokens = transformer(
            hidden_states=z.flatten(2).transpose(1, 2).to(transformer.dtype),
            timestep=self._timestep_batch(sigma, z).to(transformer.dtype),
            guidance=None,
            encoder_hidden_states=repeat_batch(text["prompt_embeds"], b),
            txt_ids=self._position_ids(1, 1, length, b),
            img_ids=self._position_ids(h, w, 1, b),
            return_dict=False,
        )[0]
        return tokens.transpose(1, 2).reshape(b, c, h, w)

    def encode_images(self, image: Float[Tensor, "b 3 y x"]) -> Latents:
        vae = self.pipe.vae
        raw = vae.encode((image * 2 - 1).to(self.device, vae.dtype)).latent_dist.mode().float()
        b, c, h, w = raw.shape
        patches = raw.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, c * 4, h // 2, w // 2)
        mean, std = self._batch_norm_statistics()
        return (patches - mean) / std

    def decode_latents(self, z: Latents) -> Float[Tensor, "b 3 y x"]:
        vae = self.pipe.vae
        mean, std = self._batch_norm_statistics()
        b, c, h, w = z.shape
        raw = (z * std + mean).reshape(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, h * 2, w * 2)
        return vae.decode(raw.to(vae.dtype), return_dict=False)[0].float() / 2 + 0.5

    def _batch_norm_statistics(self) -> tuple[Float[Tensor, "1 c 1 1"], Float[Tensor, "1 c 1 1"]]:
        vae = self.pipe.vae
        mean, variance = (
            part.float().to(self.device)[None, :, None, None] for part in (vae.bn.running_mean, vae.bn.running_var)
        )
        return mean, torch.sqrt(variance + vae.config.batch_norm_eps)

    def _position_ids(self, rows: int, cols: int, length: int, batch: int) -> Float[Tensor, "b n 4"]:
        """(image, row, column, word) of each token."""
        axes = [torch.arange(n) for n in (1, rows, cols, length)]
        return torch.cartesian_prod(*axes)[None].expand(batch, -1, -1).to(self.device)
