"""The splat model: Splatfacto's place in the host, exact satellite views, heights tied to the scene's surface."""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.models.splatfacto import SplatfactoModel
from torch import Tensor, nn

from skyfall_ns.dataparsers.camera_metadata import image_of, in_viewer, moves_of, sun_of
from skyfall_ns.errors import TrainingError
from skyfall_ns.models import losses
from skyfall_ns.models.appearance.fit_appearance import fit_look
from skyfall_ns.models.appearance.lighting import (
    Direction,
    Look,
    behind,
    encode,
    in_bands,
    normals_of,
    picture,
    seen,
    sunlight,
)
from skyfall_ns.models.appearance.neighbors import Neighbors, color_losses
from skyfall_ns.models.appearance.pixel_shadows import sharpened
from skyfall_ns.models.appearance.shadow_map import Shadows, SunMap
from skyfall_ns.models.appearance.spherical_harmonics import SH_C0, directional, sight
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.densification.strategy import growth_of, since_reset
from skyfall_ns.models.geometry.filter_3d import SmoothingFilter, apply_filter
from skyfall_ns.models.geometry.height_map import SOLID, HeightTarget, draw_heights, height_m
from skyfall_ns.models.geometry.image_offsets import ImageShift, shifted
from skyfall_ns.models.geometry.view import View, bend, damped, training_views, view_of
from skyfall_ns.models.geometry.view_consistency import shear_loss, sheared
from skyfall_ns.models.initialization import start_looks, start_parameters
from skyfall_ns.models.metrics import halves, image_scores
from skyfall_ns.models.rasterizers import Gaussians, Rendering, pick_rasterizer
from skyfall_ns.scene.model_space import SceneOnModel
from skyfall_ns.viewer.appearance_panel import LookPanel
from skyfall_ns.viewer.initial_camera import HomeView

BEHIND = 3  # the void's depth in the viewer over the farthest splat's: what stands behind the scene is not hidden by it


@dataclass
class SkyfallModelConfig(SkyfallModelOptions):
    """Gaussians of a satellite scene. Lengths are meters."""

    _target: type = field(default_factory=lambda: SkyfallModel)


class SkyfallModel(SplatfactoModel):
    """One `render` serves training, evaluation, viewer, camera paths and exports."""

    config: SkyfallModelConfig

    def populate_modules(self) -> None:
        """Build parameters on the CPU without downloads; the host's own version needs CUDA and fetches LPIPS."""
        metadata = self.kwargs["metadata"]
        self.on_model: SceneOnModel = metadata["scene_on_model"]
        assert self.seed_points is not None
        start = start_parameters(*self.seed_points, metadata["points3D_normals"], self.on_model, self.config)
        self.gauss_params = nn.ParameterDict({name: nn.Parameter(value) for name, value in start.items()})
        self.looks = start_looks(self.on_model, self.config)
        self.look = LookPanel(self.on_model.image_names)  # the viewer shows this name
        self.home = HomeView((self.on_model.scene.box_m - np.array(self.on_model.centre_m)) * self.on_model.scale)
        self.shadows = Shadows(self.on_model.scale)
        self.neighbors = Neighbors(self.on_model.scale)
        views = training_views(self.on_model)
        self.shift = ImageShift(views) if self.config.pose_shift else None
        self.camera_optimizer: CameraOptimizer = self.config.camera_optimizer.setup(
            num_cameras=self.num_train_data, device="cpu"
        )
        self.step, self.crop_box = 0, None
        self.background_color = torch.tensor([0.1490, 0.1647, 0.2157])  # viser's
        self.grow_from(0, self.config)
        self.smoothing = SmoothingFilter(views) if self.config.filter_3d else None
        self.started_with = self.num_points
        self._surface: HeightTarget | None = None
        self.last_drawn: tuple[View, int | None, Rendering] | None = None
        self._grows = True

    def grow_from(self, step: int, config: SkyfallModelOptions) -> None:
        """Begin a window of growth, whose steps count from `step`, with the growth options of `config`."""
        self.growth_began = step
        self.strategy = growth_of(config, self.on_model)
        self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)

    @property
    def scales(self) -> Tensor:
        """Logarithms of scales: the parameter in training, else as they are drawn, so that exports have the filter."""
        raw = self.gauss_params["scales"]
        return raw if self.training or self.smoothing is None else self._drawn()[0].log()

    @property
    def opacities(self) -> Tensor:
        """Logits of opacities: the parameter in training, else as they are drawn, so that exports have the filter."""
        raw = self.gauss_params["opacities"]
        return raw if self.training or self.smoothing is None else torch.logit(self._drawn()[1], eps=1e-6)[:, None]

    @property
    def colors(self) -> Tensor:
        """RGB of each splat in the look and the light of free views, for the viewer and exports."""
        look = self.looks.free()
        sun_map = self.sun_map(look, None)
        lit = None if sun_map is None else sun_map.lit(self.means.detach())
        light = self.seen_light(self.base_colors(), look, lit)
        return encode(light).clamp(0, 1).expand(-1, 3)

    @property
    def shs_0(self) -> Tensor:
        """Canonical RGB as the constant spherical harmonic, for exports."""
        return (self.colors - 0.5) / SH_C0

    @property
    def shs_rest(self) -> Tensor:
        """The harmonics that change with the direction, for exports; looks have no part in them."""
        rest = self.gauss_params.get("features_rest")
        return self.means.new_zeros(self.num_points, 0, 3) if rest is None else rest.expand(-1, -1, 3)

    @property
    def features_rest(self) -> Tensor:
        """The same under the host's name: its viewer evaluates every property, also where there are no harmonics."""
        return self.shs_rest

    def base_colors(self, view: View | None = None) -> Float[Tensor, "n b"]:
        """Colors in even light, one band or three, as a view sees it (None: from nowhere in particular)."""
        colors = 0.5 + SH_C0 * self.features_dc
        if view is None or self.config.sh_degree == 0 or self.step < self.config.sh_degree_interval:
            return colors
        return colors + directional(self.gauss_params["features_rest"], sight(self.means.detach(), view))

    def get_gaussian_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """One optimizer per kind of parameter, as gsplat's strategies need it."""
        return {name: [parameter] for name, parameter in self.gauss_params.items()}

    def get_param_groups(self) -> dict[str, list[nn.Parameter]]:
        """Splats, looks, and shifts where they are learned."""
        shift = {} if self.shift is None else {"shift": [self.shift.pixels]}
        return self.get_gaussian_param_groups() | shift | self.looks.groups()

    def load_state_dict(self, dict: dict[str, Tensor], **kwargs: Any) -> Any:  # type: ignore[override]
        """Load splats of any number into the live parameters; the host's version replaces them behind the optimizers'
        back, which ends in training nothing."""
        for name, parameter in self.gauss_params.items():
            parameter.data = torch.zeros_like(dict[f"gauss_params.{name}"], device=parameter.device)
        self.step = 30_000
        if self.smoothing is not None:
            self.smoothing.forget()
        return nn.Module.load_state_dict(self, dict, **kwargs)

    def gaussians(self, keep: Tensor | None = None) -> Gaussians:
        """All splats, or those chosen by a boolean mask, in the rasterizer's form."""
        means, quats, (scales, opacities) = self.means, self.quats, self._drawn()
        if keep is not None:
            means, quats, scales, opacities = means[keep], quats[keep], scales[keep], opacities[keep]
        return Gaussians(means, quats, scales, opacities)

    def _drawn(self) -> tuple[Float[Tensor, "n 3"], Float[Tensor, " n"]]:
        """Scales and opacities as they are drawn: behind the 3D filter, if it is on."""
        scales = self.gauss_params["scales"].exp()
        opacities = self.gauss_params["opacities"].sigmoid().squeeze(-1)
        if self.smoothing is None:
            return scales, opacities
        return apply_filter(scales, opacities, self.smoothing.radius(self.means, self.step))

    def render(
        self,
        view: View,
        image: int | None = None,
        *,
        sun: Direction | None = None,
        look: Look | None = None,
        absgrad: bool = False,
        keep: Tensor | None = None,
        moves: float = 1.0,
    ) -> Rendering:
        """Draw a view with the look of a training image (None: the canonical look, lit by `sun`), or with any look;
        `moves`: part of the gradients that reaches more than colours."""
        if look is None:
            look = self.looks.canonical(sun) if image is None else self.looks.of(image)
        sun_map = self.sun_map(look, image, moves)
        colors = self.drawn_colors(view, look, sun_map, moves)
        splats = self.gaussians(keep)
        if moves < 1:
            splats = Gaussians(*(damped(getattr(splats, f.name), moves) for f in fields(splats)))
        means = bend(splats.means, view)
        if self.shift is not None and image is not None and view.projection == "parallel":
            means = shifted(means, view, self.shift(image))
        bent = Gaussians(means, splats.quats, splats.scales, splats.opacities)
        draw = pick_rasterizer(self.means.device)
        drawn = draw(bent, colors if keep is None else colors[keep], view, absgrad=absgrad)
        light = self.finished(drawn.color[..., : self.on_model.bands], drawn, view, look, sun_map)
        return replace(drawn, color=picture(light, drawn.alpha))

    def drawn_colors(self, view: View, look: Look, sun_map: SunMap | None, moves: float = 1.0) -> Float[Tensor, "n c"]:
        """What is drawn of splats: their light, and the sunlight on them where pixels have shadows of their own."""
        lit = None if sun_map is None else sun_map.lit(self.means)
        light = self.seen_light(self.base_colors(view), look, lit, moves)
        return light if lit is None or not self.config.pixel_shadows else torch.cat([light, lit[:, None]], -1)

    def finished(
        self, light: Float[Tensor, "h w b"], drawn: Rendering, view: View, look: Look, sun_map: SunMap | None
    ) -> Float[Tensor, "h w b"]:
        """Blended light with the shadows of pixels, if they are on; `drawn` is a drawing of `drawn_colors`."""
        if sun_map is None or not self.config.pixel_shadows:
            return light
        return sharpened(light, drawn.color[..., self.on_model.bands], drawn, view, sun_map, look)

    def seen_light(
        self, base: Float[Tensor, "n b"], look: Look, lit: Float[Tensor, " n"] | None, moves: float = 1.0
    ) -> Float[Tensor, "n b"]:
        """The light of splats with base colours under a look; `lit` is the sunlight on them (None: all of it), `moves`
        how much of the gradients turns splats."""
        light = None
        if look.sun is not None and (lit is not None or self.config.shading):
            normals = normals_of(damped(self.quats, moves)) if self.config.shading else None
            light = sunlight(normals, lit, look.sun, look.log_sky.exp())
        light = seen(base, light, look)
        if self.looks.appearance is None or look.embedding is None:
            return light
        return self.looks.appearance(base, self.gauss_params["embeddings"], look.embedding)(light)

    def sun_map(self, look: Look, image: int | None, moves: float = 1.0) -> SunMap | None:
        """What throws shadows under a look; None where nothing does. `image` tells whose map may be reused, `moves` how
        much of the gradients reaches what throws them."""
        if look.sun is None or not self.config.shadows:
            return None

        def draw(heights: Tensor, view: View) -> Rendering:
            return pick_rasterizer(self.means.device)(self.gaussians(), heights, view)

        if image is None:
            return self.shadows.of_sun(look.sun, self.means, self.step, draw)
        every = self.config.shadows_every if self.training else 1
        drawn = self.shadows.of_image(image, look.sun, self.means, self.step, every, draw)
        return replace(drawn, moments=damped(drawn.moments, moves))

    def render_depth(self, view: View) -> Rendering:
        """Depth and alpha only."""
        splats = self.gaussians()
        bent = Gaussians(bend(splats.means, view), splats.quats, splats.scales, splats.opacities)
        return pick_rasterizer(self.means.device)(bent, splats.means.new_zeros(self.num_points, 0), view)

    def get_outputs(self, camera: Cameras) -> dict[str, Tensor]:
        """The host's form: rgb, depth, accumulation, background."""
        view, image = view_of(camera), image_of(camera)
        keep = None
        if self.crop_box is not None and not self.training:
            keep = self.crop_box.within(self.means).squeeze(-1)
        absgrad = self.training and self.strategy.wants_absgrad(self.step - self.growth_began)
        moves = moves_of(camera)
        result = self.render(view, image, look=self._look(camera), absgrad=absgrad, keep=keep, moves=moves)
        self.last_size = (view.height, view.width)
        if self.training:
            self.info = result.info
            self.last_drawn = (view, image, result) if self.config.shear_weight else None
            self._grows = moves > 0  # without gradients of places there is nothing to learn where to grow
            if self._grows:
                self.strategy.step_pre_backward(
                    self.gauss_params, self.optimizers, self.strategy_state, self.step - self.growth_began, self.info
                )
        alpha, depth = result.alpha[..., None], result.depth[..., None]
        background = behind(alpha, self._get_background_color(), self.on_model.bands)
        rgb = result.color + (1 - alpha) * background
        if not self.training:
            rgb = rgb.clamp(0, 1)
            depth = depth.where(alpha >= SOLID, (BEHIND if in_viewer(camera) else 1) * depth.max())
        return {"rgb": rgb, "depth": depth, "accumulation": alpha, "background": background}

    def _look(self, camera: Cameras) -> Look:
        """Of its image; of its sun; or as the viewer's panel says."""
        image, sun = image_of(camera), sun_of(camera)
        if image is not None:
            return self.looks.of(image)
        return self.looks.blend(*self.look.selection()) if sun is None else self.looks.canonical(sun)

    def get_metrics_dict(self, outputs: dict[str, Tensor], batch: dict[str, Any]) -> dict[str, Any]:
        """PSNR of the step's view and the number of splats."""
        with torch.no_grad():
            rgb = outputs["rgb"].clamp(0, 1)
            error = ((rgb - batch["image"].to(self.device)) * batch["mask"].to(self.device)).square()
            psnr = -10 * torch.log10(error.sum() / (3 * batch["mask"].sum()).clamp_min(1) + 1e-12)
        return {"psnr": psnr, "gaussian_count": self.num_points}

    def get_loss_dict(
        self, outputs: dict[str, Tensor], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Photometric loss, and the surface's terms at their steps."""
        pred, target = (in_bands(rgb, self.on_model.bands) for rgb in (outputs["rgb"], batch["image"].to(self.device)))
        mask = batch["mask"].to(self.device)
        loss = {"photometric": losses.photometric_loss(pred, target, mask, self.config.ssim_lambda)}
        if not self.training:
            return loss
        if self.shift is not None:
            loss["shift"] = self.config.pose_shift_weight * self.shift.prior()
        if self.step % self.config.surface_every == 0:
            loss |= self.surface_losses()
        loss |= color_losses(self.gauss_params, self.base_colors(), self.neighbors, self.config, self.step)
        return loss | self.opacity_losses() | self.shear_losses()

    def opacity_losses(self) -> dict[str, Tensor]:
        """Entropy of the opacities that the step's view shows, and their sum; empty where their weights are 0."""
        config, loss = self.config, {}
        if config.entropy_weight:
            opacities = self.opacities.squeeze(-1).sigmoid()
            visible = self.info["radii"][0] > 0
            weight = losses.entropy_weight(
                config.entropy_weight, since_reset(self.strategy, self.step - self.growth_began)
            )
            loss["entropy"] = weight * losses.opacity_entropy(opacities[visible])
        if config.sparsity_weight:
            opacities = self.opacities.sigmoid()
            loss["sparsity"] = config.sparsity_weight * losses.sparsity(opacities, self.started_with)
        return loss

    def shear_losses(self) -> dict[str, Tensor]:
        """Agreement of the step's view with itself tilted; empty where the weight is 0."""
        if self.last_drawn is None or self.step % self.config.shear_every:
            return {}
        view, image, drawn = self.last_drawn
        if view.projection != "parallel":
            return {}
        per_unit = float(view.camera_from_model[:2, :2].norm(dim=-1).mean())
        tilted = sheared(view, per_unit)
        again = self.render(tilted.view, image)
        return {"shear": self.config.shear_weight * shear_loss(drawn, again, view, tilted, self.on_model.scale)}

    def surface_losses(self) -> dict[str, Tensor]:
        """Distance of rendered heights to the surface, their roughness, and what shines through; empty without one."""
        config = self.config
        if self.on_model.surface is None or config.surface_weight == 0:
            return {}
        self._surface = self._surface or HeightTarget.of(self.on_model, self.device)
        assert self._surface is not None
        drawn = self.render_depth(self._surface.view)
        heights = height_m(drawn.depth, self.on_model)
        seen = self._surface.weight * (drawn.alpha.detach() > 0.5)
        weight = config.surface_weight * self._surface.pull
        return {
            "surface": weight * losses.surface_loss(heights, self._surface.surface_m, seen),
            "smooth": config.smooth_weight * losses.total_variation(heights, self._surface.weight),
            "closed": config.closed_weight * losses.emptiness(drawn.alpha, self._surface.cover),
        }

    def step_post_backward(self, step: int) -> None:
        """Let splats come and go; keep sizes in bounds; stop when the scene has collapsed."""
        if self._grows:
            self.strategy.step_post_backward(
                self.gauss_params, self.optimizers, self.strategy_state, step - self.growth_began, self.info
            )
        with torch.no_grad():
            self.gauss_params["scales"].clamp_(max=math.log(self.config.max_scale_m * self.on_model.scale))
        self._stop_if_collapsed(step)

    def _stop_if_collapsed(self, step: int) -> None:
        """Splats may be gone, or still counted but too faint to be seen, as entropy leaves them without pruning."""
        left = self.num_points
        if step % self.config.refine_every == 0:
            left = int((self.gauss_params["opacities"].sigmoid() > self.config.cull_alpha_thresh).sum())
        if left < 0.1 * self.started_with:
            raise TrainingError(
                f"The scene has collapsed: {left} of {self.started_with} splats are left. Use more images, a lower "
                "--pipeline.model.entropy-weight or cull-alpha-thresh, or --pipeline.model.growth none."
            )

    def learned_shifts_px(self) -> dict[str, tuple[float, float]]:
        """Name of each training image to its learned shift (col, row); empty where none are learned."""
        if self.shift is None:
            return {}
        rows = self.shift.all().tolist()
        return {name: (col, row) for name, (col, row) in zip(self.on_model.image_names, rows, strict=True)}

    def render_heights(
        self, x_min_m: float, y_max_m: float, resolution_m: float, width: int, height: int
    ) -> np.ndarray:
        """Heights "h w" (local metres) of a north-up grid; see `models.heights.draw_heights`."""
        return draw_heights(self.gaussians(), self.on_model, x_min_m, y_max_m, resolution_m, width, height)

    def get_image_metrics_and_images(
        self, outputs: dict[str, Tensor], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR and SSIM, numbers, and truth beside rendering. Held-out images have a light of their own, which no
        training image tells: their look is fitted on the left half, and the scores are those of the right half."""
        target, mask = batch["image"].to(self.device), batch["mask"].to(self.device)
        if not batch["held_out"]:
            return image_scores(outputs["rgb"], target, mask)
        left, right = halves(mask)
        rgb = self.draw_fitted(batch["camera"], target, left)
        return image_scores(rgb, target, right)

    def draw_fitted(
        self, camera: Cameras, target: Float[Tensor, "h w 3"], mask: Float[Tensor, "h w 1"]
    ) -> Float[Tensor, "h w 3"]:
        """A view with the look that suits a picture best where the mask is 1; geometry has no part in it."""
        view = view_of(camera)

        def draw(look: Look) -> Tensor:
            drawn = self.render(view, look=look)
            alpha = drawn.alpha[..., None]
            return drawn.color + (1 - alpha) * behind(alpha, self._get_background_color(), self.on_model.bands)

        look = fit_look(draw, self.looks.canonical(sun_of(camera)), target, mask)
        return draw(look).detach().clamp(0, 1)

    def set_crop(self, crop_box: OrientedBox | None) -> None:
        """The viewer's crop box."""
        self.crop_box = crop_box
