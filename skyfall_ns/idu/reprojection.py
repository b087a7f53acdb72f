"""One view seen from another through rendered depth, with a test for what stands in between."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.idu.curriculum import Pose, camera_of

SAME_SURFACE = 0.01  # of the depth: two depths that differ by less are those of one surface
SAME_SURFACE_M = 0.1  # and what rounding may cost
WIDEST_DEG = 45.0  # between two lines of sight; farther apart, views show different sides


def sight(
    target: PinholeCamera, target_depth_m: ndarray, source: PinholeCamera, source_depth_m: ndarray
) -> tuple[Float[ndarray, "h w 2"], Bool[ndarray, "h w"]]:
    """Where each pixel of `target` lies in `source` (col, row), and whether it is seen there: inside the picture, in
    front of the camera, and at the depth that is rendered there. Depths are along the axes, metres, 0 where void."""
    height, width = target_depth_m.shape
    depth_m = target_depth_m.astype(np.float32)
    # (col, row, 1) * z in `source` is linear in depth * (col, row, 1): one matrix, in float64 before it is rounded
    between = source.camera_from_local @ np.linalg.inv(target.camera_from_local)
    linear = (source.intrinsics @ between[:3, :3] @ np.linalg.inv(target.intrinsics)).astype(np.float32)
    offset = (source.intrinsics @ between[:3, 3]).astype(np.float32)
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    column, row, there_m = (
        (a * columns + (b * rows + c)) * depth_m + d for (a, b, c), d in zip(linear, offset, strict=True)
    )
    inside = (depth_m > 0) & (there_m > 0)
    safe_m = np.where(inside, there_m, 1.0)
    column, row = column / safe_m, row / safe_m
    last_row, last_column = source_depth_m.shape[0] - 1, source_depth_m.shape[1] - 1
    inside &= (column >= 0) & (column <= last_column) & (row >= 0) & (row <= last_row)
    colrow = np.dstack([np.where(inside, column, -2.0), np.where(inside, row, -2.0)]).astype(np.float32)
    rendered_m = look_up(source_depth_m.astype(np.float32), colrow)
    return colrow, inside & (np.abs(rendered_m - there_m) <= SAME_SURFACE * there_m + SAME_SURFACE_M)


def look_up(image: Float[ndarray, "h w *c"], colrow: Float[ndarray, "h w 2"]) -> Float[ndarray, "h w *c"]:
    """Values between pixels, bilinear; 0 outside."""
    return cv2.remap(image, colrow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)  # type: ignore[arg-type]


def neighbours(poses: Sequence[Pose], fov_deg: float, count: int = 4) -> list[list[int]]:
    """For each view, the views to compare it with, nearest first: the other samples of the same view, and the `count`
    whose lines of sight to what it looks at make the smallest angles with its own (at most `WIDEST_DEG`), among those
    that have it in their picture."""
    eyes, targets = (np.array([getattr(pose, key) for pose in poses]) for key in ("eye_m", "target_m"))
    views = np.array([pose.view for pose in poses])
    sides = np.stack([camera_of(pose, fov_deg, 16).camera_from_local[:3] for pose in poses])
    half, found = np.tan(np.radians(fov_deg) / 2), []
    for number, (eye, target) in enumerate(zip(eyes, targets, strict=True)):
        seen = sides[:, :, :3] @ target + sides[:, :, 3]
        inside = (seen[:, 2] > 0) & (np.abs(seen[:, :2]).max(1) <= half * seen[:, 2])
        angles = _angles(eyes - target, eye - target)
        same = views == views[number]
        order = [int(i) for i in np.argsort(angles, kind="stable") if i != number]
        others = [i for i in order if inside[i] and not same[i] and angles[i] <= np.radians(WIDEST_DEG)][:count]
        found.append([i for i in order if same[i] or i in others])
    return found


def _angles(directions: Float[ndarray, "n 3"], direction: Float[ndarray, "3"]) -> Float[ndarray, "n"]:
    cosines = directions @ direction / (np.linalg.norm(directions, axis=-1) * np.linalg.norm(direction))
    return np.arccos(np.clip(cosines, -1, 1))
