"""Inputs and outputs of a rasterizer, for every device."""

from dataclasses import dataclass, field
from typing import Any, Protocol

from jaxtyping import Float
from torch import Tensor

from skyfall_ns.view import View

# transmittances at which depths are recorded: at half of the light, and where a surface has stopped most of it
MEDIAN_T, DEEP_T = 0.5, 0.22
EPS_2D = 0.1  # pixels², added to the covariance of every footprint (Skyfall-GS' kernel size)
NEAR, FAR = 0.01, 1e10


@dataclass(frozen=True)
class Gaussians:
    """Gaussians in model space: quaternions wxyz of any length, scales as lengths, opacities in 0..1."""

    means: Float[Tensor, "n 3"]
    quats: Float[Tensor, "n 4"]
    scales: Float[Tensor, "n 3"]
    opacities: Float[Tensor, " n"]


@dataclass(frozen=True)
class Rendering:
    """A rendered image: `color` is premultiplied by alpha, `depth` is not (expected depth, 0 where alpha is 0).

    `transmittance_depths` are the depths of the Gaussians at which the transmittance falls to MEDIAN_T and to DEEP_T,
    or of the last Gaussian (0 where there is none): sharp at edges, without gradients. The CPU rasterizer alone renders
    them, and only while gradients are disabled.
    `info` holds the inputs of gsplat's strategies: means2d [1, n, 2] (with .grad, and .absgrad if requested, after the
    backward pass), radii [1, n] int32 px, width, height, n_cameras, gaussian_ids."""

    color: Float[Tensor, "h w c"]
    depth: Float[Tensor, "h w"]
    alpha: Float[Tensor, "h w"]
    info: dict[str, Any] = field(default_factory=dict)
    transmittance_depths: Float[Tensor, "2 h w"] | None = None

    def surface_depth(self, max_gap: float, tolerance: float) -> Float[Tensor, "h w"]:
        """Depth of the visible surface.

        The median depth, or the deep one where that lies more than `max_gap` behind: an edge that lets a fifth of the
        light through to another surface reaches too far. Where the expected depth is within `tolerance` of this, it is
        returned instead, because it is smoother (measured: benchmarks/heights.md). Without `transmittance_depths`, the
        expected depth."""
        if self.transmittance_depths is None:
            return self.depth
        median, deep = self.transmittance_depths
        surface = median.where(deep - median <= max_gap, deep)
        return self.depth.where((self.depth - surface).abs() < tolerance, surface)


class Rasterizer(Protocol):
    """Renders Gaussians with given colors; antialiased, footprints widened by EPS_2D."""

    def __call__(
        self, gaussians: Gaussians, colors: Float[Tensor, "n c"], view: View, *, absgrad: bool = False
    ) -> Rendering: ...
