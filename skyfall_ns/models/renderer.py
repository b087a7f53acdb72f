"""The renderer of a scene: one path from Gaussians to images, depths and height maps.

Training, depth supervision, episodes, DSMs, evaluation and the viewer use it. It is the only place that applies the
quadratic term of satellite cameras, encodes blended light for display, and scales the gradients of geometry.
"""

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from skyfall_ns.geo.grid import Grid
from skyfall_ns.models.appearance.display_color import display_color
from skyfall_ns.models.appearance.lighting import (
    MIN_ALPHA,
    AppearanceModel,
    Direction,
    ImageAppearance,
    gamma_encode,
)
from skyfall_ns.models.appearance.pixel_shadows import apply_pixel_shadows
from skyfall_ns.models.appearance.shading import shade_gaussians
from skyfall_ns.models.appearance.shadow_map import ShadowMap, ShadowMapCache
from skyfall_ns.models.appearance.spherical_harmonics import SH_C0, eval_sh1, view_directions
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.geometry.displaced_means import displace_means
from skyfall_ns.models.geometry.filter_3d import SmoothingFilter, apply_filter
from skyfall_ns.models.geometry.height_map import render_height_map
from skyfall_ns.models.geometry.image_offsets import ImageOffset, apply_image_offset
from skyfall_ns.models.rasterizers import Gaussians, Rendering, pick_rasterizer
from skyfall_ns.scene.model_space import NormalizedScene
from skyfall_ns.view import View, scale_gradient


def opaque_color(rendering: Rendering) -> Float[Tensor, "h w 3"]:
    """Colors in 0..1 without background: divided by alpha."""
    return (rendering.color / rendering.alpha[..., None].clamp_min(MIN_ALPHA)).clamp(0, 1)


def encode_covered(light: Float[Tensor, "h w b"], cover: Float[Tensor, "h w 1"]) -> Float[Tensor, "h w 3"]:
    """Colors in 0..1 of light that was blended with total weight `cover` per pixel; one band becomes gray."""
    return gamma_encode(light / cover.clamp_min(MIN_ALPHA)).clamp(0, 1).expand(-1, -1, 3)


@dataclass
class Renderer:
    """Renders the Gaussians of `parameters` (log scales, logit opacities; densification replaces them in place).

    `step` and `training` are those of the model; spherical harmonics, the 3D filter and cached shadow maps depend on
    them.
    """

    parameters: nn.ParameterDict
    appearance_model: AppearanceModel
    normalized: NormalizedScene
    options: SkyfallModelOptions
    image_offsets: ImageOffset | None
    smoothing_filter: SmoothingFilter | None
    shadow_maps: ShadowMapCache
    step: int = 0
    training: bool = True

    @property
    def means(self) -> Float[Tensor, "n 3"]:
        """Centers of the Gaussians, model space."""
        return self.parameters["means"]

    @property
    def device(self) -> torch.device:
        """Device of the Gaussians."""
        return self.means.device

    def clear_cache(self) -> None:
        """Drop caches that are not in checkpoints."""
        self.shadow_maps.clear_cache()
        if self.smoothing_filter is not None:
            self.smoothing_filter.clear_cache()

    def activated_shapes(self) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
        """Scales and opacities for rendering: after the 3D filter, if it is on."""
        scales = self.parameters["scales"].exp()
        opacities = self.parameters["opacities"].sigmoid().squeeze(-1)
        if self.smoothing_filter is None:
            return scales, opacities
        return apply_filter(scales, opacities, self.smoothing_filter.smoothing_radii(self.means, self.step))

    def gaussians(self) -> Gaussians:
        """All Gaussians as input of the rasterizer."""
        return Gaussians(self.means, self.parameters["quats"], *self.activated_shapes())

    def render(
        self,
        view: View,
        image: int | None = None,
        *,
        sun: Direction | None = None,
        appearance: ImageAppearance | None = None,
        absgrad: bool = False,
        keep: Bool[Tensor, " n"] | None = None,
        gradient_scale: float = 1.0,
    ) -> Rendering:
        """Render a view with the appearance of training image `image`, with any `appearance`, or (both None) with the
        reference appearance in the light of `sun`.

        `keep`: mask of the Gaussians that are rendered. `gradient_scale` in 0..1: factor on the gradients of everything
        but colors. `absgrad`: collect absolute gradients of image positions, for densification."""
        if appearance is None:
            appearance = (
                self.appearance_model.reference_appearance(sun)
                if image is None
                else self.appearance_model.image_appearance(image)
            )
        gaussians = self.gaussians()
        shadow_map = self.shadow_map(appearance, image, gradient_scale, gaussians)
        colors = self.blended_colors(view, appearance, shadow_map, gradient_scale)
        if keep is not None:
            gaussians = Gaussians(*(getattr(gaussians, f.name)[keep] for f in fields(gaussians)))
        if gradient_scale < 1:
            scaled = (scale_gradient(getattr(gaussians, f.name), gradient_scale) for f in fields(gaussians))
            gaussians = Gaussians(*scaled)
        colors = colors if keep is None else colors[keep]
        blended = self.rasterize(view, gaussians, colors, image=image, absgrad=absgrad)
        shadow_map = shadow_map if self.options.pixel_shadows else None
        return replace(blended, color=display_color(blended, self.normalized.band_count, view, appearance, shadow_map))

    def rasterize(
        self,
        view: View,
        gaussians: Gaussians,
        channels: Float[Tensor, "n c"],
        *,
        image: int | None = None,
        absgrad: bool = False,
    ) -> Rendering:
        """Blend any channels of Gaussians in a view, with the learned offset of training image `image`, if any."""
        means = displace_means(gaussians.means, view)
        if self.image_offsets is not None and image is not None and view.projection == "parallel":
            means = apply_image_offset(means, view, self.image_offsets(image))
        shifted = Gaussians(means, gaussians.quats, gaussians.scales, gaussians.opacities)
        return pick_rasterizer(self.device)(shifted, channels, view, absgrad=absgrad)

    def render_depth(self, view: View) -> Rendering:
        """Render depth and alpha only."""
        gaussians = self.gaussians()
        return self.rasterize(view, gaussians, gaussians.means.new_zeros(len(gaussians.means), 0))

    def render_heights(self, grid: Grid) -> np.ndarray:
        """Render heights "h w" (local meters) of a north-up grid; see `height_map.render_height_map`."""
        return render_height_map(self.gaussians(), self.normalized, grid)

    def albedo(self, view: View | None = None) -> Float[Tensor, "n b"]:
        """Albedo of each Gaussian, one band or three, in the direction of a view (None: the constant harmonic)."""
        colors = 0.5 + SH_C0 * self.parameters["features_dc"]
        if view is None or self.options.sh_degree == 0 or self.step < self.options.sh_degree_interval:
            return colors
        return colors + eval_sh1(self.parameters["features_rest"], view_directions(self.means.detach(), view))

    def free_view_colors(self) -> Float[Tensor, "n 3"]:
        """RGB in 0..1 of each Gaussian in the appearance of free views."""
        appearance = self.appearance_model.free_view_appearance()
        shadow_map = self.shadow_map(appearance, None)
        visibility = None if shadow_map is None else shadow_map.sun_visibility(self.means.detach())
        return gamma_encode(self.shade(self.albedo(), appearance, visibility)).clamp(0, 1).expand(-1, 3)

    def blended_colors(
        self, view: View, appearance: ImageAppearance, shadow_map: ShadowMap | None, gradient_scale: float = 1.0
    ) -> Float[Tensor, "n c"]:
        """Channels to blend: light per band, and sun visibility if shadows are resolved per pixel."""
        visibility = None if shadow_map is None else shadow_map.sun_visibility(self.means)
        append = visibility is not None and self.options.pixel_shadows
        return self.shade(self.albedo(view), appearance, visibility, gradient_scale, append)

    def composite(
        self,
        light: Float[Tensor, "h w b"],
        blended: Rendering,
        view: View,
        appearance: ImageAppearance,
        shadow_map: ShadowMap | None,
    ) -> Float[Tensor, "h w b"]:
        """Apply pixel shadows to blended light, if they are on; `blended` is a rendering of `blended_colors`."""
        if shadow_map is None or not self.options.pixel_shadows:
            return light
        visibility = blended.color[..., self.normalized.band_count]
        return apply_pixel_shadows(light, visibility, blended, view, shadow_map, appearance)

    def shade(
        self,
        albedo: Float[Tensor, "n b"],
        appearance: ImageAppearance,
        sun_visibility: Float[Tensor, " n"] | None,
        gradient_scale: float = 1.0,
        append_visibility: bool = False,
    ) -> Float[Tensor, "n c"]:
        """Light of each Gaussian at the sensor; `sun_visibility` in 0..1 (None: no shadows) is one more channel if
        `append_visibility`."""
        embeddings, coefficients = self.appearance_model.embeddings, None
        if embeddings is not None and appearance.embedding is not None:
            coefficients = embeddings(albedo, self.parameters["embeddings"], appearance.embedding)
        quats = scale_gradient(self.parameters["quats"], gradient_scale)
        return shade_gaussians(
            albedo, quats, sun_visibility, coefficients, appearance, self.options.shading, append_visibility
        )

    def shadow_map(
        self,
        appearance: ImageAppearance,
        image: int | None,
        gradient_scale: float = 1.0,
        gaussians: Gaussians | None = None,
    ) -> ShadowMap | None:
        """Shadow map of the sun of an appearance; None without sun or shadows. In training, the map of training image
        `image` is reused for `shadows_every` steps. `gaussians`: those of this renderer, if they are at hand."""
        if appearance.sun is None or not self.options.shadows:
            return None

        def rasterize_channels(channels: Tensor, view: View) -> Rendering:
            return pick_rasterizer(self.device)(gaussians or self.gaussians(), channels, view)

        if image is None:
            return self.shadow_maps.for_sun(appearance.sun, self.means, self.step, rasterize_channels)
        every = self.options.shadows_every if self.training else 1
        shadow_map = self.shadow_maps.for_image(image, appearance.sun, self.means, self.step, every, rasterize_channels)
        return replace(shadow_map, moments=scale_gradient(shadow_map.moments, gradient_scale))
