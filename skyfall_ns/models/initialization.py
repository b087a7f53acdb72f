"""Initial parameters: flat discs on the surface that the points define, so that facades are thin in nadir views.

A stack of round Gaussians in a facade hides a strip of ground far beyond it, because many faint edges accumulate.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.spatial import KDTree
from scipy.spatial.transform import Rotation
from torch import Tensor

from skyfall_ns.dataparsers.skyfall_dataparser import match_image_names
from skyfall_ns.geo.surface_points import WALL_SPACING_FACTOR
from skyfall_ns.models.appearance.embeddings import init_embeddings
from skyfall_ns.models.appearance.lighting import AppearanceModel
from skyfall_ns.models.appearance.spherical_harmonics import SH_C0
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.scene.model_space import MODEL_PER_METER, NormalizedScene

DISC_THICKNESS = 0.2  # relative to the radius of the disc
NEAREST_POINTS, MIN_SPHERE_SIZE_M = 3, 1e-7**0.5  # of 3D Gaussian splatting
DENSE_VIEW_OPACITY, SPARSE_VIEW_OPACITY = 0.6, 0.9


def init_parameters(
    xyz: Float[Tensor, "n 3"],
    rgb: UInt8[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    normalized: NormalizedScene,
    options: SkyfallModelOptions,
) -> dict[str, Tensor]:
    """All parameters of the initial Gaussians, one per point of the scene (model space)."""
    opacity = options.init_opacity
    if opacity is None:
        dense = len(normalized.image_names) >= options.dense_view_threshold
        opacity = DENSE_VIEW_OPACITY if dense else SPARSE_VIEW_OPACITY
    if options.init_shape == "sphere":
        shapes = _sphere_shapes(xyz.double().numpy(), options.init_scale)
    else:
        size = options.init_scale * normalized.point_spacing_m * normalized.scale
        shapes = disc_shapes(normals.double().numpy(), size)
    parameters = init_gaussians(xyz, rgb[:, : normalized.band_count], shapes, opacity)
    if options.sh_degree:
        parameters["features_rest"] = xyz.new_zeros(len(xyz), 3, normalized.band_count, dtype=torch.float32)
    if options.appearance != "light":
        parameters["embeddings"] = init_embeddings(parameters["means"])
    return parameters


def init_appearance(normalized: NormalizedScene, options: SkyfallModelOptions) -> AppearanceModel:
    """Initial appearance of a scene's training images. SceneError if `options.reference_images` matches none."""
    names = normalized.image_names
    reference_names = match_image_names(
        names, options.reference_images, "--pipeline.model.reference-images", normalized.scene
    )
    decoder = None if options.appearance == "light" else options.appearance
    reference_images = [image for image, name in enumerate(names) if name in reference_names]
    return AppearanceModel(
        normalized.sun_directions,
        decoder,
        reference_images,
        normalized.band_count,
        options.free_view_ambient_scale,
    )


def init_gaussians(
    xyz: Float[Tensor, "n 3"], rgb: UInt8[Tensor, "n b"], shapes: tuple[np.ndarray, np.ndarray], opacity: float
) -> dict[str, Tensor]:
    """Raw parameters (log scales, logit opacities) of one Gaussian per point; `shapes`: quaternions "n 4" (wxyz) and
    scales "n 3", in the unit of `xyz`."""
    quats, scales = shapes
    return {
        "means": xyz.float().clone(),
        "scales": torch.from_numpy(np.log(scales)).float(),
        "quats": torch.from_numpy(quats).float(),
        "features_dc": (rgb.float() / 255 - 0.5) / SH_C0,
        "opacities": torch.full((len(xyz), 1), math.log(opacity / (1 - opacity))),
    }


def _sphere_shapes(xyz: np.ndarray, factor: float) -> tuple[np.ndarray, np.ndarray]:
    """Quaternions (wxyz) and scales of spheres: `factor` times the root mean square distance of the three nearest
    points (3D Gaussian splatting)."""
    distances = KDTree(xyz).query(xyz, k=NEAREST_POINTS + 1)[0][:, 1:]
    sizes = factor * np.sqrt(np.square(distances).mean(1)).clip(MIN_SPHERE_SIZE_M * MODEL_PER_METER)
    return np.tile([1.0, 0.0, 0.0, 0.0], (len(xyz), 1)), np.repeat(sizes[:, None], 3, axis=1)


def disc_shapes(normals: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Quaternions (wxyz) and scales of discs: the third axis is the normal, the first one horizontal.

    `size` is the standard deviation along the surface; points on walls are sparser, and their Gaussians taller. Points
    without a normal (zero) become spheres."""
    known = np.linalg.norm(normals, axis=1) > 0.5
    quats, scales = np.tile([1.0, 0.0, 0.0, 0.0], (len(normals), 1)), np.full((len(normals), 3), size)
    normal = normals[known] / np.linalg.norm(normals[known], axis=1, keepdims=True)
    horizontal = np.stack([-normal[:, 1], normal[:, 0], np.zeros(len(normal))], 1)
    length = np.linalg.norm(horizontal, axis=1, keepdims=True)
    first_axis = np.where(length > 1e-6, horizontal / np.maximum(length, 1e-6), [1.0, 0.0, 0.0])
    axes = np.stack([first_axis, np.cross(normal, first_axis), normal], -1)
    quats[known] = Rotation.from_matrix(axes).as_quat()[:, [3, 0, 1, 2]]
    steepness = 1 - np.abs(normal[:, 2])
    scales[known, 1] = size * (1 + (WALL_SPACING_FACTOR - 1) * steepness)
    scales[known, 2] = size * DISC_THICKNESS
    return quats, scales
