"""Base class of the adapters: prompts, guidance, schedule, and an autoencoder with one shift and one scale."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.refiners.flowedit_algorithm import Latents

Embedding = dict[str, Tensor]
"""One encoded prompt, batch of 1: tensors by argument name of the pipeline."""


@dataclass(frozen=True)
class Condition:
    """A prompt, a negative prompt (None: no classifier-free guidance) and the guidance strength."""

    text: Embedding
    negative: Embedding | None
    guidance: float


def linear_mu(tokens: int, config: Mapping[str, Any]) -> float:
    """Schedule shift of FLUX.1, linear in the number of tokens (black-forest-labs/flux, sampling.py)."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    at_low, at_high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return at_low + (at_high - at_low) * (tokens - low) / (high - low)


class FlowAdapter(ABC):
    """A loaded pipeline as a `FlowModel`, with encoded `prompts`; its text encoders may be missing."""

    text_parts: ClassVar[tuple[str, ...]]
    """Components that are not needed after the prompts have been encoded."""

    def __init__(self, pipe: Any, prompts: Mapping[str, Embedding], negative: str = "") -> None:
        self.pipe = pipe
        self.prompts = prompts
        self.negative = negative
        self.device = torch.device(pipe._execution_device)

    @staticmethod
    @abstractmethod
    def embed_prompt(pipe: Any, prompt: str, device: torch.device, guided: bool = True) -> Embedding:
        """Encode a prompt with the text encoders of the pipeline; `guided`: whether the model has guidance."""

    @abstractmethod
    def predict_velocity(self, z: Latents, sigma: float, text: Embedding, guidance: float) -> Latents:
        """dz/dsigma of the network for one prompt."""

    @staticmethod
    def uses_negative(guidance: float) -> bool:
        """Whether this guidance strength needs a negative prompt (classifier-free guidance)."""
        return guidance > 1

    def apply_guidance(self, positive: Latents, negative: Latents, guidance: float) -> Latents:
        """Combine two predictions by classifier-free guidance."""
        return negative + guidance * (positive - negative)

    def make_condition(self, prompt: str, guidance: float | None) -> Condition:
        """Condition of a prompt; raises KeyError if the prompt was not encoded."""
        strength = 0.0 if guidance is None else guidance
        negative = self._embedding_on_device(self.negative) if self.uses_negative(strength) else None
        return Condition(self._embedding_on_device(prompt), negative, strength)

    def velocity(self, z: Latents, sigma: float, condition: Condition) -> Latents:
        """dz/dsigma with guidance, float32."""
        positive = self.predict_velocity(z, sigma, condition.text, condition.guidance).float()
        if condition.negative is None:
            return positive
        negative = self.predict_velocity(z, sigma, condition.negative, condition.guidance).float()
        return self.apply_guidance(positive, negative, condition.guidance)

    def pipeline_arguments(self, condition: Condition, batch: int) -> dict[str, Any]:
        """A condition as arguments of the diffusers pipeline."""
        positive = {name: repeat_batch(part, batch) for name, part in condition.text.items()}
        negative = {f"negative_{name}": repeat_batch(part, batch) for name, part in (condition.negative or {}).items()}
        return {**positive, **negative, "guidance_scale": condition.guidance}

    def noise_levels(self, size_px: tuple[int, int], steps: int) -> Float[Tensor, "t1"]:
        """Noise levels for images of (height, width), decreasing to 0: steps + 1 values, on the CPU."""
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        tokens = (size_px[0] // 16) * (size_px[1] // 16)
        scheduler.set_timesteps(**self.schedule_arguments(scheduler.config, tokens, steps))
        return scheduler.sigmas.float().cpu()

    @classmethod
    def schedule_arguments(cls, config: Mapping[str, Any], tokens: int, steps: int) -> dict[str, Any]:
        """Arguments of `set_timesteps` of the scheduler."""
        return {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": linear_mu(tokens, config)}

    def encode_images(self, image: Float[Tensor, "b 3 y x"]) -> Latents:
        """Encode images in 0..1 as latents, float32."""
        vae = self.pipe.vae
        moments = vae.encode((image * 2 - 1).to(self.device, vae.dtype)).latent_dist
        return (moments.mode().float() - vae.config.shift_factor) * vae.config.scaling_factor

    def decode_latents(self, z: Latents) -> Float[Tensor, "b 3 y x"]:
        """Decode latents to images, float32, about 0..1."""
        vae = self.pipe.vae
        raw = z / vae.config.scaling_factor + vae.config.shift_factor
        return vae.decode(raw.to(vae.dtype), return_dict=False)[0].float() / 2 + 0.5

    def _embedding_on_device(self, prompt: str) -> Embedding:
        dtype = self.pipe.transformer.dtype
        return {name: part.to(self.device, dtype) for name, part in self.prompts[prompt].items()}

    def _timestep_batch(self, value: float, z: Latents) -> Float[Tensor, "b"]:
        return torch.full((len(z),), value, device=self.device)


def repeat_batch(part: Float[Tensor, "1 ..."], batch: int) -> Float[Tensor, "b ..."]:
    """Repeat a tensor of batch size 1 for every sample of a batch."""
    return part.expand(batch, *part.shape[1:])
