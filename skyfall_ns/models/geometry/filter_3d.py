"""The 3D smoothing filter of Mip-Splatting, per camera: no Gaussian is thinner than the images can resolve.

For each Gaussian the finest sampling distance over the cameras that see it is taken, each *of the same camera*
(z / f for a pinhole, the GSD for a satellite view). The reference mixes the nearest depth of one camera with the
longest focal length of another, which disables its filter. The radius is sqrt(0.2) * distance (Mip-Splatting).
"""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.view import View

FILTER_VARIANCE = 0.2  # Mip-Splatting
UPDATE_EVERY = 100  # steps between two computations of the radii (Mip-Splatting)
BORDER_FRACTION = 0.15  # margin on each side, relative to the image, within which a Gaussian counts as visible


def sampling_distance(
    means: Float[Tensor, "n 3"],
    camera_from_model: Float[Tensor, "4 4"],
    intrinsics: Float[Tensor, "3 3"],
    width: int,
    height: int,
    projection: str,
    near: float = 0.01,
) -> Float[Tensor, "n"]:
    """Model units per pixel at each mean in one view, infinite where it is not visible."""
    camera, k = camera_from_model.to(means), intrinsics.to(means)
    xyz = means @ camera[:3, :3].T + camera[:3, 3]
    z = xyz[:, 2]
    if projection == "parallel":
        plane = xyz[:, :2]
        linear = k[:2, :2] @ camera[:2, :3]
        units_per_px = means.new_ones(means.shape[0]) / torch.linalg.svdvals(linear).max()
    else:
        plane = xyz[:, :2] / z.clamp_min(near)[:, None]
        units_per_px = z / torch.maximum(k[0, 0], k[1, 1])
    pixel = plane @ k[:2, :2].T + k[:2, 2]
    size = means.new_tensor([width, height])
    inside = ((pixel > -BORDER_FRACTION * size) & (pixel < (1 + BORDER_FRACTION) * size)).all(-1) & (z > near)
    return torch.where(inside, units_per_px, torch.full_like(units_per_px, torch.inf))


def smoothing_radius(distances: Iterable[Float[Tensor, "n"]]) -> Float[Tensor, "n"]:
    """Filter radius per Gaussian from its sampling distances in all views; the largest one for invisible Gaussians."""
    finest: Tensor | None = None
    for distance in distances:
        finest = distance if finest is None else torch.minimum(finest, distance)
    if finest is None:
        raise ValueError("There are no sampling distances. Pass those of at least one view.")
    visible = torch.isfinite(finest)
    largest = finest[visible].max() if visible.any() else finest.new_zeros(())
    return FILTER_VARIANCE**0.5 * torch.where(visible, finest, largest)


def apply_filter(
    scales: Float[Tensor, "n 3"], opacities: Float[Tensor, "n"], radius: Float[Tensor, "n"]
) -> tuple[Float[Tensor, "n 3"], Float[Tensor, "n"]]:
    """Scales widened to sqrt(s^2 + r^2) and opacities lowered by the ratio of volumes (Mip-Splatting, equation 9)."""
    variance = scales.square() + radius.square()[:, None]
    widened = variance.sqrt()
    return widened, opacities * (scales / widened).prod(-1)


class SmoothingFilter:
    """Filter radii for the training views, cached until densification replaces Gaussians or UPDATE_EVERY steps have
    passed; in no checkpoint, because they are computed from the views."""

    def __init__(self, views: Sequence[View]) -> None:
        self._views = views
        self._means: Tensor | None = None
        self._step, self._radius = 0, torch.zeros(0)

    def clear_cache(self) -> None:
        """Drop the radii; they are computed again at the next call."""
        self._means = None

    @torch.no_grad()
    def smoothing_radii(self, means: Float[Tensor, "n 3"], step: int) -> Float[Tensor, " n"]:
        """Filter radius of each Gaussian. `means` must be the model's parameter itself: strategies replace it when they
        change the set of Gaussians, even at a constant number."""
        valid = self._means is means and 0 <= step - self._step < UPDATE_EVERY and self._radius.device == means.device
        if not valid:
            distances = (
                sampling_distance(means, v.camera_from_model, v.intrinsics, v.width, v.height, v.projection)
                for v in self._views
            )
            self._means, self._step, self._radius = means, step, smoothing_radius(distances)
        return self._radius
