"""Loss terms besides the photometric one: surface, opacities, colors, view consistency, image offsets."""

from dataclasses import dataclass

from torch import Tensor

from skyfall_ns.models import losses
from skyfall_ns.models.appearance.neighbors import NeighborGraph, color_losses
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.geometry.height_map import HeightTarget, nadir_height_m
from skyfall_ns.models.geometry.height_terms import height_terms
from skyfall_ns.models.geometry.view_consistency import tilt_view, view_consistency_loss
from skyfall_ns.models.rasterizers import Rendering
from skyfall_ns.models.renderer import Renderer
from skyfall_ns.view import View

SOLID_ALPHA = 0.5  # heights are compared where alpha is larger


@dataclass
class Regularization:
    """Regularization terms of a model, and the data that they reuse between steps; terms with weight 0 are omitted.

    `initial_count`: number of Gaussians at the start, to which the sparsity term is relative.
    """

    renderer: Renderer
    options: SkyfallModelOptions
    neighbor_graph: NeighborGraph
    initial_count: int
    height_target: HeightTarget | None = None

    def clear_cache(self) -> None:
        """Drop caches that are not in checkpoints."""
        self.neighbor_graph.clear_cache()

    def step_losses(
        self, step: int, visible: Tensor, steps_since_reset: float, rendered: tuple[View, int | None, Rendering] | None
    ) -> dict[str, Tensor]:
        """The terms of a training step: `visible` masks the Gaussians that its rendering shows, `rendered` is the
        rendering with its view and training image (None without the view consistency term)."""
        terms = self.image_offset_losses()
        if step % self.options.surface_every == 0:
            terms |= self.surface_losses()
        terms |= self.color_losses(step)
        terms |= self.opacity_losses(visible, steps_since_reset)
        if rendered is not None:
            terms |= self.view_consistency_losses(*rendered, step)
        return terms

    def surface_losses(self) -> dict[str, Tensor]:
        """Distance of rendered heights from the surface, their total variation, and missing coverage."""
        options, normalized = self.options, self.renderer.normalized
        if normalized.surface is None or options.surface_weight == 0:
            return {}
        if self.height_target is None:
            self.height_target = HeightTarget.from_scene(normalized, self.renderer.device, self.options)
        assert self.height_target is not None
        target = self.height_target
        rendering = self.renderer.render_depth(target.view)
        heights = nadir_height_m(rendering.depth, normalized)
        surface, variation, coverage = height_terms(
            heights, rendering.alpha, target.surface_m, target.weight, target.coverage_mask, SOLID_ALPHA
        )
        return {
            "surface": options.surface_weight * target.weight_scale * surface,
            "height_tv": options.height_tv_weight * variation,
            "coverage": options.coverage_weight * coverage,
        }

    def opacity_losses(self, visible: Tensor, steps_since_reset: float) -> dict[str, Tensor]:
        """Entropy of the opacities of `visible` Gaussians (mask) or of all, and the sum of all opacities."""
        options, terms = self.options, {}
        logits = self.renderer.parameters["opacities"]
        if options.entropy_weight:
            weight = losses.entropy_weight(options.entropy_weight, steps_since_reset)
            opacities = logits.squeeze(-1).sigmoid()
            among = opacities if options.entropy_gaussians == "all" else opacities[visible]
            terms["entropy"] = weight * losses.opacity_entropy(among)
        if options.sparsity_weight:
            terms["sparsity"] = options.sparsity_weight * losses.opacity_sparsity(logits.sigmoid(), self.initial_count)
        return terms

    def color_losses(self, step: int) -> dict[str, Tensor]:
        """Excess of albedo over white, and differences between neighbors."""
        renderer = self.renderer
        return color_losses(renderer.parameters, renderer.albedo, self.neighbor_graph, self.options, step)

    def view_consistency_losses(
        self, view: View, image: int | None, rendering: Rendering, step: int
    ) -> dict[str, Tensor]:
        """Consistency of the rendering of a step with a tilted view (EOGS), every `view_consistency_every` steps."""
        if not self.options.view_consistency_weight or step % self.options.view_consistency_every:
            return {}
        if view.projection != "parallel":
            return {}
        pixels_per_unit = float(view.camera_from_model[:2, :2].norm(dim=-1).mean())
        tilted = tilt_view(view, pixels_per_unit)
        tilted_rendering = self.renderer.render(tilted.view, image)
        loss = view_consistency_loss(rendering, tilted_rendering, view, tilted, self.renderer.normalized.scale)
        return {"view_consistency": self.options.view_consistency_weight * loss}

    def image_offset_losses(self) -> dict[str, Tensor]:
        """Penalty of the learned image offsets."""
        offsets = self.renderer.image_offsets
        if offsets is None:
            return {}
        return {"image_offsets": self.options.image_offsets_weight * offsets.prior_loss()}
