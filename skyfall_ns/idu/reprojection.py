"""Reprojection of one view into another through rendered depth, with an occlusion test."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray

from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.idu.curriculum import Pose, pose_camera

DEPTH_TOLERANCE = 0.01  # relative difference up to which two depths belong to one surface
DEPTH_TOLERANCE_M = 0.1  # added to it, for rounding
MAX_ANGLE_DEG = 45.0  # between the lines of sight of two views; beyond it, they show different sides


def reproject(
    target: PinholeCamera, target_depth_m: ndarray, source: PinholeCamera, source_depth_m: ndarray
) -> tuple[Float[ndarray, "h w 2"], Bool[ndarray, "h w"]]:
    """Position (col, row) in `source` of each pixel of `target`, and whether it is visible there: inside the image, in
    front of the camera, and at the depth that is rendered there. Depths are along the axes, meters, 0 in empty
    pixels."""
    height, width = target_depth_m.shape
    depth_m = target_depth_m.astype(np.float32)
    # (col, row, 1) * z in `source` is linear in depth * (col, row, 1): one matrix, in float64 before it is rounded
    source_from_target = source.camera_from_local @ np.linalg.inv(target.camera_from_local)
    linear = (source.intrinsics @ source_from_target[:3, :3] @ np.linalg.inv(target.intrinsics)).astype(np.float32)
    offset = (source.intrinsics @ source_from_target[:3, 3]).astype(np.float32)
    columns, rows = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    column, row, expected_m = (
        (a * columns + (b * rows + c)) * depth_m + d for (a, b, c), d in zip(linear, offset, strict=True)
    )
    inside = (depth_m > 0) & (expected_m > 0)
    divisor_m = np.where(inside, expected_m, 1.0)
    column, row = column / divisor_m, row / divisor_m
    last_row, last_column = source_depth_m.shape[0] - 1, source_depth_m.shape[1] - 1
    inside &= (column >= 0) & (column <= last_column) & (row >= 0) & (row <= last_row)
    colrow = np.dstack([np.where(inside, column, -2.0), np.where(inside, row, -2.0)]).astype(np.float32)
    rendered_m = sample_bilinear(source_depth_m.astype(np.float32), colrow)
    return colrow, inside & (np.abs(rendered_m - expected_m) <= DEPTH_TOLERANCE * expected_m + DEPTH_TOLERANCE_M)


def sample_bilinear(image: Float[ndarray, "h w *c"], colrow: Float[ndarray, "h w 2"]) -> Float[ndarray, "h w *c"]:
    """Sample an image at positions (col, row), bilinearly; 0 outside."""
    return cv2.remap(image, colrow, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)  # type: ignore[arg-type]


def nearest_views(poses: Sequence[Pose], fov_deg: float, count: int = 4) -> list[list[int]]:
    """Indices of the views that each view is compared with, nearest first: the other samples of the same view, and the
    `count` views with the smallest angles (at most `MAX_ANGLE_DEG`) between the lines of sight to its look-at point,
    among those that have this point in their image."""
    eyes, targets = (np.array([getattr(pose, key) for pose in poses]) for key in ("eye_m", "target_m"))
    views = np.array([pose.view for pose in poses])
    cameras = np.stack([pose_camera(pose, fov_deg, 16).camera_from_local[:3] for pose in poses])
    half, neighbors = np.tan(np.radians(fov_deg) / 2), []
    for index, (eye, target) in enumerate(zip(eyes, targets, strict=True)):
        points = cameras[:, :, :3] @ target + cameras[:, :, 3]
        inside = (points[:, 2] > 0) & (np.abs(points[:, :2]).max(1) <= half * points[:, 2])
        angles = _view_angles(eyes - target, eye - target)
        same = views == views[index]
        order = [int(i) for i in np.argsort(angles, kind="stable") if i != index]
        others = [i for i in order if inside[i] and not same[i] and angles[i] <= np.radians(MAX_ANGLE_DEG)][:count]
        neighbors.append([i for i in order if same[i] or i in others])
    return neighbors


def _view_angles(directions: Float[ndarray, "n 3"], direction: Float[ndarray, "3"]) -> Float[ndarray, "n"]:
    """Angles between directions and one direction, radians."""
    cosines = directions @ direction / (np.linalg.norm(directions, axis=-1) * np.linalg.norm(direction))
    return np.arccos(np.clip(cosines, -1, 1))
