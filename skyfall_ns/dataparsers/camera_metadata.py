"""Metadata of Nerfstudio cameras: exact satellite rows, training image, sun, gradient scale."""

import torch
from nerfstudio.cameras.cameras import Cameras

from skyfall_ns.view import View, parallel_view

ROWS_KEY, QUADRATIC_KEY = "satellite_rows", "satellite_quadratic"
IMAGE_KEY, SUN_KEY = "satellite_image", "satellite_sun"
GRADIENT_SCALE_KEY = "geometry_gradient_scale"  # of cameras with synthetic images; see geometry_gradient_scale()


def training_index(camera: Cameras) -> int | None:
    """Index of the training image whose appearance a camera uses; None for held-out images and free cameras."""
    index = (camera.metadata or {}).get(IMAGE_KEY)
    return None if index is None or index.reshape(-1)[0] < 0 else int(index.reshape(-1)[0])


def is_viewer_camera(camera: Cameras) -> bool:
    """Whether it is the free camera of Nerfstudio's viewer, which has the index of the training camera that was clicked
    last, or of the first one."""
    metadata = camera.metadata or {}
    return "cam_idx" in metadata and IMAGE_KEY not in metadata


def sun_direction(camera: Cameras) -> tuple[float, float, float] | None:
    """Unit vector to the sun (local frame) at an image's acquisition; None for free cameras and unknown suns."""
    direction = (camera.metadata or {}).get(SUN_KEY)
    if direction is None or not bool(direction.any()):
        return None
    x, y, z = direction.reshape(-1).tolist()
    return x, y, z


def geometry_gradient_scale(camera: Cameras) -> float:
    """Factor in 0..1 on the gradients of everything but colors: 1 except for cameras with synthetic images."""
    scale = (camera.metadata or {}).get(GRADIENT_SCALE_KEY)
    return 1.0 if scale is None else float(scale)


def view_from_camera(camera: Cameras) -> View:
    """The view of one Nerfstudio camera: the exact rows of a satellite camera, else a pinhole, all in float64."""
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
