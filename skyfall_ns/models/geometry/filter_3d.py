"""The 3D smoothing filter of Mip-Splatting, per camera: no Gaussian is thinner than what some image could resolve.

For each Gaussian the finest sampling distance over the cameras that see it is taken, each *of the same camera*
(z / f for a pinhole, the GSD for a satellite view); the reference mixes the nearest depth of one camera with the
longest focal length of another, which switches its filter off. The radius is sqrt(0.2) * distance (Mip-Splatting).
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.rasterizers.types import ViewLike

VARIANCE = 0.2  # Mip-Splatting
EVERY = 100  # steps after which radii are computed anew (Mip-Splatting)
BORDER = 0.15  # share of the image added at each side when asking whether a Gaussian is seen


def sampling_distance(
    means: Float[Tensor, "n 3"],
    camera_from_model: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    width: int,
    height: int,
    projection: str,
    near: float = 0.01,
) -> Float[Tensor, "n"]:
    """Model units per pixel at each mean in one view, infinite where the view does not see it."""
    camera, k = camera_from_model.to(means), intrinsics.to(means)
    xyz = means @ camera[:3, :3].T + camera[:3, 3]
    z = xyz[:, 2]
    if projection == "parallel":
        plane = xyz[:, :2]
        rows = k[:2, :2] @ camera[:2, :3]
        per_px = means.new_ones(means.shape[0]) / torch.linalg.svdvals(rows).max()
    else:
        plane = xyz[:, :2] / z.clamp_min(near)[:, None]
        per_px = z / torch.maximum(k[0, 0], k[1, 1])
    pixel = plane @ k[:2, :2].T + k[:2, 2]
    size = means.new_tensor([width, height])
    inside = ((pixel > -BORDER * size) & (pixel < (1 + BORDER) * size)).all(-1) & (z > near)
    return torch.where(inside, per_px, torch.full_like(per_px, torch.inf))


def smoothing_radius(distances: Iterable[Float[Tensor, "n"]]) -> Float[Tensor, "n"]:
    """Filter radius per Gaussian from its sampling distance in every view; the unseen get the largest of the seen."""
    finest: Tensor | None = None
    for distance in distances:
        finest = distance if finest is None else torch.minimum(finest, distance)
    if finest is None:
        raise ValueError("no view")
    seen = torch.isfinite(finest)
    largest = finest[seen].max() if seen.any() else finest.new_zeros(())
    return VARIANCE**0.5 * torch.where(seen, finest, largest)


def apply_filter(
    scales: Float[Tensor, "n 3"], opacities: Float[Tensor, "n"], radius: Float[Tensor, "n"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
    """Scales widened to sqrt(s^2 + r^2) and opacities lowered by the ratio of volumes (Mip-Splatting, equation 9)."""
    variance = scales.square() + radius.square()[:, None]
    wider = variance.sqrt()
    return wider, opacities * (scales / wider).prod(-1)


class SmoothingFilter:
    """Radii for the training views, kept until splats come, go or move to other places, or EVERY steps have passed; not
    part of a checkpoint, because the views tell them again."""

    def __init__(self, views: Sequence[ViewLike]) -> None:
        self._views = views
        self._means: Tensor | None = None
        self._step, self._radius = 0, torch.zeros(0)

    def forget(self) -> None:
        """Compute radii anew when next asked: the splats are others now."""
        self._means = None

    @torch.no_grad()
    def radius(self, means: Float[Tensor, "n 3"], step: int) -> Float[Tensor, " n"]:
        """Filter radius of each splat. `means` is the model's parameter itself: strategies replace it when they change
        which splats there are, even if their number stays."""
        fresh = self._means is means and 0 <= step - self._step < EVERY and self._radius.device == means.device
        if not fresh:
            distances = (
                sampling_distance(means, v.camera_from_model, v.intrinsics, v.width, v.height, v.projection)
                for v in self._views
            )
            self._means, self._step, self._radius = means, step, smoothing_radius(distances)
        return self._radius
