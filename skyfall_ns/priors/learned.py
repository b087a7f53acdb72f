"""Monocular depth models as priors: any `transformers` depth estimator, and MoGe 1 to 3; loaded when lent.

Depth Anything V2 Small is Apache-2.0; its Base and Large are CC-BY-NC. MoGe's code and weights are MIT.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import MissingExtraError
from skyfall_ns.priors.types import DepthPrediction, DepthPrior, PredictionKind, PriorCamera

DtypeName = Literal["float32", "float16", "bfloat16"]


def _require(package: str, install: str) -> None:
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(
            f"The depth prior needs the package {package}, which is not installed. "
            f"Run `{install}`, or choose the prior `surface`, which needs no weights."
        )


def _require_weights(weights: str, filename: str) -> None:
    """Weights are a local file or folder, or already in the hub's cache; nothing is downloaded unasked."""
    if Path(weights).exists():
        return
    hub = importlib.import_module("huggingface_hub")
    if not isinstance(hub.try_to_load_from_cache(weights, filename), str):
        raise MissingExtraError(
            f"The weights {weights} of the depth prior are not on this machine. "
            f"Run `hf download {weights}`, pass a local folder, or choose the prior `surface`, which needs no weights."
        )


@dataclass(frozen=True)
class TransformersPriorConfig:
    """Any model of transformers' AutoModelForDepthEstimation."""

    weights: str = "depth-anything/Depth-Anything-V2-Small-hf"
    """Hub name in the local cache, or a local folder."""
    kind: PredictionKind = "affine_disparity"
    """What the model answers; Depth Anything and DPT answer inverse depth up to scale and shift."""
    dtype: DtypeName = "float32"
    """Number format of the model."""

    def check(self) -> None:
        """Raise MissingExtraError if package or weights are missing."""
        _require("transformers", "pip install 'skyfall-ns[depth]'")
        _require_weights(self.weights, "config.json")

    @contextmanager
    def load(self, device: torch.device) -> Iterator[DepthPrior]:
        self.check()
        transformers = importlib.import_module("transformers")
        dtype = getattr(torch, self.dtype)
        local = {"local_files_only": True}
        processor = transformers.AutoImageProcessor.from_pretrained(self.weights, **local)
        model = transformers.AutoModelForDepthEstimation.from_pretrained(self.weights, torch_dtype=dtype, **local)
        yield _TransformersPrior(processor, model.to(device).eval(), self.kind)


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

    version: Literal["v1", "v2", "v3"] = "v2"
    """Which model family to load."""
    weights: str = "Ruicheng/moge-2-vitl"
    """Hub name in the local cache, or a local file."""
    dtype: DtypeName = "float32"
    """Number format of the model; float16 on CUDA halves its memory."""

    def check(self) -> None:
        """Raise MissingExtraError if package or weights are missing."""
        _require("moge", "pip install git+https://github.com/microsoft/MoGe.git")
        _require_weights(self.weights, "model.pt")

    @contextmanager
    def load(self, device: torch.device) -> Iterator[DepthPrior]:
        self.check()
        module = importlib.import_module(f"moge.model.{self.version}")
        model = module.MoGeModel.from_pretrained(self.weights).to(device).eval()
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
