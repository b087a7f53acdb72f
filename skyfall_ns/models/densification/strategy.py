"""The densification strategy of a model's options, with thresholds converted from meters to model units."""

import math

from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.densification.default_strategy import CappedDefaultStrategy
from skyfall_ns.models.densification.mcmc import MCMCRelocation
from skyfall_ns.scene.model_space import NormalizedScene


def make_strategy(options: SkyfallModelOptions, normalized: NormalizedScene) -> CappedDefaultStrategy | MCMCRelocation:
    """The strategy for a scene; with "none", one that never acts."""
    stop = 0 if options.densification == "none" else options.stop_split_at
    if options.densification == "mcmc":
        return MCMCRelocation(options.cull_alpha_thresh, options.warmup_length, stop, options.refine_every)
    pause = options.pause_after_reset
    split_size_m = normalized.point_spacing_m if options.densify_size_thresh is None else options.densify_size_thresh
    return CappedDefaultStrategy(
        prune_opa=options.cull_alpha_thresh,
        grow_grad2d=options.densify_grad_thresh,
        grow_scale3d=split_size_m * normalized.scale,
        grow_scale2d=options.split_screen_size,
        prune_scale3d=options.cull_scale_thresh * normalized.scale,
        prune_scale2d=options.cull_screen_size,
        refine_scale2d_stop_iter=options.stop_screen_size_at,
        refine_start_iter=options.warmup_length,
        refine_stop_iter=stop,
        reset_every=options.reset_alpha_every * options.refine_every,
        refine_every=options.refine_every,
        pause_refine_after_reset=len(normalized.image_names) + options.refine_every if pause is None else pause,
        absgrad=options.use_absgrad,
        max_gaussians=options.max_gaussians,
        abs_quantile=options.densify_abs_quantile,
    )


def steps_since_reset(strategy: CappedDefaultStrategy | MCMCRelocation, step: int) -> float:
    """Steps since the last opacity reset; infinite before the first one, and if the strategy makes none."""
    if not isinstance(strategy, CappedDefaultStrategy):
        return math.inf
    resets = min(step, strategy.refine_stop_iter - 1) // strategy.reset_every
    return step - resets * strategy.reset_every if resets > 0 else math.inf
