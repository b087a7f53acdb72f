"""Monocular depth models as priors: any `transformers` depth estimator, and MoGe 1 to 3; loaded when lent.

Depth Anything V2 Small is Apache-2.0; its Base and Large are CC-BY-NC. MoGe's code and weights are MIT.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.priors.base import DepthPrediction, DepthPrior, PredictionKind, PriorCamera

DtypeName = Literal["float32", "float16", "bfloat16"]
MogeVersion = Literal["v1", "v2", "v3"]

MOGE_WEIGHTS: dict[MogeVersion, str] = {
    "v1": "Ruicheng/moge-vitl",  # Skyfall-GS
    "v2": "Ruicheng/moge-2-vitl",
    "v3": "Ruicheng/moge-3-vitl",
}
DEPTH_ANYTHING = "depth-anything/Depth-Anything-V2-Small-hf"
TRANSFORMERS_FILES = (
    ("config.json",),
    ("preprocessor_config.json", "processor_config.json"),
    ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"),
)
ANSWERS: dict[str, PredictionKind] = {  # what transformers' models answer, by model type; DPT's differ
    "depth_anything": "affine_disparity",
    "depth_pro": "affine_disparity",  # before its own post-processing
    "zoedepth": "metric",
    "glpn": "metric",
}


def _require(package: str, install: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(
            f"The depth prior needs the package {package}, which is not installed. "
            f"Run `{install}`, or choose the prior `surface`, which needs no weights."
        )


def _require_weights(weights: str, *needed: tuple[str, ...]) -> None:
    """Weights are a local folder, or already in the hub's cache; nothing is downloaded unasked. `needed`: names of
    files, of which one each must be there."""
    if all(any(_is_here(weights, name) for name in names) for names in needed):
        return
    raise MissingExtraError(
        f"The weights {weights} of the depth prior are not on this machine, or not whole. "
        f"Run `hf download {weights}`, pass a local copy, or choose the prior `surface`, which needs no weights."
    )


def _is_here(weights: str, name: str) -> bool:
    if Path(weights).is_dir():
        return (Path(weights) / name).is_file()
    hub = importlib.import_module("huggingface_hub")
    try:
        return isinstance(hub.try_to_load_from_cache(weights, name), str)
    except ValueError:  # no name that a hub could know: the path of nothing
        return False


@dataclass(frozen=True)
class TransformersPriorConfig:
    """Any model of transformers' AutoModelForDepthEstimation."""

    reads_picture: ClassVar[bool] = True
    weights: str = DEPTH_ANYTHING
    """Hub name in the local cache, or a local folder."""
    kind: PredictionKind | None = None
    """What the model answers; None: what its type is known to answer."""
    dtype: DtypeName = "float32"
    """Number format of the model."""

    def check(self) -> None:
        """Raise MissingExtraError if package or weights are missing, TrainingError if nobody knows what it answers."""
        _require("transformers", "pip install 'skyfall-ns[depth]'")
        _require_weights(self.weights, *TRANSFORMERS_FILES)
        self.answers()

    def answers(self) -> PredictionKind:
        """The kind of prediction: nearer and farther must not be confused."""
        if self.kind is not None:
            return self.kind
        transformers = importlib.import_module("transformers")
        try:
            config = transformers.AutoConfig.from_pretrained(self.weights, local_files_only=True)
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"{self.weights} holds no model that transformers {transformers.__version__} knows. "
                "Pass other --pipeline.depth.weights."
            ) from error
        if getattr(config, "depth_estimation_type", "relative") == "metric":  # Depth Anything
            return "metric"
        if config.model_type not in ANSWERS:
            raise TrainingError(
                f"{self.weights} is a model of type {config.model_type}, and whether it answers depth or disparity is "
                "not known. Say so with --pipeline.depth.kind."
            )
        return ANSWERS[config.model_type]

    @contextmanager
    def load(self, device: torch.device) -> Iterator[DepthPrior]:
        self.check()
        transformers = importlib.import_module("transformers")
        dtype = getattr(torch, self.dtype)
        local = {"local_files_only": True}
        processor = transformers.AutoImageProcessor.from_pretrained(self.weights, **local)
        model = transformers.AutoModelForDepthEstimation.from_pretrained(self.weights, torch_dtype=dtype, **local)
        yield _TransformersPrior(processor, model.to(device).eval(), self.answers())


@dataclass(frozen=True)
class _TransformersPrior:
    processor: Callable[..., Any]
    model: torch.nn.Module
    kind: PredictionKind

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "h w 3"], camera: PriorCamera) -> DepthPrediction:
        parameter = next(self.model.parameters())
        pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        inputs = self.processor(images=pixels, return_tensors="pt")["pixel_values"].to(parameter)
        values = self.model(pixel_values=inputs).predicted_depth[None].float()
        values = torch.nn.functional.interpolate(values, image.shape[:2], mode="bilinear", align_corners=False)[0, 0]
        values = values.to(image.device)
        return DepthPrediction(values, torch.isfinite(values), self.kind)


@dataclass(frozen=True)
class MogePriorConfig:
    """Microsoft's MoGe: depth with a mask of what it trusts; is told the true field of view."""

    reads_picture: ClassVar[bool] = True
    version: MogeVersion = "v2"
    """Which model family to load."""
    weights: str = MOGE_WEIGHTS["v2"]
    """Hub name in the local cache, a local file, or a folder with a model.pt."""
    dtype: DtypeName = "float32"
    """Number format of the model, float32 or float16; float16 on CUDA halves its memory."""

    def check(self) -> None:
        """Raise MissingExtraError if package or weights are missing, TrainingError for a format MoGe has not."""
        if self.dtype == "bfloat16":
            raise TrainingError("MoGe does not work in bfloat16. Pass --pipeline.depth.dtype float16 or float32.")
        _require("moge", "pip install git+https://github.com/microsoft/MoGe.git")
        if not Path(self.weights).is_file():
            _require_weights(self.weights, ("model.pt",))

    @contextmanager
    def load(self, device: torch.device) -> Iterator[DepthPrior]:
        self.check()
        module = importlib.import_module(f"moge.model.{self.version}")
        weights = Path(self.weights) / "model.pt" if Path(self.weights).is_dir() else self.weights
        model = module.MoGeModel.from_pretrained(weights).to(device).eval()
        yield _MogePrior(model, use_fp16=self.dtype == "float16")


@dataclass(frozen=True)
class _MogePrior:
    model: Any
    use_fp16: bool

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "h w 3"], camera: PriorCamera) -> DepthPrediction:
        answer = self.model.infer(
            image.clamp(0, 1).permute(2, 0, 1), fov_x=camera.fov_x_deg, apply_mask=True, use_fp16=self.use_fp16
        )
        depth = answer["depth"].float()
        valid = torch.isfinite(depth) & (depth > 0)
        return DepthPrediction(torch.where(valid, depth, torch.zeros_like(depth)), valid, "affine_depth")
