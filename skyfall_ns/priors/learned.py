"""Monocular depth models as priors: any depth estimator of `transformers`.

Depth Anything V2 Small is Apache-2.0; its Base and Large are CC-BY-NC.
"""

import importlib
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.priors.base import DepthPrediction, DepthPrior, PredictionKind
from skyfall_ns.priors.options import DtypeName, PriorOptions
from skyfall_ns.scene.model_space import NormalizedScene
from skyfall_ns.view import View

DEPTH_ANYTHING = "depth-anything/Depth-Anything-V2-Small-hf"
TRANSFORMERS_FILES = (
    ("config.json",),
    ("preprocessor_config.json", "processor_config.json"),
    ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"),
)
PREDICTION_KINDS: dict[str, PredictionKind] = {  # of models of transformers, by model type; those of DPT differ
    "depth_anything": "affine_disparity",
    "depth_pro": "affine_disparity",  # before its own post-processing
    "zoedepth": "metric",
    "glpn": "metric",
}


NEEDS_DEPTH = ("prompt_depth_anything",)  # models that complete a depth map and do not predict one from an image


def require_package(package: str, install: str) -> None:
    """Raise MissingExtraError, with the install command, if a package is not installed."""
    if importlib.util.find_spec(package) is None:
        raise MissingExtraError(
            f"The depth prior needs the package {package}, which is not installed. "
            f"Run `{install}`, or choose the prior `surface`, which needs no weights."
        )


def require_weights(weights: str, *needed: tuple[str, ...]) -> None:
    """Raise MissingExtraError unless weights are complete in a local directory or in the hub's cache; nothing is
    downloaded. `needed`: alternative names of each needed file."""
    if all(any(_is_available(weights, name) for name in names) for names in needed):
        return
    raise MissingExtraError(
        f"The weights {weights} of the depth prior are not on this machine, or incomplete. "
        f"Run `hf download {weights}`, pass a local copy, or choose the prior `surface`, which needs no weights."
    )


def _is_available(weights: str, name: str) -> bool:
    """Whether a file of the weights is in the local directory or in the hub's cache."""
    if Path(weights).is_dir():
        return (Path(weights) / name).is_file()
    hub = importlib.import_module("huggingface_hub")
    try:
        return isinstance(hub.try_to_load_from_cache(weights, name), str)
    except ValueError:  # not a valid name on the hub, such as a path that does not exist
        return False


@dataclass(frozen=True)
class TransformersPriorConfig:
    """Any model of AutoModelForDepthEstimation of transformers."""

    reads_image: ClassVar[bool] = True
    weights: str = DEPTH_ANYTHING
    """Hub name in the local cache, or a local directory."""
    kind: PredictionKind | None = None
    """Kind of prediction; None: the kind known for the model type."""
    dtype: DtypeName = "float32"
    """Number format of the model."""

    @classmethod
    def from_options(cls, options: PriorOptions, normalized: NormalizedScene) -> "TransformersPriorConfig":
        """The configuration for the options of depth supervision."""
        return cls(options.weights or DEPTH_ANYTHING, options.kind, options.dtype)

    def check(self) -> None:
        """Raise MissingExtraError if package or weights are missing, TrainingError if the kind of prediction is
        unknown."""
        require_package("transformers", "pip install 'skyfall-ns[depth]'")
        require_weights(self.weights, *TRANSFORMERS_FILES)
        self.prediction_kind()

    def prediction_kind(self) -> PredictionKind:
        """Kind of prediction; raises TrainingError if neither the options nor the model type determine it."""
        transformers = importlib.import_module("transformers")
        try:
            config = transformers.AutoConfig.from_pretrained(self.weights, local_files_only=True)
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"{self.weights} is not a model that transformers {transformers.__version__} supports. "
                "Pass other --pipeline.depth.weights."
            ) from error
        if config.model_type in NEEDS_DEPTH:
            raise TrainingError(
                f"{self.weights} is a model of type {config.model_type}, which needs a depth map as input. "
                "Pass --pipeline.depth.weights of a model that needs an image only."
            )
        if self.kind is not None:
            return self.kind
        if getattr(config, "depth_estimation_type", "relative") == "metric":  # Depth Anything
            return "metric"
        if config.model_type not in PREDICTION_KINDS:
            raise TrainingError(
                f"{self.weights} is a model of type {config.model_type}, for which it is unknown whether it predicts "
                "depth or disparity. Pass --pipeline.depth.kind."
            )
        return PREDICTION_KINDS[config.model_type]

    @contextmanager
    def load(self, device: torch.device) -> Iterator[DepthPrior]:
        self.check()
        transformers = importlib.import_module("transformers")
        dtype = getattr(torch, self.dtype)
        local = {"local_files_only": True}
        processor = transformers.AutoImageProcessor.from_pretrained(self.weights, **local)
        if hasattr(processor, "do_pad"):
            processor.do_pad = False  # ZoeDepth: the prediction covers the padded image
        model = transformers.AutoModelForDepthEstimation.from_pretrained(self.weights, torch_dtype=dtype, **local)
        yield _TransformersPrior(processor, model.to(device).eval(), self.prediction_kind())


@dataclass(frozen=True)
class _TransformersPrior:
    """A loaded model of transformers; implements `DepthPrior`."""

    processor: Callable[..., Any]
    model: torch.nn.Module
    kind: PredictionKind

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "h w 3"], camera: View) -> DepthPrediction:
        parameter = next(self.model.parameters())
        pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        inputs = self.processor(images=pixels, return_tensors="pt")["pixel_values"].to(parameter)
        values = self.model(pixel_values=inputs).predicted_depth[None].float()
        values = torch.nn.functional.interpolate(values, image.shape[:2], mode="bilinear", align_corners=False)[0, 0]
        values = values.to(image.device)
        return DepthPrediction(values, torch.isfinite(values), self.kind)
