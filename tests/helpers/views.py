"""Rendered views for tests: smooth random images over flat ground."""

import numpy as np
import torch
from torch import Tensor

from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.refiners.base import RenderedView


def orbit_camera(
    height: int, width: int, azimuth_deg: float = 0.0, elevation_deg: float = 50.0, radius_m: float = 300.0,
    focal_px: float | None = None,
) -> PinholeCamera:  # fmt: skip
    """A camera on an orbit around the origin, to which it points; the field of view is 60 degrees by default."""
    a, e = np.radians([azimuth_deg, elevation_deg])
    eye = radius_m * np.array([np.cos(a) * np.cos(e), np.sin(a) * np.cos(e), np.sin(e)])
    forward = -eye / np.linalg.norm(eye)
    right = np.cross(forward, [0, 0, 1])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    camera_from_local = np.eye(4)
    camera_from_local[:3] = np.concatenate([rotation, (-rotation @ eye)[:, None]], 1)
    f = focal_px or 0.866 * width  # 60 degrees across
    intrinsics = np.array([[f, 0, (width - 1) / 2], [0, f, (height - 1) / 2], [0, 0, 1]])
    return PinholeCamera(camera_from_local, intrinsics, (width, height))


def ground_depth(camera: PinholeCamera) -> Tensor:
    """Depth of the plane z = 0 along the optical axis, meters; 0 above the horizon."""
    width, height = camera.size
    col, row = np.meshgrid(np.arange(width), np.arange(height))
    rays = np.stack([col, row, np.ones_like(col)], -1) @ np.linalg.inv(camera.intrinsics).T
    rotation, translation = camera.camera_from_local[:3, :3], camera.camera_from_local[:3, 3]
    eye_z = (-rotation.T @ translation)[2]
    down = -(rays @ rotation)[..., 2]
    return torch.from_numpy(np.where(down > 1e-3, eye_z / np.maximum(down, 1e-3), 0)).float()


def make_view(seed: int = 0, height: int = 64, width: int = 64, name: str = "", **camera) -> RenderedView:
    """A view with a smooth random image that depends on the seed."""
    coarse = torch.rand((1, 3, 8, 8), generator=torch.Generator().manual_seed(seed))
    image = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)
    view_camera = orbit_camera(height, width, **camera)
    depth = ground_depth(view_camera)
    return RenderedView(name or f"view_{seed}", image.contiguous(), depth > 0, depth, view_camera, seed)
