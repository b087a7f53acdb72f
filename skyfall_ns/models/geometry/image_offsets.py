"""Pose that is left to learn: a shift in pixels per image, on top of what the bundle adjustment found.

Over a scene's kilometre all that a satellite's pointing error does to an RPC is such a shift. What a translation of the
whole scene would do as well is taken out of the shifts: images cannot tell it, and the scene is already where it
belongs. (With only the shifts' mean fixed, heights of a synthetic city drifted by 0.3 m in 160 steps.)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skyfall_ns.models.geometry.view import View


class ImageShift(nn.Module):
    """Two numbers per training image: (col, row) by which the scene appears elsewhere than its camera says."""

    _free: Tensor  # [2 m, 2 m]: takes translations of the scene out

    def __init__(self, views: Sequence[View]) -> None:
        super().__init__()
        self.pixels = nn.Parameter(torch.zeros(len(views), 2))
        translations = torch.linalg.svd(torch.cat([v.camera_from_model[:2, :3] for v in views]), full_matrices=False).U
        free = torch.eye(2 * len(views)) - (translations @ translations.T).float()
        self.register_buffer("_free", free, persistent=False)  # the views tell it again

    def forward(self, image: int) -> Float[Tensor, "2"]:
        """The shift of an image, pixels."""
        return self.all()[image]

    def all(self) -> Float[Tensor, "m 2"]:
        """The shifts of all images, pixels, without what a translation of the scene explains."""
        return (self._free @ self.pixels.flatten()).reshape(-1, 2)

    def prior(self) -> Float[Tensor, ""]:
        """Mean squared shift, square pixels."""
        return self.all().square().sum(-1).mean()


def shifted(means: Float[Tensor, "n 3"], view: View, shift_px: Float[Tensor, "2"]) -> Float[Tensor, "n 3"]:
    """Means moved by Lᵀ(L Lᵀ)⁻¹ shift, so that a parallel view shows them `shift_px` further; gradients reach the shift
    through the means, because rasterizers give none to cameras."""
    pull = torch.linalg.pinv(view.camera_from_model[:2, :3]).to(means)
    return means + pull @ shift_px
