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

from skyfall_ns.geo.cameras import AffineCamera, PinholeCamera

HALF_PIXEL = 0.5
DEPTH_OFFSET = 20.0  # model units (2 km): satellite depths stay positive, and small enough for float32
ROWS_KEY, QUADRATIC_KEY = "satellite_rows", "satellite_quadratic"
IMAGE_KEY, SUN_KEY = "satellite_image", "satellite_sun"
MOVES_KEY = "moves"  # of cameras with made-up pictures: part of their gradients that moves splats


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


def satellite_rows(camera: AffineCamera) -> tuple[Float[np.ndarray, "12"], Float[np.ndarray, "12"]]:
    """Camera metadata of a satellite view in model space: three rows [L | b + 1/2] and depth, and the quadratic."""
    rows = np.zeros((3, 4))
    rows[:2] = camera.matrix
    rows[:2, 3] += HALF_PIXEL
    rows[2, :3], rows[2, 3] = -camera.view_direction(), DEPTH_OFFSET
    quadratic = np.zeros((2, 6)) if camera.quadratic is None else camera.quadratic
    return rows.reshape(-1), quadratic.reshape(-1)


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


def image_of(camera: Cameras) -> int | None:
    """The training image whose look a camera asks for; None for held-out images and free cameras."""
    index = (camera.metadata or {}).get(IMAGE_KEY)
    return None if index is None or index.reshape(-1)[0] < 0 else int(index.reshape(-1)[0])


def in_viewer(camera: Cameras) -> bool:
    """Whether it is the free camera of the host's viewer, which calls itself the training camera that was clicked last,
    or the first."""
    metadata = camera.metadata or {}
    return "cam_idx" in metadata and IMAGE_KEY not in metadata


def sun_of(camera: Cameras) -> tuple[float, float, float] | None:
    """Direction to the sun (local frame) when a satellite image was taken; None for free cameras and unknown suns."""
    direction = (camera.metadata or {}).get(SUN_KEY)
    if direction is None or not bool(direction.any()):
        return None
    x, y, z = direction.reshape(-1).tolist()
    return x, y, z


def model_view(camera: PinholeCamera, centre_m: np.ndarray, scale: float) -> View:
    """The view of model space m = (x - centre) * scale. The rotation stays; rasterizers put the first pixel's centre at
    half a pixel, files at 0."""
    pose, intrinsics = camera.camera_from_local.copy(), camera.intrinsics.copy()
    pose[:3, 3] = scale * (pose[:3, 3] + pose[:3, :3] @ np.asarray(centre_m))
    intrinsics[:2, 2] += HALF_PIXEL
    return View(torch.from_numpy(pose), torch.from_numpy(intrinsics), *camera.size, "pinhole")


def moves_of(camera: Cameras) -> float:
    """Part of a picture's gradients that reaches more than colours: all, except for what was made up."""
    share = (camera.metadata or {}).get(MOVES_KEY)
    return 1.0 if share is None else float(share)


def damped(values: Tensor, share: float) -> Tensor:
    """The same values with a part of their gradients."""
    return values if share == 1 else torch.lerp(values.detach(), values, share)
