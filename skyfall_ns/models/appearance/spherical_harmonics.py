"""Spherical harmonics of degree one: colors that depend on the view direction, in the convention of 3DGS."""

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.view import View

SH_C0, SH_C1 = 0.28209479177387814, 0.4886025119029199  # sqrt(1 / 4 pi), sqrt(3 / 4 pi)


def view_directions(means: Float[Tensor, "n 3"], view: View) -> Float[Tensor, "n 3"]:
    """Unit directions from the camera to the means; all equal in a parallel view."""
    linear = view.camera_from_model[:3, :3]
    if view.projection == "parallel":
        direction = torch.linalg.cross(linear[0], linear[1])  # means displaced along it keep their pixels
        direction = torch.nn.functional.normalize(direction * torch.sign(direction @ linear[2]), dim=0)
        return direction.to(means).expand(len(means), 3)
    camera_center = -torch.linalg.solve(linear, view.camera_from_model[:3, 3])
    return torch.nn.functional.normalize(means - camera_center.to(means), dim=-1)


def eval_sh1(coefficients: Float[Tensor, "n 3 b"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n b"]:
    """Colors of the three harmonics of degree one; `coefficients` are [Gaussian, harmonic, band]."""
    x, y, z = directions.unbind(-1)
    bases = SH_C1 * torch.stack([-y, z, -x], -1)
    return (bases[..., None] * coefficients).sum(1)
