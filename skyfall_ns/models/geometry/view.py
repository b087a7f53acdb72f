"""Views: what a rasterizer needs to know of a camera, in model space. The only place where axes flip and pixels shift.

Files and RPCs count the centre of the first pixel as (0, 0); rasterizers put it at 0.5. Nerfstudio's cameras look along
-z (OpenGL), rasterizers along +z (OpenCV).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from skyfall_ns.dataparsers.camera_metadata import QUADRATIC_KEY, ROWS_KEY
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.scene.model_space import DEPTH_OFFSET, HALF_PIXEL, SceneOnModel, normalized_camera, satellite_rows


@dataclass(frozen=True)
class View:
    """A view in model space (float64). "pinhole": OpenCV axes; "parallel": rows 0 and 1 of `camera_from_model` are
    pixels before the principal point, row 2 a positive depth. `quadratic` bends means before drawing."""

    camera_from_model: Float[Tensor, "4 4"]
    intrinsics: Float[Tensor, "3 3"]
    width: int
    height: int
    projection: Literal["pinhole", "parallel"]
    quadratic: Float[Tensor, "2 6"] | None = None


def bend(means: Float[Tensor, "*n 3"], view: View) -> Float[Tensor, "*n 3"]:
    """Means moved by d(m) = Lᵀ(L Lᵀ)⁻¹ q(m), so that the affine part shows them at the quadratic camera's pixels."""
    if view.quadratic is None:
        return means
    pull = torch.linalg.pinv(view.camera_from_model[:2, :3]) @ view.quadratic
    x, y, z = means.unbind(-1)
    monomials = torch.stack([x * x, y * y, z * z, x * y, x * z, y * z])
    return means + torch.tensordot(pull.to(means), monomials, 1).movedim(0, -1)


def points_of(view: View, depth: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """The points (model space) that pixel centres show at these depths; what `bend` does is undone to its first
    order."""
    k, pose = view.intrinsics, torch.linalg.inv(view.camera_from_model)[:3].to(depth)
    y, x = (torch.arange(n, device=depth.device, dtype=depth.dtype) + HALF_PIXEL for n in depth.shape)
    right = ((x - float(k[0, 2])) / float(k[0, 0]))[None, :, None] * pose[:, 0]
    down = ((y - float(k[1, 2])) / float(k[1, 1]))[:, None, None] * pose[:, 1]
    sideways, away = right + down, depth[..., None]
    if view.projection == "pinhole":
        points = away * (sideways + pose[:, 2]) + pose[:, 3]
    else:
        points = sideways + (away * pose[:, 2] + pose[:, 3])
    return points if view.quadratic is None else 2 * points - bend(points, view)


def parallel_view(rows: Float[Tensor, "3 4"], quadratic: Float[Tensor, "2 6"] | None, width: int, height: int) -> View:
    """A parallel view from its three rows (pixels with the first centre at 0.5, and depth)."""
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3] = rows.double().cpu()
    intrinsics = torch.eye(3, dtype=torch.float64)
    intrinsics[:2, 2] = camera[:2, 3]
    camera[:2, 3] = 0.0
    bends = quadratic is not None and bool(quadratic.any())
    return View(camera, intrinsics, width, height, "parallel", quadratic.double().cpu() if bends else None)


def nadir_view(x_min: float, y_max: float, cell: float, width: int, height: int) -> View:
    """Straight down onto a north-up grid in model units: one pixel a cell; depth is DEPTH_OFFSET - z."""
    rows = torch.tensor(
        [[1 / cell, 0, 0, -x_min / cell], [0, -1 / cell, 0, y_max / cell], [0, 0, -1, DEPTH_OFFSET]],
        dtype=torch.float64,
    )
    return parallel_view(rows, None, width, height)


def view_of(camera: Cameras) -> View:
    """The view of one Nerfstudio camera: exact rows where it is a satellite's, else its pinhole, all in float64."""
    camera = camera.reshape((-1,))[0] if camera.shape else camera
    width, height = int(camera.width.item()), int(camera.height.item())
    metadata = camera.metadata or {}
    if ROWS_KEY in metadata:
        rows, quadratic = metadata[ROWS_KEY].reshape(3, 4), metadata[QUADRATIC_KEY].reshape(2, 6)
        return parallel_view(rows, quadratic, width, height)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3] = camera.camera_to_worlds.double().cpu().reshape(3, 4)
    pose[:, 1:3] *= -1  # OpenGL to OpenCV
    fx, fy, cx, cy = (float(getattr(camera, name).item()) for name in ("fx", "fy", "cx", "cy"))
    intrinsics = torch.tensor([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], dtype=torch.float64)
    return View(torch.linalg.inv(pose), intrinsics, width, height, "pinhole")


def model_view(camera: PinholeCamera, centre_m: np.ndarray, scale: float) -> View:
    """The view of model space m = (x - centre) * scale. The rotation stays; rasterizers put the first pixel's centre at
    half a pixel, files at 0."""
    pose, intrinsics = camera.camera_from_local.copy(), camera.intrinsics.copy()
    pose[:3, 3] = scale * (pose[:3, 3] + pose[:3, :3] @ np.asarray(centre_m))
    intrinsics[:2, 2] += HALF_PIXEL
    return View(torch.from_numpy(pose), torch.from_numpy(intrinsics), *camera.size, "pinhole")


def damped(values: Tensor, share: float) -> Tensor:
    """The same values with a part of their gradients."""
    return values if share == 1 else torch.lerp(values.detach(), values, share)


def training_views(on_model: SceneOnModel) -> tuple[View, ...]:
    """The views of the training images, in order; the same as of their cameras, without the host's datasets."""
    views = []
    for name in on_model.image_names:
        image = on_model.scene.image(name)
        rows, quadratic = satellite_rows(normalized_camera(image, np.array(on_model.centre_m)))
        rows, quadratic = torch.from_numpy(rows).reshape(3, 4), torch.from_numpy(quadratic).reshape(2, 6)
        views.append(parallel_view(rows, quadratic, image.width, image.height))
    return tuple(views)
