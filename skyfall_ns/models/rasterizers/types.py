"""What goes into a rasterizer and what comes out, whichever machine draws."""

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from jaxtyping import Float
from torch import Tensor

HALF_LEFT, DEEP_LEFT = 0.5, 0.22  # of the light: where half of it is left, and where a surface has stopped most of it
EPS_2D = 0.1  # pixels² added to every footprint (Skyfall-GS' kernel size)
NEAR, FAR = 0.01, 1e10


@dataclass(frozen=True)
class Gaussians:
    """Splats in model space. Quaternions are wxyz and need not be normalised; scales are lengths, opacities 0..1."""

    means: Float[Tensor, "n 3"]
    quats: Float[Tensor, "n 4"]
    scales: Float[Tensor, "n 3"]
    opacities: Float[Tensor, " n"]


@dataclass(frozen=True)
class Rendering:
    """A picture over nothing: `color` is not divided by alpha, `depth` is (expected depth, 0 where alpha is 0).

    `layers` are the depths of the Gaussians that bring the transmittance down to HALF_LEFT and to DEEP_LEFT, or of the
    last one (0 where there is none): sharp at edges, without gradients. Only the CPU rasterizer tells them, and only
    where no gradients are wanted.
    `info` holds what gsplat's strategies ask for: means2d [1, n, 2] (with .grad, and .absgrad if asked for, after the
    backward pass), radii [1, n] int32 px, width, height, n_cameras, gaussian_ids."""

    color: Float[Tensor, "h w c"]
    depth: Float[Tensor, "h w"]
    alpha: Float[Tensor, "h w"]
    info: dict[str, Any] = field(default_factory=dict)
    layers: Float[Tensor, "2 h w"] | None = None

    def sharp_depth(self, apart: float, near: float) -> Float[Tensor, "h w"]:
        """Where layers are told: the half depth, or the deep one where it lies more than `apart` behind, because what
        lets a fifth of the light through to another surface is a rim that reaches too far; and the expected depth where
        it lies within `near` of that, because it is the smoothest (measured: docs/stage1.md). Else the expected depth.
        """
        if self.layers is None:
            return self.depth
        half, deep = self.layers
        sharp = half.where(deep - half <= apart, deep)
        return self.depth.where((self.depth - sharp).abs() < near, sharp)


class ViewLike(Protocol):
    """A view as rasterizers need it; pixel j spans j..j+1, its centre is j + 0.5.

    "pinhole": OpenCV axes. "parallel": the linear part of `camera_from_model` is any invertible matrix; its first two
    rows give pixels (after the intrinsics), the third a positive depth."""

    @property
    def camera_from_model(self) -> Float[Tensor, "4 4"]: ...
    @property
    def intrinsics(self) -> Float[Tensor, "3 3"]: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def projection(self) -> Literal["pinhole", "parallel"]: ...


class Rasterizer(Protocol):
    """Draws Gaussians with given colours; antialiased, footprints widened by EPS_2D."""

    def __call__(
        self, gaussians: Gaussians, colors: Float[Tensor, "n c"], view: ViewLike, *, absgrad: bool = False
    ) -> Rendering: ...
