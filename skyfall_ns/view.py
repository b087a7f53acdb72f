"""Views: the cameras of rasterizers in model space. The only place where axes are flipped and pixels shifted.

In files and RPCs the center of the first pixel is (0, 0); in rasterizers it is at 0.5. Nerfstudio's cameras look along
-z (OpenGL), rasterizers along +z (OpenCV).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.scene.model_space import DEPTH_OFFSET, HALF_PIXEL, NormalizedScene, normalized_camera, satellite_rows


@dataclass(frozen=True)
class View:
    """A view in model space; matrices are float64. Pixel j spans j..j+1, its center is j + 0.5.

    "pinhole": OpenCV axes (x right, y down, z forward). "parallel": the linear part of `camera_from_model` is any
    invertible matrix; rows 0 and 1 give pixels before the principal point, row 2 a positive depth. `quadratic`
    displaces means before rasterization."""

    camera_from_model: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    width: int
    height: int
    projection: Literal["pinhole", "parallel"]
    quadratic: Float[Tensor, "2 6"] | None = None


def quadratic_displacement(view: View) -> Float[Tensor, "3 6"]:
    """Lᵀ(L Lᵀ)⁻¹ q: displacement of a mean per monomial; float64, of a view with a quadratic term."""
    assert view.quadratic is not None
    return torch.linalg.pinv(view.camera_from_model[:2, :3]) @ view.quadratic


def apply_quadratic_term(means: Float[Tensor, "*n 3"], view: View) -> Float[Tensor, "*n 3"]:
    """Move means by d(m) = Lᵀ(L Lᵀ)⁻¹ q(m), so that the affine part projects them like the quadratic camera."""
    if view.quadratic is None:
        return means
    displacement = quadratic_displacement(view)
    x, y, z = means.unbind(-1)
    monomials = torch.stack([x * x, y * y, z * z, x * y, x * z, y * z])
    return means + torch.tensordot(displacement.to(means), monomials, 1).movedim(0, -1)


def unproject_depth(view: View, depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Points (model space) at these depths along the lines of sight of pixel centers; `apply_quadratic_term` is
    inverted to first order."""
    k, pose = view.intrinsics, torch.linalg.inv(view.camera_from_model)[:3].to(depth)
    y, x = (torch.arange(n, device=depth.device, dtype=depth.dtype) + HALF_PIXEL for n in depth.shape)
    right = ((x - float(k[0, 2])) / float(k[0, 0]))[None, :, None] * pose[:, 0]
    down = ((y - float(k[1, 2])) / float(k[1, 1]))[:, None, None] * pose[:, 1]
    lateral, depths = right + down, depth[..., None]
    if view.projection == "pinhole":
        points = depths * (lateral + pose[:, 2]) + pose[:, 3]
    else:
        points = lateral + (depths * pose[:, 2] + pose[:, 3])
    return points if view.quadratic is None else 2 * points - apply_quadratic_term(points, view)


def parallel_view(rows: Float[Tensor, "3 4"], quadratic: Float[Tensor, "2 6"] | None, width: int, height: int) -> View:
    """A parallel view from three rows: two of pixels, with the center of the first one at 0.5, and one of depth."""
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3] = rows.double().cpu()
    intrinsics = torch.eye(3, dtype=torch.float64)
    intrinsics[:2, 2] = camera[:2, 3]
    camera[:2, 3] = 0.0
    if quadratic is not None:
        quadratic = quadratic.double().cpu() if bool(quadratic.any()) else None
    return View(camera, intrinsics, width, height, "parallel", quadratic)


def nadir_view(x_min: float, y_max: float, cell: float, width: int, height: int) -> View:
    """The nadir view of a north-up grid in model units, one pixel per cell; depth is DEPTH_OFFSET - z."""
    rows = torch.tensor(
        [[1 / cell, 0, 0, -x_min / cell], [0, -1 / cell, 0, y_max / cell], [0, 0, -1, DEPTH_OFFSET]],
        dtype=torch.float64,
    )
    return parallel_view(rows, None, width, height)


def view_from_pinhole(camera: PinholeCamera, center_m: np.ndarray, scale: float) -> View:
    """The view in model space, m = (x - center) * scale, of a pinhole in local meters. The rotation stays; the
    principal point moves by half a pixel."""
    pose, intrinsics = camera.camera_from_local.copy(), camera.intrinsics.copy()
    pose[:3, 3] = scale * (pose[:3, 3] + pose[:3, :3] @ np.asarray(center_m))
    intrinsics[:2, 2] += HALF_PIXEL
    return View(torch.from_numpy(pose), torch.from_numpy(intrinsics), *camera.size, "pinhole")


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """The same values with scaled gradients."""
    return values if factor == 1 else torch.lerp(values.detach(), values, factor)


def training_views(normalized: NormalizedScene) -> tuple[View, ...]:
    """The views of the training images, in order; equal to those of their cameras, without Nerfstudio's datasets."""
    views = []
    for name in normalized.image_names:
        image = normalized.scene.image_by_name(name)
        rows, quadratic = satellite_rows(normalized_camera(image, np.array(normalized.center_m)))
        rows, quadratic = torch.from_numpy(rows).reshape(3, 4), torch.from_numpy(quadratic).reshape(2, 6)
        views.append(parallel_view(rows, quadratic, image.width, image.height))
    return tuple(views)
