"""Adapter of Stable Diffusion 3 and 3.5: latents without packing, classifier-free guidance."""

from collections.abc import Mapping
from typing import Any

import torch

from skyfall_ns.refiners.diffusion_models.base import Embedding, FlowAdapter, linear_mu, repeat_batch
from skyfall_ns.refiners.flowedit_algorithm import Latents


class StableDiffusion3(FlowAdapter):
    """StableDiffusion3Pipeline; the schedule shift is fixed unless the scheduler has `use_dynamic_shifting`."""

    text_parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")

    @staticmethod
    def embed_prompt(pipe: Any, prompt: str, device: torch.device, guided: bool = True) -> Embedding:
        embeds, _, pooled, _ = pipe.encode_prompt(
            prompt, prompt_2=None, prompt_3=None, device=device, do_classifier_free_guidance=False
        )
        return {"prompt_embeds": embeds, "pooled_prompt_embeds": pooled}

    @classmethod
    def schedule_arguments(cls, config: Mapping[str, Any], tokens: int, steps: int) -> dict[str, Any]:
        if not config.get("use_dynamic_shifting"):
            return {"num_inference_steps": steps}
        return {"num_inference_steps": steps, "mu": linear_mu(tokens, {"max_shift": 1.16, **config})}

    def predict_velocity(self, z: Latents, sigma: float, text: Embedding, guidance: float) -> Latents:
        transformer = self.pipe.transformer
        return transformer(
            hidden_states=z.to(transformer.dtype),
            timestep=self._timestep_batch(sigma * self.pipe.scheduler.config.num_train_timesteps, z),
            encoder_hidden_states=repeat_batch(text["prompt_embeds"], len(z)),
            pooled_projections=repeat_batch(text["pooled_prompt_embeds"], len(z)),
            return_dict=False,
        )[0]
