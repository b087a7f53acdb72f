"""Growth by image gradients: gsplat's default strategy below a hard cap, with sizes on the screen that are looked at.

Statistics are kept densely: gsplat 1.4.0 picks the visible splats by number, which takes as long on a CPU as a fifth of
the drawing. It also prunes by size only after the first opacity reset, and resets opacities at step 0.
"""

from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy import DefaultStrategy
from gsplat.strategy.ops import duplicate, remove, reset_opa, split
from jaxtyping import Bool, Float
from torch import Tensor

STATISTICS = ("grad2d", "count", "radii", "absolute")


@dataclass
class Densification(DefaultStrategy):
    """gsplat's rules, and two more: `max_gaussians` is never exceeded (the strongest gradients grow first), and with
    `abs_quantile` as many splats as the threshold on mean gradients chooses are chosen by their absolute gradients too:
    g >= threshold or a >= quantile(a, 1 - share) (Gaussian Opacity Fields, taken over by Skyfall-GS)."""

    max_gaussians: int = 1_000_000
    abs_quantile: bool = False

    def wants_absgrad(self, step: int) -> bool:
        """Whether the step's drawing must tell absolute gradients."""
        return (self.absgrad or self.abs_quantile) and step < self.refine_stop_iter

    def step_post_backward(
        self, params: Any, optimizers: Any, state: dict[str, Any], step: int, info: dict[str, Any], packed: bool = False
    ) -> None:
        """Statistics of every step; growth, pruning and opacity resets at theirs."""
        if not 0 < step < self.refine_stop_iter:
            return
        self._update_state(params, state, info)
        rested = step % self.reset_every >= self.pause_refine_after_reset
        if step > self.refine_start_iter and step % self.refine_every == 0 and rested:
            self._grow_gs(params, optimizers, state, step)
            self._prune_gs(params, optimizers, state, step)
            for key in STATISTICS:
                if key in state:
                    state[key].zero_()
        if step % self.reset_every == 0:
            reset_opa(params=params, optimizers=optimizers, state=state, value=2 * self.prune_opa)

    def _update_state(self, params: Any, state: dict[str, Any], info: dict[str, Any], packed: bool = False) -> None:
        """Add a step's gradients of image positions, normalised to half an image, where a splat was drawn."""
        probe = info[self.key_for_gradient]
        seen = info["radii"][0] > 0
        half = probe.grad.new_tensor([info["width"] / 2, info["height"] / 2])
        for key in STATISTICS if self.abs_quantile else STATISTICS[:-1]:
            if state.get(key) is None:
                state[key] = half.new_zeros(len(seen))
        grads = (probe.absgrad if self.absgrad else probe.grad)[0]
        state["grad2d"] += torch.where(seen, (grads * half).norm(dim=-1), 0.0)
        state["count"] += seen
        share = info["radii"][0] / float(max(info["width"], info["height"]))
        state["radii"] = torch.maximum(state["radii"], torch.where(seen, share, 0.0))
        if self.abs_quantile:  # the sum over both axes, as Skyfall-GS has it
            state["absolute"] += torch.where(seen, (probe.absgrad[0] * half).sum(-1), 0.0)

    @torch.no_grad()
    def _grow_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> tuple[int, int]:
        """Duplicate small candidates and split large ones and those that are large on the screen; their numbers."""
        strength, candidates = self.candidates(state)
        large = params["scales"].exp().amax(-1) > self.grow_scale3d * state["scene_scale"]
        splits, duplicates = candidates & large, candidates & ~large
        if step < self.refine_scale2d_stop_iter:
            giants = state["radii"] > self.grow_scale2d
            splits, duplicates = splits | giants, duplicates & ~giants
        allowed = strongest(strength, splits | duplicates, self.max_gaussians - len(strength))
        splits, duplicates = splits & allowed, duplicates & allowed
        n_duplicates, n_splits = int(duplicates.sum()), int(splits.sum())
        if n_duplicates:
            duplicate(params=params, optimizers=optimizers, state=state, mask=duplicates)
        if n_splits:
            old = torch.cat([splits, splits.new_zeros(n_duplicates)])
            split(params=params, optimizers=optimizers, state=state, mask=old, revised_opacity=self.revised_opacity)
        return n_duplicates, n_splits

    def candidates(self, state: dict[str, Any]) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """Mean gradient of each splat, and which of them shall grow."""
        views = state["count"].clamp_min(1)
        strength = state["grad2d"] / views
        chosen = strength > self.grow_grad2d
        if self.abs_quantile:
            chosen = chosen | strongest(state["absolute"] / views, state["count"] > 0, int(chosen.sum()))
        return strength, chosen

    @torch.no_grad()
    def _prune_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> int:
        """Remove what is faint, too long, or too large on the screen (with the halves it was just split into)."""
        gone = params["opacities"].flatten().sigmoid() < self.prune_opa
        gone |= params["scales"].exp().amax(-1) > self.prune_scale3d * state["scene_scale"]
        if step < self.refine_scale2d_stop_iter:
            gone |= state["radii"] > self.prune_scale2d
        if gone.any():
            remove(params=params, optimizers=optimizers, state=state, mask=gone)
        return int(gone.sum())


def strongest(strength: Float[Tensor, " n"], among: Bool[Tensor, " n"], number: int) -> Bool[Tensor, " n"]:
    """At most `number` of the splats in `among`: the strongest ones."""
    if int(among.sum()) <= number:
        return among
    order = torch.where(among, strength, -torch.inf).topk(max(number, 0)).indices
    return torch.zeros_like(among).index_fill(0, order, True)
