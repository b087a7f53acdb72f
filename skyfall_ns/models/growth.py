"""How splats come and go: the strategy that a model's options describe, thresholds from metres to model units."""

from skyfall_ns.dataparsers.skyfall_dataparser import SceneOnModel
from skyfall_ns.models.config import SkyfallModelConfig
from skyfall_ns.models.densify import Densification
from skyfall_ns.models.relocate import Relocation


def growth_of(config: SkyfallModelConfig, on_model: SceneOnModel) -> Densification | Relocation:
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
