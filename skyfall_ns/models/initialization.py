"""Splats to start from: flat discs on the surface that the points give, so that walls seen from above are thin.

A stack of round splats in a wall hides a strip of ground far beyond the wall, because many faint rims add up.
"""

import math

import numpy as np
import torch
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation
from torch import Tensor

from skyfall_ns.dataparsers.skyfall_dataparser import matching
from skyfall_ns.geo.surface_points import WALL_SPACINGS
from skyfall_ns.models.appearance.embeddings import start_embeddings
from skyfall_ns.models.appearance.lighting import Looks
from skyfall_ns.models.appearance.spherical_harmonics import SH_C0
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.geometry.height_map import MANY_VIEWS
from skyfall_ns.scene.model_space import SceneOnModel

THICKNESS = 0.2  # of a disc, relative to its radius
OPACITY, FEW_OPACITY = 0.6, 0.9  # with many and with few views


def start_parameters(
    xyz: Float[Tensor, "n 3"],
    rgb: UInt8[Tensor, "n 3"],
    normals: Float[Tensor, "n 3"],
    on_model: SceneOnModel,
    config: SkyfallModelOptions,
) -> dict[str, Tensor]:
    """Every parameter of the splats that a scene's points (model space) give under the model's options."""
    opacity = config.start_opacity
    if opacity is None:
        opacity = OPACITY if len(on_model.image_names) >= MANY_VIEWS else FEW_OPACITY
    size = config.start_scale * on_model.point_spacing_m * on_model.scale
    start = start_splats(xyz, rgb[:, : on_model.bands], normals, size, opacity)
    if config.sh_degree:
        start["features_rest"] = xyz.new_zeros(len(xyz), 3, on_model.bands, dtype=torch.float32)
    if config.appearance != "light":
        start["embeddings"] = start_embeddings(start["means"])
    return start


def start_looks(on_model: SceneOnModel, config: SkyfallModelOptions) -> Looks:
    """The looks of a scene's training images under the model's options. SceneError if `config.canonical` names none."""
    names = on_model.image_names
    shown = matching(names, config.canonical, "--pipeline.model.canonical", on_model.scene)
    reader = None if config.appearance == "light" else config.appearance
    shown_images = [image for image, name in enumerate(names) if name in shown]
    return Looks(on_model.suns, reader, shown_images, on_model.bands)


def start_splats(
    xyz: Float[Tensor, "n 3"], rgb: UInt8[Tensor, "n b"], normals: Float[Tensor, "n 3"], size: float, opacity: float
) -> dict[str, Tensor]:
    """Raw parameters (log scales, logit opacities) of one splat per point.

    `size` is the standard deviation along the surface, in the unit of `xyz`; points down walls are sparser, and their
    splats taller. Points without a normal (zero) become balls.
    """
    n = xyz.shape[0]
    quats, scales = _discs(normals.double().numpy(), size)
    return {
        "means": xyz.float().clone(),
        "scales": torch.from_numpy(np.log(scales)).float(),
        "quats": torch.from_numpy(quats).float(),
        "features_dc": (rgb.float() / 255 - 0.5) / SH_C0,
        "opacities": torch.full((n, 1), math.log(opacity / (1 - opacity))),
    }


def _discs(normals: np.ndarray, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Quaternions (wxyz) and scales of discs whose third axis is the normal, the first one level."""
    known = np.linalg.norm(normals, axis=1) > 0.5
    quats, scales = np.tile([1.0, 0.0, 0.0, 0.0], (len(normals), 1)), np.full((len(normals), 3), size)
    third = normals[known] / np.linalg.norm(normals[known], axis=1, keepdims=True)
    level = np.stack([-third[:, 1], third[:, 0], np.zeros(len(third))], 1)
    length = np.linalg.norm(level, axis=1, keepdims=True)
    first = np.where(length > 1e-6, level / np.maximum(length, 1e-6), [1.0, 0.0, 0.0])
    axes = np.stack([first, np.cross(third, first), third], -1)
    quats[known] = Rotation.from_matrix(axes).as_quat()[:, [3, 0, 1, 2]]
    steep = 1 - np.abs(third[:, 2])
    scales[known, 1] = size * (1 + (WALL_SPACINGS - 1) * steep)
    scales[known, 2] = size * THICKNESS
    return quats, scales
