"""The points that Gaussians start from: how dense they are, those of ties, and as a cloud to write."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.geo.surface_points import Points
from skyfall_ns.io.ply import Cloud
from skyfall_ns.processing.crops import camera_of
from skyfall_ns.processing.vendor_images import Crop
from skyfall_ns.scene.scene import SceneImage

MAX_GROUND_POINTS = 600_000  # as many as a CPU trains in minutes


def point_spacing_m(box_m: ndarray, resolution_m: float) -> float:
    """Distance of points on the ground: a cell, or more where that would be too many Gaussians to start from."""
    width, depth, _ = box_m[1] - box_m[0]
    return max(resolution_m, float(np.sqrt(width * depth / MAX_GROUND_POINTS)))


def tie_points(xyz_m: Float64[ndarray, "n 3"], images: Sequence[SceneImage], crops: Sequence[Crop]) -> Points:
    """Ties as points, colored by the first image that shows them."""
    colors = np.full((len(xyz_m), 3), 0.5, np.float32)
    open_points = np.ones(len(xyz_m), bool)
    for image, crop in zip(images, crops, strict=True):
        colrow = np.round(camera_of(image).project(xyz_m)).astype(int)
        inside = open_points & ((colrow >= 0) & (colrow < crop.size)).all(-1)
        values = image.tone.apply(crop.dn[colrow[inside, 1], colrow[inside, 0]])
        colors[inside] = np.broadcast_to(values, (inside.sum(), 3))
        open_points &= ~inside
    up = np.tile(np.array([0, 0, 1], np.float32), (len(xyz_m), 1))
    return Points(xyz_m, up, colors, np.ones(len(xyz_m), np.float32))


def point_cloud(points: Points) -> Cloud:
    """8-bit colors; gray where no image shows a point."""
    rgb = np.round(255 * np.clip(np.nan_to_num(points.colors, nan=0.5), 0, 1)).astype(np.uint8)
    return Cloud(points.xyz_m, points.normals, rgb, points.confidence)
