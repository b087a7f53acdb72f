"""Models that refiners know: licence, size, and the numbers that suit them.

Sources: the models' cards on huggingface.co; diffusers' documentation for steps and guidance of plain sampling;
FLUX.1-dev's numbers and the prompts are Skyfall-GS's (arXiv 2510.15869, its FlowEdit at 9489c5b), SD3's guidance is
FlowEdit's (arXiv 2412.08629). Guidance of the others is a careful guess: nobody has measured it on renders of splats.
Downloads are parameters at two bytes, text encoders included; memory is for bfloat16 at 1024 pixels a side, text
encoders gone.
"""

from dataclasses import dataclass
from typing import Literal

Guidance = Literal["embedded", "classifier-free", "none"]
"""How a model is told to follow a prompt: a number it was trained with, a second prediction, or not at all."""

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
    "tree where it is, keep colours and light, and invent nothing that is not there."
)

FLUX1_DEV = "black-forest-labs/FLUX.1-dev"
FLUX2_KLEIN = "black-forest-labs/FLUX.2-klein-4B"
FLUX2_KLEIN_BASE = "black-forest-labs/FLUX.2-klein-base-4B"
Z_IMAGE = "Tongyi-MAI/Z-Image"


@dataclass(frozen=True)
class Numbers:
    """A preset: what stands where an option says nothing."""

    steps: int
    source_guidance: float = 1.5
    target_guidance: float = 5.5
    edit_start_sigma: float = 0.64
    """Noise level where editing starts; Skyfall-GS's at 1024 pixels."""
    edit_end_sigma: float = 0.345
    """Noise level where plain sampling begins; Skyfall-GS's at 1024 pixels."""
    n_avg: int = 1
    edit_steps: int | None = None
    """Steps where renders are edited, of a model whose few steps are too coarse for that; None: the same."""


@dataclass(frozen=True)
class KnownModel:
    """What to know before fetching a model."""

    licence: str
    gated: bool
    """Whether its page asks to accept the licence first."""
    parameters_b: float
    """Of the network that is evaluated at each step, in 1e9."""
    download_gb: float
    memory_gb: float
    numbers: Numbers


_FLUX_DEV = Numbers(steps=28, source_guidance=1.5, target_guidance=5.5)
_KLEIN_BASE = Numbers(steps=50, source_guidance=1.5, target_guidance=4.0)
_KLEIN = Numbers(steps=4, edit_steps=50)
_SD3 = Numbers(steps=50, source_guidance=3.5, target_guidance=13.5)
_Z_IMAGE = Numbers(steps=50, source_guidance=0.5, target_guidance=4.0)
_KONTEXT = Numbers(steps=28, target_guidance=2.5)
_QWEN_EDIT = Numbers(steps=40, target_guidance=4.0)
_DEV_LICENCE = "the FLUX.1 [dev] Non-Commercial License"

KNOWN: dict[str, KnownModel] = {
    FLUX1_DEV: KnownModel(_DEV_LICENCE, True, 12, 34, 24, _FLUX_DEV),
    "black-forest-labs/FLUX.1-Krea-dev": KnownModel(_DEV_LICENCE, True, 12, 34, 24, _FLUX_DEV),
    "black-forest-labs/FLUX.1-Kontext-dev": KnownModel(_DEV_LICENCE, True, 12, 34, 24, _KONTEXT),
    "black-forest-labs/FLUX.1-schnell": KnownModel("Apache-2.0", False, 12, 34, 24, Numbers(steps=28)),
    FLUX2_KLEIN: KnownModel("Apache-2.0", False, 4, 16, 13, _KLEIN),
    FLUX2_KLEIN_BASE: KnownModel("Apache-2.0", False, 4, 16, 13, _KLEIN_BASE),
    "stabilityai/stable-diffusion-3.5-medium": KnownModel(
        "the Stability AI Community License (free below 1M US$ of revenue)", True, 2.5, 16, 10, _SD3
    ),
    Z_IMAGE: KnownModel("Apache-2.0", False, 6, 20, 16, _Z_IMAGE),
    "Qwen/Qwen-Image-Edit": KnownModel("Apache-2.0", False, 20, 58, 58, _QWEN_EDIT),
    "Qwen/Qwen-Image-Edit-2511": KnownModel("Apache-2.0", False, 20, 58, 58, _QWEN_EDIT),
}

FAMILIES: dict[tuple[str, Guidance], Numbers] = {
    ("FluxPipeline", "embedded"): _FLUX_DEV,
    ("FluxPipeline", "none"): Numbers(steps=28),
    ("FluxKontextPipeline", "embedded"): _KONTEXT,
    ("StableDiffusion3Pipeline", "classifier-free"): _SD3,
    ("Flux2KleinPipeline", "classifier-free"): _KLEIN_BASE,
    ("Flux2KleinPipeline", "none"): _KLEIN,
    ("ZImagePipeline", "classifier-free"): _Z_IMAGE,
    ("QwenImageEditPipeline", "classifier-free"): _QWEN_EDIT,
    ("QwenImageEditPlusPipeline", "classifier-free"): _QWEN_EDIT,
}
"""Numbers for models that are not in KNOWN, a local folder for instance, by pipeline class and kind of guidance."""


def numbers_for(model: str, family: str, guidance: Guidance) -> Numbers:
    """The preset of a model, or else of its family."""
    if model in KNOWN:
        return KNOWN[model].numbers
    return FAMILIES.get((family, guidance), Numbers(steps=28))


def licence_of(model: str) -> str:
    """In words, for messages and manifests."""
    return KNOWN[model].licence if model in KNOWN else "unknown to skyfall-ns"


def models_table() -> str:
    """The known models in Markdown, for docs/stage2.md."""
    head = ("model", "licence", "gated", "parameters, 10⁹", "download, GB", "GPU memory, GB")
    rows = [
        (f"`{name}`", model.licence, "yes" if model.gated else "no",
         *(f"{number:g}" for number in (model.parameters_b, model.download_gb, model.memory_gb)))
        for name, model in KNOWN.items()
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows))
