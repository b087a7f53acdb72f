"""Densification of a model: one strategy of gsplat, its statistics, and the steps from which it counts."""

from typing import Any

from torch import nn

from skyfall_ns.errors import TrainingError
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.densification.strategy import make_strategy, steps_since_reset
from skyfall_ns.scene.model_space import NormalizedScene

COLLAPSE_FRACTION = 0.1  # of the initial Gaussians, below which a scene has collapsed


class Densifier:
    """Densifies and prunes `parameters` in place; `restart` begins a window whose steps count from its first one."""

    def __init__(self, parameters: nn.ParameterDict, normalized: NormalizedScene, options: SkyfallModelOptions) -> None:
        self._parameters, self._normalized, self._options = parameters, normalized, options
        self.initial_count = len(parameters["means"])
        self._active = True
        self.restart(0, options)

    def restart(self, step: int, options: SkyfallModelOptions) -> None:
        """Begin a window at `step` with the options of `options`."""
        self.start_step = step
        self.strategy = make_strategy(options, self._normalized)
        self.state = self.strategy.initialize_state(scene_scale=1.0)

    def needs_absgrad(self, step: int) -> bool:
        """Whether the step's rendering must record absolute gradients."""
        return self.strategy.needs_absgrad(step - self.start_step)

    def steps_since_reset(self, step: int) -> float:
        """Steps since the last opacity reset, infinite before the first one."""
        return steps_since_reset(self.strategy, step - self.start_step)

    def before_backward(self, optimizers: dict[str, Any], step: int, info: dict[str, Any], active: bool) -> None:
        """Prepare the gradients of a rendering; an inactive step has no gradients of positions, and is skipped."""
        self._active = active
        if active:
            self.strategy.step_pre_backward(self._parameters, optimizers, self.state, step - self.start_step, info)

    def after_backward(self, optimizers: dict[str, Any], step: int, info: dict[str, Any]) -> None:
        """Gather statistics, densify and prune."""
        if self._active:
            self.strategy.step_post_backward(self._parameters, optimizers, self.state, step - self.start_step, info)

    def stop_if_collapsed(self, step: int) -> None:
        """Raise TrainingError if most Gaussians have been pruned, or (checked every `refine_every` steps, as the
        entropy term leaves such Gaussians unpruned) are too transparent to be visible."""
        remaining, options = len(self._parameters["means"]), self._options
        if step % options.refine_every == 0:
            remaining = int((self._parameters["opacities"].sigmoid() > options.cull_alpha_thresh).sum())
        if remaining < COLLAPSE_FRACTION * self.initial_count:
            raise TrainingError(
                f"The scene has collapsed: {remaining} of {self.initial_count} Gaussians are left. Use more images, a "
                "lower --pipeline.model.entropy-weight or cull-alpha-thresh, or --pipeline.model.densification none."
            )
