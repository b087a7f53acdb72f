"""MoGe of Microsoft as a depth prior; the package index has it as `dlr-moge`. Code and weights are MIT."""

import importlib
import importlib.util
import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.priors.base import DepthPrediction, DepthPrior, horizontal_fov_deg
from skyfall_ns.priors.learned import require_package, require_weights
from skyfall_ns.priors.options import DtypeName, MogeVersion, PriorOptions
from skyfall_ns.scene.model_space import NormalizedScene
from skyfall_ns.view import View

MOGE_WEIGHTS: dict[MogeVersion, str] = {
    "v1": "Ruicheng/moge-vitl",  # Skyfall-GS
    "v2": "Ruicheng/moge-2-vitl",
    "v3": "Ruicheng/moge-3-vitl",
}
WEIGHTS_FILE = "model.pt"


@dataclass(frozen=True)
class MogePriorConfig:
    """MoGe: depth with a validity mask; takes the true field of view as input."""

    reads_image: ClassVar[bool] = True
    version: MogeVersion = "v2"
    """Version of the model."""
    weights: str = MOGE_WEIGHTS["v2"]
    """Hub name in the local cache, a local file, or a directory with a model.pt."""
    dtype: DtypeName = "float32"
    """Number format of the weights, float32 or float16; always float32 on a CPU, where MoGe does not run in float16."""

    @classmethod
    def from_options(cls, options: PriorOptions, normalized: NormalizedScene) -> "MogePriorConfig":
        """The configuration for the options of depth supervision."""
        version = options.moge_version
        return cls(version, options.weights or MOGE_WEIGHTS[version], options.dtype)

    def check(self) -> None:
        """Raise MissingExtraError if package or weights are missing, TrainingError for an unsupported number format or
        version, and for weights that are damaged or of another version."""
        if self.dtype == "bfloat16":
            raise TrainingError("MoGe does not support bfloat16. Pass --pipeline.depth.dtype float16 or float32.")
        require_package("moge", "pip install 'skyfall-ns[depth]'")
        if importlib.util.find_spec(f"moge.model.{self.version}") is None:
            raise TrainingError(
                f"The installed package moge does not have MoGe {self.version}. "
                "Pass --pipeline.depth.moge-version v1 or v2, or install a newer moge."
            )
        if not Path(self.weights).is_file():
            require_weights(self.weights, (WEIGHTS_FILE,))
        self._check_weights_version()

    def _check_weights_version(self) -> None:
        """Raise TrainingError unless the weights are those of `version`: MoGe 1 has no neck, and its encoder is named
        by a text."""
        path = self._weights_path()
        try:
            config = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["model_config"]
            is_v1 = isinstance(config.get("encoder"), str)
        except (OSError, RuntimeError, EOFError, KeyError, TypeError, AttributeError, pickle.UnpicklingError) as error:
            raise TrainingError(
                f"{path} is damaged, or not a checkpoint of MoGe. Download the weights again, or pass other "
                "--pipeline.depth.weights."
            ) from error
        if is_v1 != (self.version == "v1"):
            raise TrainingError(
                f"{path} has weights of MoGe {'1' if is_v1 else '2 or later'}, but the version is {self.version}. "
                f"Pass --pipeline.depth.moge-version {'v1' if is_v1 else 'v2'}, or other --pipeline.depth.weights."
            )

    def _weights_path(self) -> Path:
        """File of the weights; the hub's cache is read, the network never."""
        weights = Path(self.weights)
        if weights.is_dir():
            return weights / WEIGHTS_FILE
        if weights.is_file():
            return weights
        hub = importlib.import_module("huggingface_hub")
        return Path(hub.try_to_load_from_cache(self.weights, WEIGHTS_FILE))

    @contextmanager
    def load(self, device: torch.device) -> Iterator[DepthPrior]:
        self.check()
        module = importlib.import_module(f"moge.model.{self.version}")
        model = module.MoGeModel.from_pretrained(self._weights_path())
        yield _MogePrior(model.to(device, self._supported_dtype(device)).eval())

    def _supported_dtype(self, device: torch.device) -> torch.dtype:
        if self.dtype == "float16" and device.type == "cpu":
            warnings.warn("MoGe does not run in float16 on a CPU; it runs in float32.", stacklevel=3)
            return torch.float32
        return getattr(torch, self.dtype)


@dataclass(frozen=True)
class _MogePrior:
    """A loaded MoGe model; implements `DepthPrior`."""

    model: Any

    @torch.no_grad()
    def __call__(self, image: Float[Tensor, "h w 3"], camera: View) -> DepthPrediction:
        prediction = self.model.infer(
            image.clamp(0, 1).permute(2, 0, 1),
            fov_x=horizontal_fov_deg(camera),
            apply_mask=True,
            use_fp16=False,  # the weights have the requested format; mixed precision would keep both
        )
        depth = prediction["depth"].float()
        valid = torch.isfinite(depth) & (depth > 0)
        return DepthPrediction(torch.where(valid, depth, torch.zeros_like(depth)), valid, "affine_depth")
