"""FLUX.2-klein: patches normalised by the autoencoder's batch statistics; the base model has true guidance."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.refiners.diffusion_models.base import Embedding, FlowAdapter, repeated
from skyfall_ns.refiners.flowedit import Latents


def empirical_mu(tokens: int, steps: int) -> float:
    """FLUX.2's shift of the schedule: a line in tokens at 10 steps, one at 200, between them in steps, and the latter
    alone for large pictures (black-forest-labs/flux2, sampling.py)."""
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    slope = (at_200 - at_10) / 190
    return at_200 + slope * (steps - 200)


class Flux2Klein(FlowAdapter):
    """Flux2KleinPipeline; a distilled one ignores guidance."""

    text_parts = ("text_encoder", "tokenizer")

    @staticmethod
    def embed(pipe: Any, prompt: str, device: torch.device) -> Embedding:
        embeds, _ = pipe.encode_prompt(prompt, device=device)
        return {"prompt_embeds": embeds}

    def condition(self, prompt: str, guidance: float | None) -> Any:
        return super().condition(prompt, None if self.pipe.config.is_distilled else guidance)

    @classmethod
    def schedule(cls, config: Mapping[str, Any], tokens: int, steps: int) -> dict[str, Any]:
        return {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": empirical_mu(tokens, steps)}

    def predict(self, z: Latents, sigma: float, text: Embedding, guidance: float) -> Latents:
        transformer = self.pipe.transformer
        b, c, h, w = z.shape
        length = text["prompt_embeds"].shape[1]
        tokens = transformer(
            hidden_states=z.flatten(2).transpose(1, 2).to(transformer.dtype),
            timestep=self._times(sigma, z).to(transformer.dtype),
            guidance=None,
            encoder_hidden_states=repeated(text["prompt_embeds"], b),
            txt_ids=self._positions(1, 1, length, b),
            img_ids=self._positions(h, w, 1, b),
            return_dict=False,
        )[0]
        return tokens.transpose(1, 2).reshape(b, c, h, w)

    def encode(self, image: Float[Tensor, "b 3 y x"]) -> Latents:
        vae = self.pipe.vae
        raw = vae.encode((image * 2 - 1).to(self.device, vae.dtype)).latent_dist.mode().float()
        b, c, h, w = raw.shape
        patches = raw.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(b, c * 4, h // 2, w // 2)
        mean, std = self._statistics()
        return (patches - mean) / std

    def decode(self, z: Latents) -> Float[Tensor, "b 3 y x"]:
        vae = self.pipe.vae
        mean, std = self._statistics()
        b, c, h, w = z.shape
        raw = (z * std + mean).reshape(b, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(b, c // 4, h * 2, w * 2)
        return vae.decode(raw.to(vae.dtype), return_dict=False)[0].float() / 2 + 0.5

    def _statistics(self) -> tuple[Float[Tensor, "1 c 1 1"], Float[Tensor, "1 c 1 1"]]:
        vae = self.pipe.vae
        mean, variance = (
            part.float().to(self.device)[None, :, None, None] for part in (vae.bn.running_mean, vae.bn.running_var)
        )
        return mean, torch.sqrt(variance + vae.config.batch_norm_eps)

    def _positions(self, rows: int, cols: int, length: int, batch: int) -> Float[Tensor, "b n 4"]:
        """(picture, row, column, word) of each token."""
        axes = [torch.arange(n) for n in (1, rows, cols, length)]
        return torch.cartesian_prod(*axes)[None].expand(batch, -1, -1).to(self.device)
