"""Images along a camera path, of a run or of a PLY file, with depth and poses."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from numpy import ndarray

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.camera_path_files import PathCameras
from skyfall_ns.geo.camera_paths import frames_that_see
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.io.files import atomic_write, write_json
from skyfall_ns.io.images import bgr_image, write_png
from skyfall_ns.models.rasterizers import Rendering
from skyfall_ns.view import View, view_from_pinhole

SOLID_ALPHA = 0.5  # pixels with a lower alpha have no depth
RenderView = Callable[[View], Rendering]


@dataclass(frozen=True)
class RenderedFrame:
    """Color over white in 0..1, depth along the optical axis in meters (NaN: nothing there)."""

    rgb: Float[ndarray, "h w 3"]
    depth_m: Float32[ndarray, "h w"]


def pinhole_of_frame(pose: Float[ndarray, "4 4"], fov_deg: float, size: tuple[int, int]) -> PinholeCamera:
    """Camera of a pose in OpenGL axes; the center of the first pixel is (0, 0)."""
    opencv = pose @ np.diag([1.0, -1.0, -1.0, 1.0])
    camera_from_local = np.eye(4)
    camera_from_local[:3, :3] = opencv[:3, :3].T
    camera_from_local[:3, 3] = -opencv[:3, :3].T @ opencv[:3, 3]
    width, height = size
    focal = 0.5 * height / np.tan(np.radians(fov_deg) / 2)
    intrinsics = np.array([[focal, 0, (width - 1) / 2], [0, focal, (height - 1) / 2], [0, 0, 1.0]])
    return PinholeCamera(camera_from_local, intrinsics, size)


def check_visibility(cameras: PathCameras, poses: Float[ndarray, "n 4 4"], box_m: ndarray, path: Path) -> int:
    """Number of frames that show a box (in the frame of the poses). Raises SkyfallError if there is none."""
    aspect = cameras.size[0] / cameras.size[1]
    seen = frames_that_see(poses, max(cameras.fov_deg), aspect, box_m)
    if not seen.any():
        raise SkyfallError(f"No frame of {path} shows the scene. Make the path for this scene with skyfall-path.")
    return int(seen.sum())


@torch.no_grad()
def render_frame(render: RenderView, camera: PinholeCamera, center_m: ndarray, scale: float) -> RenderedFrame:
    """Render one camera of local meters; `center_m` and `scale` are those of the model space of `render`."""
    rendering = render(view_from_pinhole(camera, center_m, scale))
    alpha = rendering.alpha[..., None]
    rgb = (rendering.color + (1 - alpha)).clamp(0, 1).cpu().numpy()
    depth = torch.where(rendering.alpha >= SOLID_ALPHA, rendering.depth / scale, torch.nan)
    return RenderedFrame(rgb, depth.cpu().numpy().astype(np.float32))


def write_frame(directory: Path, index: int, frame: RenderedFrame, with_depth: bool) -> UInt8[ndarray, "h w 3"]:
    """Write color as PNG, and depth as float32 TIFF in meters; return the color in 8 bits, red first."""
    image = bgr_image(frame.rgb)
    write_png(directory / f"rgb_{index:05d}.png", image)
    if with_depth:
        encoded, data = cv2.imencode(".tif", frame.depth_m)
        assert encoded
        atomic_write(directory / f"depth_{index:05d}.tif", data.tobytes())
    return image[..., ::-1]


def write_frames_json(
    directory: Path, cameras: PathCameras, poses: Float[ndarray, "n 4 4"], facts: dict[str, Any], with_depth: bool
) -> None:
    """Write frames.json: for each frame its files, intrinsics and pose (camera to local meters, OpenGL axes)."""
    width, height = cameras.size
    frames = []
    for index, (pose, fov) in enumerate(zip(poses, cameras.fov_deg, strict=True)):
        focal = 0.5 * height / float(np.tan(np.radians(fov) / 2))
        files = {"file_path": f"rgb_{index:05d}.png"}
        files |= {"depth_file_path": f"depth_{index:05d}.tif"} if with_depth else {}
        frames.append({**files, "fl_x": focal, "fl_y": focal, "transform_matrix": pose.tolist()})
    center = {"cx": width / 2, "cy": height / 2, "w": width, "h": height}
    write_json(directory / "frames.json", {**facts, **center, "frames": frames})
