"""Compensation of the kernel that viewers add on the screen.

Training widens the footprint of each Gaussian by EPS_2D px² and lowers its opacity, so that its integral stays the
same; viewers of 3DGS files widen it by VIEWER_EPS_2D px² and keep the opacity, which blurs and thickens the scene. For
pixels of a size p on the ground, both draw nearly the same if a Gaussian of standard deviations s and opacity o is
written with s'² = s² - (VIEWER_EPS_2D - EPS_2D) p² and o' = o * sqrt(prod s² / (s² + EPS_2D p²)) over its two longest
axes, which are those of the surface. Views with smaller pixels then show a thinner scene, so p must be chosen
(measured: docs/guides/exports.md).
"""

from dataclasses import replace

import numpy as np

from skyfall_ns.export.gaussians.cloud import GaussianCloud
from skyfall_ns.models.rasterizers.types import EPS_2D
from skyfall_ns.scene.model_space import NormalizedScene
from skyfall_ns.view import training_views

VIEWER_EPS_2D = 0.3  # px², of the first 3DGS renderer and most viewers
MIN_VARIANCE = 0.02  # lower bound of s'², relative to p²
DEFAULT_PIXEL = 0.5  # p relative to the finest pixel of the training images


def compensate_kernel(cloud: GaussianCloud, pixel_m: float) -> GaussianCloud:
    """The Gaussians to write so that viewers draw them as they were trained, at pixels of `pixel_m`."""
    variance = np.square(cloud.scales_m)
    pixel_area = pixel_m**2
    narrowed = np.maximum(variance - (VIEWER_EPS_2D - EPS_2D) * pixel_area, MIN_VARIANCE * pixel_area)
    surface_axes = np.sort(variance, 1)[:, 1:]
    loss = np.sqrt((surface_axes / (surface_axes + EPS_2D * pixel_area)).prod(1))
    return replace(cloud, scales_m=np.sqrt(np.minimum(narrowed, variance)), opacities=cloud.opacities * loss)


def finest_pixel_m(normalized: NormalizedScene) -> float:
    """Size on the ground of the finest pixels of the training images, meters."""
    linear_parts = (view.camera_from_model[:2, :3].numpy() for view in training_views(normalized))
    return min(1 / float(np.linalg.svd(linear)[1].max()) for linear in linear_parts) / normalized.scale
