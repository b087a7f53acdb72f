"""Image formation: sun, ambient light, path radiance and sensor of each image.

    light = gain * albedo * (ambient * (0.6 + 0.4 n_z) + visibility * max(n . s, 0)) / (ambient + s_z) + path radiance

albedo is the color of the Gaussian decoded with the display gamma of 2.2 that images are encoded with, n its normal, s
the sun direction, visibility its sun visibility; level ground in the sun keeps its color. 0.6 + 0.4 n_z is the light of
a uniform sky and of ground that reflects a fifth (Liu and Jordan, 1963). Gaussians are blended as linear light, because
a sensor's pixel integrates light, and the image is encoded afterward: blending encoded colors would enlarge bright
roofs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skyfall_ns.models.appearance.embeddings import AppearanceDecoder, AppearanceEmbedding
from skyfall_ns.models.rasterizers.types import Rendering
from skyfall_ns.scene.scene import DISPLAY_GAMMA

INITIAL_AMBIENT = 0.3  # relative to the sun's light on a surface that faces it: clear air
LINEAR_BELOW = 1e-3  # light below this is encoded linearly, because the gradient of the power diverges
MIN_ALPHA = 1e-3  # lower bound of alpha in divisions
MIN_VISIBLE_ALPHA = 1 / 255  # one step of an 8-bit image

Direction = tuple[float, float, float]


@dataclass(frozen=True)
class ImageAppearance:
    """Appearance of one image: log gain, path radiance and log ambient light per band (1 or 3), the image embedding (or
    None), and the sun direction in the local frame (None: uniform light)."""

    log_gain: Float[Tensor, "b"]
    path_radiance: Float[Tensor, "b"]
    log_ambient: Float[Tensor, "b"]
    embedding: Float[Tensor, "32"] | None
    sun: Direction | None

    def learnable_tensors(self) -> dict[str, Tensor]:
        """The fields that can be fitted to an image."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sun"}
        return {name: value for name, value in values.items() if value is not None}

    def lerp(self, other: "ImageAppearance", weight: float) -> "ImageAppearance":
        """Linear interpolation to another appearance, weight in 0..1; the sun is that of the nearer one."""
        others = other.learnable_tensors()
        interpolated = {
            name: torch.lerp(value, others[name], weight) for name, value in self.learnable_tensors().items()
        }
        return replace(self, **interpolated, sun=self.sun if weight < 0.5 else other.sun)


class AppearanceModel(nn.Module):
    """Appearances of all training images. Without a decoder there are no embeddings.

    `reference_images` are the indices of the images whose mean appearance is the reference (None: all). The ambient
    light of free views is that of the reference times `free_view_ambient_scale`."""

    def __init__(
        self,
        sun_directions: Sequence[Direction | None],
        decoder: AppearanceDecoder | None,
        reference_images: Sequence[int] | None = None,
        bands: int = 3,
        free_view_ambient_scale: float = 1.0,
    ) -> None:
        super().__init__()
        n = len(sun_directions)
        self.free_view_ambient_scale = free_view_ambient_scale
        self.reference_images = tuple(range(n) if reference_images is None else reference_images)
        self.sun_directions = tuple(sun_directions)
        self.log_gain, self.path_radiance = nn.Parameter(torch.zeros(n, bands)), nn.Parameter(torch.zeros(n, bands))
        self.log_ambient = nn.Parameter(torch.full((n, bands), INITIAL_AMBIENT).log())
        self.embeddings = None if decoder is None else AppearanceEmbedding(n, decoder, bands)

    def param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters by optimizer."""
        groups = {"image_appearance": [self.log_gain, self.path_radiance, self.log_ambient]}
        if self.embeddings is not None:
            groups["image_embeddings"] = [self.embeddings.image_embeddings]
            groups["appearance_decoder"] = list(self.embeddings.decoder.parameters())
        return groups

    def image_appearance(self, image: int) -> ImageAppearance:
        """Appearance of a training image."""
        embedding = None if self.embeddings is None else self.embeddings.image_embeddings[image]
        return ImageAppearance(
            self.log_gain[image],
            self.path_radiance[image],
            self.log_ambient[image],
            embedding,
            self.sun_directions[image],
        )

    def reference_appearance(self, sun: Direction | None = None) -> ImageAppearance:
        """Mean appearance of the reference images, with a given sun or in uniform light."""
        appearances = [self.image_appearance(image).learnable_tensors() for image in self.reference_images]
        mean = {name: torch.stack([appearance[name] for appearance in appearances]).mean(0) for name in appearances[0]}
        return replace(self.image_appearance(self.reference_images[0]), **mean, sun=sun)

    def free_view_appearance(self) -> ImageAppearance:
        """Appearance of free views and exports: the reference with its mean sun and scaled ambient light. Uniform light
        would amplify surfaces that images hardly show, such as facades in shadow."""
        appearance = self.reference_appearance(self.mean_sun())
        return replace(appearance, log_ambient=appearance.log_ambient + math.log(self.free_view_ambient_scale))

    def interpolate_appearances(self, first: int | None, second: int | None, weight: float) -> ImageAppearance:
        """Interpolate between the appearances of two images, weight in 0..1; None is the appearance of free views."""
        start, end = (
            self.free_view_appearance() if image is None else self.image_appearance(image) for image in (first, second)
        )
        return start.lerp(end, weight)

    def mean_sun(self) -> Direction | None:
        """Mean of the known sun directions of the reference images; None if none is known."""
        suns = [sun for image in self.reference_images if (sun := self.sun_directions[image]) is not None]
        if not suns:
            return None
        x, y, z = torch.nn.functional.normalize(torch.tensor(suns, dtype=torch.float64).sum(0), dim=0).tolist()
        return x, y, z


def relative_irradiance(
    normals: Float[Tensor, "n 3"] | None,
    sun_visibility: Float[Tensor, " n"] | None,
    sun: Direction,
    ambient: Float[Tensor, "b"],
) -> Float[Tensor, "n b"]:
    """Irradiance relative to level ground in the sun; without `normals` all surfaces are level, without
    `sun_visibility` all are in the sun."""
    direct = sun[2] if normals is None else (normals @ normals.new_tensor(sun)).clamp_min(0)
    if sun_visibility is not None:
        direct = direct * sun_visibility
    hemisphere = 1.0 if normals is None else 0.6 + 0.4 * normals[:, 2:]
    direct = direct[:, None] if isinstance(direct, Tensor) else direct
    return (ambient * hemisphere + direct) / (ambient + sun[2])


def gamma_encode(light: Tensor) -> Tensor:
    """Encode linear light for display; linear below LINEAR_BELOW, so that black keeps a gradient."""
    above = light.clamp_min(LINEAR_BELOW) ** (1 / DISPLAY_GAMMA)
    return above + (light - LINEAR_BELOW).clamp_max(0) * (LINEAR_BELOW ** (1 / DISPLAY_GAMMA - 1) / DISPLAY_GAMMA)


def gamma_decode(colors: Tensor) -> Tensor:
    """Decode display colors to linear light; negative colors are black."""
    return colors.clamp_min(0) ** DISPLAY_GAMMA


def apply_sensor_model(
    albedo: Float[Tensor, "n b"], irradiance: Float[Tensor, "n b"] | None, appearance: ImageAppearance
) -> Float[Tensor, "n b"]:
    """Light of Gaussians at the sensor; `irradiance` is relative (None: 1)."""
    reflected = gamma_decode(albedo)
    if irradiance is not None:
        reflected = reflected * irradiance
    return appearance.log_gain.exp() * reflected + appearance.path_radiance


def encode_premultiplied(light: Float[Tensor, "h w b"], alpha: Float[Tensor, "h w"]) -> Float[Tensor, "h w 3"]:
    """Encode blended light for display, premultiplied by alpha; one band becomes gray."""
    coverage = alpha[..., None]
    return (coverage * gamma_encode(light / coverage.clamp_min(MIN_ALPHA))).expand(-1, -1, 3)


class _OverBackground(torch.autograd.Function):
    """color + (1 - alpha) * background with one pass in each direction; the background has no gradient."""

    @staticmethod
    def forward(ctx: Any, color: Tensor, alpha: Tensor, background: Tensor) -> Tensor:
        ctx.background = background
        return torch.addcmul(color, 1 - alpha, background)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        return upstream[0], -(upstream[0] * ctx.background).sum(-1, keepdim=True), None


def blend_over_background(
    rendering: Rendering, background: Float[Tensor, "3"], bands: int
) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w 3"]]:
    """A rendering over a background, differentiable in color and alpha, and the background per pixel."""
    alpha = rendering.alpha[..., None]
    per_pixel = background_per_pixel(alpha, background, bands)
    return _OverBackground.apply(rendering.color, alpha, per_pixel), per_pixel


def background_per_pixel(
    alpha: Float[Tensor, "h w 1"], background: Float[Tensor, "3"], bands: int
) -> Float[Tensor, "h w 3"]:
    """Background of each pixel. In scenes of one band it is gray except where alpha is 0, so that renders stay gray."""
    if bands == 3:
        return background.expand(*alpha.shape[:2], 3)
    return torch.where(alpha.detach() > MIN_VISIBLE_ALPHA, background[1:2], background)


def to_scene_bands(rgb: Float[Tensor, "h w 3"], bands: int) -> Float[Tensor, "h w b"]:
    """The bands of a scene in an RGB image: their mean if there is one band."""
    return rgb if bands == 3 else rgb.mean(-1, keepdim=True)


def normals_from_quats(quats: Float[Tensor, "n 4"]) -> Float[Tensor, "n 3"]:
    """Third axis of each Gaussian, which is the thin one at the start; quaternions wxyz of any length."""
    w, x, y, z = nn.functional.normalize(quats, dim=-1).unbind(-1)
    return torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], -1)
