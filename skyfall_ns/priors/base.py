"""The depth prior protocol: a rendered image and its camera in, a depth image out."""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from skyfall_ns.view import View

PredictionKind = Literal["depth", "affine_depth", "affine_disparity", "metric"]


def horizontal_fov_deg(view: View) -> float:
    """Horizontal field of view of a pinhole, degrees; an input of some monocular models."""
    return math.degrees(2 * math.atan(view.width / (2 * float(view.intrinsics[0, 0]))))


@dataclass(frozen=True)
class DepthPrediction:
    """The prediction of a prior."""

    values: Float[Tensor, "h w"]
    """Depth or disparity, as `kind` says; any value where invalid."""
    valid: Bool[Tensor, "h w"]
    """Pixels that are supervised."""
    kind: PredictionKind
    """`depth`, `metric`: depth along the optical axis; `affine_depth`: depth up to scale and shift; `affine_disparity`:
    inverse depth up to scale and shift."""


class DepthPrior(Protocol):
    """Predicts depth for one image with values in 0..1."""

    def __call__(self, image: Float[Tensor, "h w 3"], camera: View) -> DepthPrediction: ...


class DepthPriorConfig(Protocol):
    """Configuration of one prior, a frozen dataclass. Nothing is loaded or downloaded before `load`."""

    reads_image: ClassVar[bool]
    """Whether the prior reads the image; for priors that do not, none is rendered."""

    def check(self) -> None:
        """Raise MissingExtraError or TrainingError, with the remedy, if something is missing or an option is out of
        range; called before training starts."""
        ...

    def load(self, device: torch.device) -> AbstractContextManager[DepthPrior]:
        """Load the prior for the duration of the context, which releases its memory at the end."""
        ...


def comparable_depth(depth: Float[Tensor, "h w"], kind: PredictionKind) -> Float[Tensor, "h w"]:
    """Rendered depth in a form that is linear in the values of `target_depth`: -1 / depth for affine disparity."""
    return -1.0 / depth.clamp_min(1e-6) if kind == "affine_disparity" else depth


def target_depth(prediction: DepthPrediction) -> Float[Tensor, "h w"]:
    """Values of a prediction with the sign that makes larger values farther away."""
    return -prediction.values if prediction.kind == "affine_disparity" else prediction.values
