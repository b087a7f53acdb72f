"""The Gaussians of a run in one appearance, in meters of a frame: what all exports of Gaussians write."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.spatial.transform import Rotation
from torch import Tensor

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo.target_frame import TargetFrame
from skyfall_ns.models.appearance.lighting import ImageAppearance, gamma_encode
from skyfall_ns.models.appearance.spherical_harmonics import SH_C0, SH_C1, eval_sh1
from skyfall_ns.models.renderer import Renderer

MIN_OPACITY = 1 / 255  # viewers draw no fainter Gaussian


@dataclass(frozen=True)
class GaussianCloud:
    """Gaussians with unit quaternions wxyz, standard deviations in meters along their axes, opacities in 0..1 and
    display colors in 0..1. `slopes` is the change of the color per unit view direction (camera to Gaussian), or None if
    colors do not depend on it."""

    means_m: Float[ndarray, "n 3"]
    quats: Float[ndarray, "n 4"]
    scales_m: Float[ndarray, "n 3"]
    opacities: Float[ndarray, " n"]
    rgb: Float[ndarray, "n 3"]
    slopes: Float[ndarray, "n 3 3"] | None = None  # [Gaussian, axis of the direction, band]

    def __len__(self) -> int:
        return len(self.means_m)

    def harmonics_dc(self) -> Float[ndarray, "n 3"]:
        """Constant spherical harmonic of each band: the color is 0.5 + SH_C0 * harmonic."""
        return ((self.rgb - 0.5) / SH_C0).astype(np.float32)

    def harmonics_rest(self) -> Float[ndarray, "n k 3"]:
        """Harmonics of degree one [Gaussian, harmonic, band] in the convention of 3DGS (-y, z, -x); k is 3 or 0."""
        if self.slopes is None:
            return np.zeros((len(self), 0, 3), np.float32)
        x, y, z = (self.slopes[:, axis] for axis in range(3))
        return (np.stack([-y, z, -x], 1) / SH_C1).astype(np.float32)

    def opacity_logits(self) -> Float[ndarray, " n"]:
        """Logits of the opacities, finite."""
        opacity = self.opacities.clip(1e-6, 1 - 1e-6)
        return np.log(opacity / (1 - opacity)).astype(np.float32)

    def select(self, keep: Bool[ndarray, " n"]) -> "GaussianCloud":
        """The Gaussians of a mask."""
        slopes = None if self.slopes is None else self.slopes[keep]
        means, quats, scales = self.means_m[keep], self.quats[keep], self.scales_m[keep]
        return GaussianCloud(means, quats, scales, self.opacities[keep], self.rgb[keep], slopes)


@torch.no_grad()
def gaussian_cloud(renderer: Renderer, appearance: ImageAppearance, target: TargetFrame) -> GaussianCloud:
    """The Gaussians of a run in an appearance, in the coordinates of a target frame.

    Scales and opacities are those that are rendered, after the 3D filter. Gaussians that are not finite or that no
    viewer draws are left out. Raises SkyfallError if none is left.
    """
    gaussians, normalized = renderer.gaussians(), renderer.normalized
    rgb, slopes = display_colors(renderer, appearance)
    means = gaussians.means.detach().cpu().double().numpy() / normalized.scale + np.array(normalized.center_m)
    quats = torch.nn.functional.normalize(gaussians.quats.detach().cpu().double(), dim=-1).numpy()
    scales = gaussians.scales.detach().cpu().double().numpy() / normalized.scale
    local = GaussianCloud(means, quats, scales, gaussians.opacities.detach().cpu().numpy(), rgb, slopes)
    finite = np.isfinite(np.concatenate([means, quats, scales, local.opacities[:, None], rgb], 1)).all(1)
    kept = local.select(finite & (local.opacities >= MIN_OPACITY))
    if not len(kept):
        raise SkyfallError(f"The run at {normalized.scene.directory} has no visible Gaussian. Train it for more steps.")
    return transform_cloud(kept, renderer, target)


def transform_cloud(cloud: GaussianCloud, renderer: Renderer, target: TargetFrame) -> GaussianCloud:
    """A cloud in local meters of the scene's frame, in a target frame: centers exactly, shapes by the derivative of the
    transform at the center of the scene's box."""
    source, box_m = renderer.normalized.scene.frame, renderer.normalized.scene.box_m
    if source == target.frame:
        rotation, scale = np.eye(3), 1.0
    else:
        rotation, scale = target.rotation_and_scale_at(source, np.array([*box_m[:, :2].mean(0), 0.0]))
    turned = Rotation.from_matrix(rotation) * Rotation.from_quat(cloud.quats[:, [1, 2, 3, 0]])
    quats = turned.as_quat()[:, [3, 0, 1, 2]]
    slopes = None if cloud.slopes is None else np.einsum("ij,njb->nib", rotation, cloud.slopes)
    means = target.from_local(source, cloud.means_m)
    return replace(cloud, means_m=means, quats=quats, scales_m=cloud.scales_m * scale, slopes=slopes)


def display_colors(
    renderer: Renderer, appearance: ImageAppearance
) -> tuple[Float[ndarray, "n 3"], Float[ndarray, "n 3 3"] | None]:
    """Display colors of the Gaussians in 0..1, and their change per unit view direction (None for a run without
    harmonics of degree one): half the difference between the colors in opposite directions."""
    shadow_map = renderer.shadow_map(appearance, None)
    visibility = None if shadow_map is None else shadow_map.sun_visibility(renderer.means.detach())
    albedo = renderer.albedo()

    def encode(values: Float[Tensor, "n b"]) -> Float[ndarray, "n 3"]:
        light = renderer.shade(values, appearance, visibility)
        return gamma_encode(light).clamp(0, 1).expand(-1, 3).cpu().double().numpy()

    rgb = encode(albedo)
    if renderer.options.sh_degree == 0:
        return rgb, None
    slopes = np.zeros((len(rgb), 3, 3))
    for axis in range(3):
        direction = torch.zeros(3, device=renderer.device)
        direction[axis] = 1.0
        change = eval_sh1(renderer.parameters["features_rest"], direction.expand(len(rgb), 3))
        slopes[:, axis] = (encode(albedo + change) - encode(albedo - change)) / 2
    return rgb, slopes
