"""How splats come and go: the strategy that a model's options describe, thresholds from metres to model units."""

import math

from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.densification.default_strategy import Densification
from skyfall_ns.models.densification.mcmc import Relocation
from skyfall_ns.scene.model_space import SceneOnModel


def growth_of(config: SkyfallModelOptions, on_model: SceneOnModel) -> Densification | Relocation:
    """The strategy for a scene; with "none" one that never acts."""
    stop = 0 if config.growth == "none" else config.stop_split_at
    if config.growth == "relocate":
        return Relocation(config.cull_alpha_thresh, config.warmup_length, stop, config.refine_every)
    split_m = on_model.point_spacing_m if config.densify_size_thresh is None else config.densify_size_thresh
    return Densification(
        prune_opa=config.cull_alpha_thresh,
        grow_grad2d=config.densify_grad_thresh,
        grow_scale3d=split_m * on_model.scale,
        grow_scale2d=config.split_screen_size,
        prune_scale3d=config.cull_scale_thresh * on_model.scale,
        prune_scale2d=config.cull_screen_size,
        refine_scale2d_stop_iter=config.stop_screen_size_at,
        refine_start_iter=config.warmup_length,
        refine_stop_iter=stop,
        reset_every=config.reset_alpha_every * config.refine_every,
        refine_every=config.refine_every,
        pause_refine_after_reset=len(on_model.image_names) + config.refine_every,
        absgrad=config.use_absgrad,
        max_gaussians=config.max_gaussians,
        abs_quantile=config.densify_abs_quantile,
    )


def since_reset(strategy: Densification | Relocation, step: int) -> float:
    """Steps since the last opacity reset; infinite before the first one, and where growth makes none."""
    if not isinstance(strategy, Densification):
        return math.inf
    resets = min(step, strategy.refine_stop_iter - 1) // strategy.reset_every
    return step - resets * strategy.reset_every if resets > 0 else math.inf
