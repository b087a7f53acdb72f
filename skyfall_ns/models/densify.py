"""gsplat's default strategy with statistics kept densely: its own picks the visible splats by number, which takes as
long on a CPU as a fifth of the drawing."""

from typing import Any

import torch
from gsplat.strategy import DefaultStrategy


class DenseStatistics(DefaultStrategy):
    """The same sums in the same state; every other rule is gsplat's."""

    def _update_state(self, params: Any, state: dict[str, Any], info: dict[str, Any], packed: bool = False) -> None:
        """Add a step's gradients of image positions, normalised to half an image, where a splat was drawn."""
        probe = info[self.key_for_gradient]
        grads = (probe.absgrad if self.absgrad else probe.grad)[0]
        seen = info["radii"][0] > 0
        half = grads.new_tensor([info["width"] / 2, info["height"] / 2])
        for key in ("grad2d", "count", *(("radii",) if self.refine_scale2d_stop_iter > 0 else ())):
            if state[key] is None:
                state[key] = torch.zeros(len(seen), device=grads.device)
        state["grad2d"] += torch.where(seen, (grads * half).norm(dim=-1), 0.0)
        state["count"] += seen
        if self.refine_scale2d_stop_iter > 0:
            share = info["radii"][0] / float(max(info["width"], info["height"]))
            state["radii"] = torch.maximum(state["radii"], torch.where(seen, share, 0.0))
