"""Initial points of the Gaussians: their spacing, those at tie points, and their form in a PLY file."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from skyfall_ns.geo.surface_points import PointCloud
from skyfall_ns.io.ply import PlyPoints
from skyfall_ns.processing.crops import affine_camera
from skyfall_ns.processing.image_windows import Crop
from skyfall_ns.scene.scene import SceneImage

MAX_GROUND_POINTS = 600_000  # a CPU trains this number in minutes


def point_spacing_m(box_m: ndarray, resolution_m: float) -> float:
    """Distance of points on the ground: a cell, or more where that would exceed MAX_GROUND_POINTS."""
    width, depth, _ = box_m[1] - box_m[0]
    return max(resolution_m, float(np.sqrt(width * depth / MAX_GROUND_POINTS)))


def color_tie_points(xyz_m: Float64[ndarray, "n 3"], images: Sequence[SceneImage], crops: Sequence[Crop]) -> PointCloud:
    """Make points at the tie points (local meters), with the color of the first image that shows them."""
    colors = np.full((len(xyz_m), 3), 0.5, np.float32)
    uncolored = np.ones(len(xyz_m), bool)
    for image, crop in zip(images, crops, strict=True):
        colrow = np.round(affine_camera(image).project(xyz_m)).astype(int)
        inside = uncolored & ((colrow >= 0) & (colrow < crop.size_px)).all(-1)
        values = image.tone.apply_curve(crop.dn[colrow[inside, 1], colrow[inside, 0]])
        colors[inside] = np.broadcast_to(values, (inside.sum(), 3))
        uncolored &= ~inside
    up = np.tile(np.array([0, 0, 1], np.float32), (len(xyz_m), 1))
    return PointCloud(xyz_m, up, colors, np.ones(len(xyz_m), np.float32))


def to_ply_points(points: PointCloud) -> PlyPoints:
    """Convert colors to 8 bits; points that no image shows are gray."""
    rgb = np.round(255 * np.clip(np.nan_to_num(points.colors, nan=0.5), 0, 1)).astype(np.uint8)
    return PlyPoints(points.xyz_m, points.normals, rgb, points.confidence)
