"""What the adapters share: prompts, guidance, the schedule, and the autoencoder with one shift and one scale."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.refiners.flowedit import Latents

Embedding = dict[str, Tensor]
"""One encoded prompt, batch of 1: tensors by the name under which the pipeline takes them."""


@dataclass(frozen=True)
class Condition:
    """A prompt, what is guided away from (None: nothing), and how strongly."""

    text: Embedding
    negative: Embedding | None
    guidance: float


def linear_mu(tokens: int, config: Mapping[str, Any]) -> float:
    """FLUX.1's shift of the schedule, linear in the number of tokens (black-forest-labs/flux, sampling.py)."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    at_low, at_high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    return at_low + (at_high - at_low) * (tokens - low) / (high - low)


class FlowAdapter(ABC):
    """A loaded pipeline as a FlowModel. `prompts` are encoded texts; the pipeline may lack its text encoders."""

    text_parts: ClassVar[tuple[str, ...]]
    """Components that are not needed once prompts are encoded."""

    def __init__(self, pipe: Any, prompts: Mapping[str, Embedding], negative: str = "") -> None:
        self.pipe = pipe
        self.prompts = prompts
        self.negative = negative
        self.device = torch.device(pipe._execution_device)

    @staticmethod
    @abstractmethod
    def embed(pipe: Any, prompt: str, device: torch.device) -> Embedding:
        """Encode a text with the pipeline's text encoders."""

    @abstractmethod
    def predict(self, z: Latents, sigma: float, text: Embedding, guidance: float) -> Latents:
        """The network's dz/dsigma for one prompt."""

    @staticmethod
    def uses_negative(guidance: float) -> bool:
        """Whether there is classifier-free guidance at this strength."""
        return guidance > 1

    def guide(self, positive: Latents, negative: Latents, guidance: float) -> Latents:
        """Classifier-free guidance."""
        return negative + guidance * (positive - negative)

    def condition(self, prompt: str, guidance: float | None) -> Condition:
        """KeyError for a prompt that was not encoded."""
        strength = 0.0 if guidance is None else guidance
        negative = self._moved(self.negative) if self.uses_negative(strength) else None
        return Condition(self._moved(prompt), negative, strength)

    def velocity(self, z: Latents, sigma: float, condition: Condition) -> Latents:
        positive = self.predict(z, sigma, condition.text, condition.guidance).float()
        if condition.negative is None:
            return positive
        negative = self.predict(z, sigma, condition.negative, condition.guidance).float()
        return self.guide(positive, negative, condition.guidance)

    def arguments(self, condition: Condition, batch: int) -> dict[str, Any]:
        """A condition as the family's own pipelines take it."""
        given = {name: repeated(part, batch) for name, part in condition.text.items()}
        negative = {f"negative_{name}": repeated(part, batch) for name, part in (condition.negative or {}).items()}
        return {**given, **negative, "guidance_scale": condition.guidance}

    def sigmas(self, size_px: tuple[int, int], steps: int) -> Float[Tensor, "t1"]:
        scheduler = type(self.pipe.scheduler).from_config(self.pipe.scheduler.config)
        tokens = (size_px[0] // 16) * (size_px[1] // 16)
        scheduler.set_timesteps(**self.schedule(scheduler.config, tokens, steps))
        return scheduler.sigmas.float().cpu()

    @classmethod
    def schedule(cls, config: Mapping[str, Any], tokens: int, steps: int) -> dict[str, Any]:
        """Arguments of the scheduler's set_timesteps."""
        return {"sigmas": np.linspace(1.0, 1 / steps, steps), "mu": linear_mu(tokens, config)}

    def encode(self, image: Float[Tensor, "b 3 y x"]) -> Latents:
        vae = self.pipe.vae
        moments = vae.encode((image * 2 - 1).to(self.device, vae.dtype)).latent_dist
        return (moments.mode().float() - vae.config.shift_factor) * vae.config.scaling_factor

    def decode(self, z: Latents) -> Float[Tensor, "b 3 y x"]:
        vae = self.pipe.vae
        raw = z / vae.config.scaling_factor + vae.config.shift_factor
        return vae.decode(raw.to(vae.dtype), return_dict=False)[0].float() / 2 + 0.5

    def _moved(self, prompt: str) -> Embedding:
        dtype = self.pipe.transformer.dtype
        return {name: part.to(self.device, dtype) for name, part in self.prompts[prompt].items()}

    def _times(self, value: float, z: Latents) -> Float[Tensor, "b"]:
        return torch.full((len(z),), value, device=self.device)


def repeated(part: Float[Tensor, "1 ..."], batch: int) -> Float[Tensor, "b ..."]:
    """The same for every sample of a batch."""
    return part.expand(batch, *part.shape[1:])
