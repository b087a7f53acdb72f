"""The depth prior protocol: a rendered picture and its camera in, a depth image out."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

PredictionKind = Literal["depth", "affine_depth", "affine_disparity", "metric"]


@dataclass(frozen=True)
class PriorCamera:
    """A pinhole in model space: OpenCV axes (x right, y down, z forward), pixel centres at +0.5."""

    camera_from_model: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    width: int
    height: int

    @property
    def fov_x_deg(self) -> float:
        """The true horizontal field of view; monocular models need it."""
        return math.degrees(2 * math.atan(self.width / (2 * float(self.intrinsics[0, 0]))))


@dataclass(frozen=True)
class DepthPrediction:
    """What a prior says. `depth`/`metric`: distance along the optical axis; `affine_depth`: up to scale and shift;
    `affine_disparity`: inverse depth up to scale and shift."""

    values: Float[Tensor, "h w"]
    valid: Bool[Tensor, "h w"]
    kind: PredictionKind


class DepthPrior(Protocol):
    """Predicts depth for one picture with values in 0..1."""

    def __call__(self, image: Float[Tensor, "h w 3"], camera: PriorCamera) -> DepthPrediction: ...


class DepthPriorConfig(Protocol):
    """A choice of prior: `check` names what is missing before training starts, `load` lends the prior. Priors that do
    not read the picture are not drawn one."""

    reads_picture: ClassVar[bool]

    def check(self) -> None: ...

    def load(self, device: torch.device) -> AbstractContextManager[DepthPrior]: ...


def comparable(depth: Float[Tensor, "h w"], kind: PredictionKind) -> Float[Tensor, "h w"]:
    """Rendered depth in the form that grows linearly with the prior's values turned to 'larger is farther'.

    For affine disparity that is -1 / depth, to be compared with -values (see `as_target`)."""
    return -1.0 / depth.clamp_min(1e-6) if kind == "affine_disparity" else depth


def as_target(prediction: DepthPrediction) -> Float[Tensor, "h w"]:
    """The prediction with larger values farther away."""
    return -prediction.values if prediction.kind == "affine_disparity" else prediction.values


@contextmanager
def lend(prior: DepthPrior) -> Iterator[DepthPrior]:
    """A prior that needs no memory to be given back."""
    yield prior
