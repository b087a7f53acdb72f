"""Catalog of diffusion models: license, size and preset options.

Sources: the model cards on huggingface.co; the documentation of diffusers for steps and guidance of plain sampling;
the preset of FLUX.1-dev and the prompts are those of Skyfall-GS (arXiv 2510.15869, its FlowEdit at 9489c5b), the
guidance of SD3 is that of FlowEdit (arXiv 2412.08629). The guidance of the other models is an estimate that has not
been measured on renders of Gaussians. Download sizes count two bytes per parameter, text encoders included; memory is
for bfloat16 at 1024 x 1024 pixels without text encoders.
"""

from dataclasses import dataclass
from typing import Literal

Guidance = Literal["embedded", "classifier-free", "none"]
"""How a model is guided: by an embedded strength, by a second prediction (negative prompt), or not at all."""

SOURCE_PROMPT = (
    "Satellite image of an urban area with modern and older buildings, roads, green spaces. "
    "Some areas appear distorted, with blurring and warping artifacts."
)
TARGET_PROMPT = (
    "Clear satellite image of an urban area with sharp buildings, smooth edges, natural lighting, "
    "and well-defined textures."
)
INSTRUCTION = (
    "Turn this blurred and distorted rendering of a city into a sharp aerial photograph. Keep every building, road and "
    "tree where it is, keep colors and light, and invent nothing that is not there."
)

FLUX1_DEV = "black-forest-labs/FLUX.1-dev"
FLUX2_KLEIN = "black-forest-labs/FLUX.2-klein-4B"
FLUX2_KLEIN_BASE = "black-forest-labs/FLUX.2-klein-base-4B"
Z_IMAGE = "Tongyi-MAI/Z-Image"


@dataclass(frozen=True)
class Preset:
    """Values of options that are not set."""

    steps: int
    source_guidance: float = 1.5
    target_guidance: float = 5.5
    edit_start_sigma: float = 0.64
    """Noise level where editing starts; that of Skyfall-GS at 1024 pixels."""
    edit_end_sigma: float = 0.345
    """Noise level where plain sampling starts; that of Skyfall-GS at 1024 pixels."""
    n_avg: int = 1
    edit_steps: int | None = None
    """Steps of the schedule for editing, for distilled models whose `steps` are too coarse; None: `steps`."""


@dataclass(frozen=True)
class KnownModel:
    """License, size and preset of a model."""

    license: str
    gated: bool
    """Whether the license must be accepted on the model's page before the download."""
    parameters_b: float
    """Parameters of the network that is evaluated at each step, in 1e9."""
    download_gb: float
    memory_gb: float
    preset: Preset


_FLUX_DEV = Preset(steps=28, source_guidance=1.5, target_guidance=5.5)
_KLEIN_BASE = Preset(steps=50, source_guidance=1.5, target_guidance=4.0)
_KLEIN = Preset(steps=4, edit_steps=50)
_SD3 = Preset(steps=50, source_guidance=3.5, target_guidance=13.5)
_Z_IMAGE = Preset(steps=50, source_guidance=0.5, target_guidance=4.0)
_KONTEXT = Preset(steps=28, target_guidance=2.5)
_QWEN_EDIT = Preset(steps=40, target_guidance=4.0)
_DEV_LICENSE = "the FLUX.1 [dev] Non-Commercial License"

KNOWN_MODELS: dict[str, KnownModel] = {
    FLUX1_DEV: KnownModel(_DEV_LICENSE, True, 12, 34, 24, _FLUX_DEV),
    "black-forest-labs/FLUX.1-Krea-dev": KnownModel(_DEV_LICENSE, True, 12, 34, 24, _FLUX_DEV),
    "black-forest-labs/FLUX.1-Kontext-dev": KnownModel(_DEV_LICENSE, True, 12, 34, 24, _KONTEXT),
    "black-forest-labs/FLUX.1-schnell": KnownModel("Apache-2.0", False, 12, 34, 24, Preset(steps=28)),
    FLUX2_KLEIN: KnownModel("Apache-2.0", False, 4, 16, 13, _KLEIN),
    FLUX2_KLEIN_BASE: KnownModel("Apache-2.0", False, 4, 16, 13, _KLEIN_BASE),
    "stabilityai/stable-diffusion-3.5-medium": KnownModel(
        "the Stability AI Community License (free below 1M US$ of revenue)", True, 2.5, 16, 10, _SD3
    ),
    Z_IMAGE: KnownModel("Apache-2.0", False, 6, 20, 16, _Z_IMAGE),
    "Qwen/Qwen-Image-Edit": KnownModel("Apache-2.0", False, 20, 58, 58, _QWEN_EDIT),
    "Qwen/Qwen-Image-Edit-2511": KnownModel("Apache-2.0", False, 20, 58, 58, _QWEN_EDIT),
}

PIPELINE_PRESETS: dict[tuple[str, Guidance], Preset] = {
    ("FluxPipeline", "embedded"): _FLUX_DEV,
    ("FluxPipeline", "none"): Preset(steps=28),
    ("FluxKontextPipeline", "embedded"): _KONTEXT,
    ("StableDiffusion3Pipeline", "classifier-free"): _SD3,
    ("Flux2KleinPipeline", "classifier-free"): _KLEIN_BASE,
    ("Flux2KleinPipeline", "none"): _KLEIN,
    ("ZImagePipeline", "classifier-free"): _Z_IMAGE,
    ("QwenImageEditPipeline", "classifier-free"): _QWEN_EDIT,
    ("QwenImageEditPlusPipeline", "classifier-free"): _QWEN_EDIT,
}
"""Presets of models that are not in `KNOWN_MODELS`, for example local directories, by pipeline class and guidance."""


def preset_for(model: str, family: str, guidance: Guidance) -> Preset:
    """Preset of a known model, or else of its pipeline class and guidance."""
    if model in KNOWN_MODELS:
        return KNOWN_MODELS[model].preset
    return PIPELINE_PRESETS.get((family, guidance), Preset(steps=28))


def model_license(model: str) -> str:
    """Name of a model's license, for messages and manifests."""
    return KNOWN_MODELS[model].license if model in KNOWN_MODELS else "unknown to skyfall-ns"


def models_table() -> str:
    """Markdown table of the known models, for docs/guides/refiners.md."""
    head = ("model", "license", "gated", "parameters, 10⁹", "download, GB", "GPU memory, GB")
    rows = [
        (f"`{name}`", model.license, "yes" if model.gated else "no",
         *(f"{number:g}" for number in (model.parameters_b, model.download_gb, model.memory_gb)))
        for name, model in KNOWN_MODELS.items()
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))
