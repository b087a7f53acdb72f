"""Spherical harmonics of degree one: colours that change with the direction, in 3D Gaussian splatting's convention."""

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.geometry.view import View

SH_C0, SH_C1 = 0.28209479177387814, 0.4886025119029199  # sqrt(1 / 4 pi), sqrt(3 / 4 pi)


def sight(means: Float[Tensor, "n 3"], view: View) -> Float[Tensor, "n 3"]:
    """Unit directions from the eye to the means: one for all in a parallel view."""
    linear = view.camera_from_model[:3, :3]
    if view.projection == "parallel":
        along = torch.linalg.cross(linear[0], linear[1])  # moving along it moves no pixel
        along = torch.nn.functional.normalize(along * torch.sign(along @ linear[2]), dim=0)
        return along.to(means).expand(len(means), 3)
    eye = -torch.linalg.solve(linear, view.camera_from_model[:3, 3])
    return torch.nn.functional.normalize(means - eye.to(means), dim=-1)


def directional(rest: Float[Tensor, "n 3 b"], directions: Float[Tensor, "n 3"]) -> Float[Tensor, "n b"]:
    """Colors added by the three harmonics of degree one; `rest` is [splat, harmonic, band]."""
    x, y, z = directions.unbind(-1)
    bases = SH_C1 * torch.stack([-y, z, -x], -1)
    return (bases[..., None] * rest).sum(1)
