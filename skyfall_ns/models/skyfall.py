"""The model for Nerfstudio: an adapter from `Renderer` and `Regularization` to `SplatfactoModel`."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor, nn

from skyfall_ns.dataparsers.camera_metadata import (
    geometry_gradient_scale,
    is_viewer_camera,
    sun_direction,
    training_index,
    view_from_camera,
)
from skyfall_ns.models import losses
from skyfall_ns.models.appearance.fit_appearance import fit_appearance
from skyfall_ns.models.appearance.lighting import ImageAppearance, blend_over_background, to_scene_bands
from skyfall_ns.models.appearance.neighbors import NeighborGraph
from skyfall_ns.models.appearance.shadow_map import ShadowMapCache
from skyfall_ns.models.appearance.spherical_harmonics import SH_C0
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.densification.densifier import Densifier
from skyfall_ns.models.geometry.filter_3d import SmoothingFilter
from skyfall_ns.models.geometry.height_map import SOLID_ALPHA
from skyfall_ns.models.geometry.image_offsets import ImageOffset
from skyfall_ns.models.initialization import init_appearance, init_parameters
from skyfall_ns.models.metrics import image_scores, psnr, split_mask
from skyfall_ns.models.rasterizers import Rendering
from skyfall_ns.models.regularization import Regularization
from skyfall_ns.models.renderer import Renderer
from skyfall_ns.scene.model_space import NormalizedScene
from skyfall_ns.view import View, training_views
from skyfall_ns.viewer.appearance_panel import AppearancePanel
from skyfall_ns.viewer.initial_camera import InitialCamera

BACKGROUND_DEPTH_FACTOR = 3  # depth of the viewer's background over the largest depth: behind all cameras and frustums
VIEWER_BACKGROUND = (0.1490, 0.1647, 0.2157)  # color of viser
LOADED_STEP = 30_000  # step of a loaded model, as in Splatfacto: after every schedule


@dataclass
class SkyfallModelConfig(SkyfallModelOptions):
    """Gaussians of a satellite scene. Lengths are meters."""

    _target: type = field(default_factory=lambda: SkyfallModel)


class SkyfallModel(SplatfactoModel):
    """A Splatfacto model for Nerfstudio's trainer, viewer and exports; `renderer` renders everything."""

    config: SkyfallModelConfig

    def populate_modules(self) -> None:
        """Build parameters on the CPU without downloads; the version of Splatfacto needs CUDA and downloads LPIPS."""
        metadata = self.kwargs["metadata"]
        self.normalized: NormalizedScene = metadata["normalized_scene"]
        assert self.seed_points is not None
        initial = init_parameters(*self.seed_points, metadata["points3D_normals"], self.normalized, self.config)
        self.gauss_params = nn.ParameterDict({name: nn.Parameter(value) for name, value in initial.items()})
        self.appearance_model = init_appearance(self.normalized, self.config)
        self.appearance = AppearancePanel(self.normalized.image_names)  # the viewer uses the name of the attribute
        self.initial_camera = InitialCamera(self.normalized.model_box)
        views = training_views(self.normalized)
        self.image_offsets = ImageOffset(views) if self.config.image_offsets else None
        self.camera_optimizer = self.config.camera_optimizer.setup(num_cameras=self.num_train_data, device="cpu")
        self.background_color, self.crop_box = torch.tensor(VIEWER_BACKGROUND), None
        smoothing = SmoothingFilter(views) if self.config.filter_3d else None
        shadows = ShadowMapCache(self.normalized.scale)
        self.renderer = Renderer(
            self.gauss_params,
            self.appearance_model,
            self.normalized,
            self.config,
            self.image_offsets,
            smoothing,
            shadows,
        )
        neighbors = NeighborGraph(self.normalized.scale)
        self.regularization = Regularization(self.renderer, self.config, neighbors, self.num_points)
        self.densifier = Densifier(self.gauss_params, self.normalized, self.config)
        self.last_rendered: tuple[View, int | None, Rendering] | None = None

    @property
    def step(self) -> int:
        """Training step, an attribute of the renderer."""
        return self.renderer.step

    @step.setter
    def step(self, step: int) -> None:
        self.renderer.step = step

    def train(self, mode: bool = True) -> "SkyfallModel":
        """Switch the model and the renderer, which caches shadow maps in training, between training and evaluation."""
        self.renderer.training = mode
        return super().train(mode)

    def clear_cache(self) -> None:
        """Drop caches that are not in checkpoints, so that a resumed run continues exactly as this one."""
        self.renderer.clear_cache()
        self.regularization.clear_cache()

    @property
    def scales(self) -> Tensor:
        """Logarithms of scales: the parameter in training, else after the 3D filter, for exports."""
        return self.renderer.activated_shapes()[0].log() if self._exports_filter() else self.gauss_params["scales"]

    @property
    def opacities(self) -> Tensor:
        """Logits of opacities: the parameter in training, else after the 3D filter, for exports."""
        if not self._exports_filter():
            return self.gauss_params["opacities"]
        return torch.logit(self.renderer.activated_shapes()[1], eps=1e-6)[:, None]

    def _exports_filter(self) -> bool:
        return self.renderer.smoothing_filter is not None and not self.training

    @property
    def colors(self) -> Tensor:
        """RGB of each Gaussian in the appearance of free views, for the viewer and exports."""
        return self.renderer.free_view_colors()

    @property
    def shs_0(self) -> Tensor:
        """`colors` as the constant spherical harmonic, for exports."""
        return (self.colors - 0.5) / SH_C0

    @property
    def shs_rest(self) -> Tensor:
        """Spherical harmonics above the constant one, for exports; independent of appearance."""
        rest = self.gauss_params.get("features_rest")
        return self.means.new_zeros(self.num_points, 0, 3) if rest is None else rest.expand(-1, -1, 3)

    @property
    def features_rest(self) -> Tensor:
        """`shs_rest` under the name of Splatfacto: the viewer evaluates every property, also without harmonics."""
        return self.shs_rest

    def get_gaussian_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of the Gaussians, one group per name, as gsplat's strategies require."""
        return {name: [parameter] for name, parameter in self.gauss_params.items()}

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Parameters of Gaussians, appearance, and image offsets if they are learned."""
        offsets = {} if self.image_offsets is None else {"image_offsets": [self.image_offsets.raw_offsets_px]}
        return self.get_gaussian_param_groups() | offsets | self.appearance_model.param_groups()

    def load_state_dict(self, dict: dict[str, Tensor], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load any number of Gaussians into the existing parameters; Splatfacto replaces the parameters, but not those
        of the optimizers."""
        for name, parameter in self.gauss_params.items():
            parameter.data = torch.zeros_like(dict[f"gauss_params.{name}"], device=parameter.device)
        self.step = LOADED_STEP
        self.clear_cache()
        return nn.Module.load_state_dict(self, dict, **kwargs)

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor]:
        """Nerfstudio's outputs: rgb, depth, accumulation, background."""
        view, image, scale = view_from_camera(camera), training_index(camera), geometry_gradient_scale(camera)
        cropped = self.crop_box is not None and not self.training
        keep = self.crop_box.within(self.means).squeeze(-1) if cropped else None  # type: ignore[union-attr]
        absgrad = self.training and self.densifier.needs_absgrad(self.step)
        rendering = self.renderer.render(
            view, image, appearance=self._camera_appearance(camera), absgrad=absgrad, keep=keep, gradient_scale=scale
        )
        self.last_size = (view.height, view.width)
        if self.training:
            self.info = rendering.info
            self.last_rendered = (view, image, rendering) if self.config.view_consistency_weight else None
            self.densifier.before_backward(self.optimizers, self.step, self.info, active=scale > 0)
        alpha, depth = rendering.alpha[..., None], rendering.depth[..., None]
        rgb, background = self._over_background(rendering)
        if not self.training:
            rgb = rgb.clamp(0, 1)
            background_depth = (BACKGROUND_DEPTH_FACTOR if is_viewer_camera(camera) else 1) * depth.max()
            depth = depth.where(alpha >= SOLID_ALPHA, background_depth)
        return {"rgb": rgb, "depth": depth, "accumulation": alpha, "background": background}

    def _over_background(self, rendering: Rendering) -> tuple[Float[Tensor, "h w 3"], Float[Tensor, "h w 3"]]:
        """The rendering over the background, and the background."""
        return blend_over_background(rendering, self._get_background_color(), self.normalized.band_count)

    def _camera_appearance(self, camera: Cameras) -> ImageAppearance:
        """Appearance of the camera's image, or of its sun, or that of the viewer's panel."""
        image, sun = training_index(camera), sun_direction(camera)
        if image is not None:
            return self.appearance_model.image_appearance(image)
        if sun is not None:
            return self.appearance_model.reference_appearance(sun)
        return self.appearance_model.interpolate_appearances(*self.appearance.selected_appearances())

    @torch.no_grad()
    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Any]:
        """PSNR of the training view and the number of Gaussians."""
        rgb, image, mask = outputs["rgb"].clamp(0, 1), batch["image"].to(self.device), batch["mask"].to(self.device)
        return {"psnr": psnr(rgb, image, mask), "gaussian_count": self.num_points}

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Photometric loss, and in training the regularization terms of the step."""
        images = outputs["rgb"], batch["image"].to(self.device)
        pred, target = (to_scene_bands(rgb, self.normalized.band_count) for rgb in images)
        mask = batch["mask"].to(self.device)
        loss = {"photometric": losses.photometric_loss(pred, target, mask, self.config.ssim_lambda)}
        if not self.training:
            return loss
        visible, since_reset = self.info["radii"][0] > 0, self.densifier.steps_since_reset(self.step)
        return loss | self.regularization.step_losses(self.step, visible, since_reset, self.last_rendered)

    def step_post_backward(self, step: int) -> None:
        """Densify and prune, clamp scales, and stop if the scene has collapsed."""
        self.densifier.after_backward(self.optimizers, step, self.info)
        if self.config.max_scale_m is not None:
            self.gauss_params["scales"].data.clamp_(max=math.log(self.config.max_scale_m * self.normalized.scale))
        self.densifier.stop_if_collapsed(step)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR and SSIM, and the image beside its rendering. A held-out image has no learned appearance: it is fitted
        on the left half, and the right half is scored."""
        target, mask = batch["image"].to(self.device), batch["mask"].to(self.device)
        if not batch["held_out"]:
            return image_scores(outputs["rgb"], target, mask)
        left, right = split_mask(mask)
        return image_scores(self.render_fitted(batch["camera"], target, left), target, right)

    def render_fitted(
        self, camera: Cameras, target: Float[Tensor, "h w 3"], mask: Float[Tensor, "h w 1"]
    ) -> Float[Tensor, "h w 3"]:
        """Render a view with the appearance that fits an image best where the mask is 1; geometry is not fitted."""
        view = view_from_camera(camera)

        def render_rgb(appearance: ImageAppearance) -> Tensor:
            return self._over_background(self.renderer.render(view, appearance=appearance))[0]

        start = self.appearance_model.reference_appearance(sun_direction(camera))
        return render_rgb(fit_appearance(render_rgb, start, target, mask)).detach().clamp(0, 1)

    def set_crop(self, crop_box: OrientedBox | None) -> None:
        """Set the crop box of the viewer."""
        self.crop_box = crop_box
