"""Densification by image gradients: gsplat's default strategy below a hard cap, with effective screen-size limits.

Statistics are dense: gsplat 1.4.0 selects visible Gaussians by index, which takes as long on a CPU as a fifth of the
rasterization. It also prunes by size only after the first opacity reset, and resets opacities at step 0.
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
class CappedDefaultStrategy(DefaultStrategy):
    """gsplat's rules, and two more. `max_gaussians` is never exceeded (the largest gradients are densified first). With
    `abs_quantile`, the fraction of Gaussians that the threshold on mean gradients selects is also selected by absolute
    gradients: g >= threshold or a >= quantile(a, 1 - fraction) (Gaussian Opacity Fields, adopted by Skyfall-GS)."""

    max_gaussians: int = 1_000_000
    abs_quantile: bool = False

    def needs_absgrad(self, step: int) -> bool:
        """Whether the rendering of a step must compute absolute gradients."""
        return (self.absgrad or self.abs_quantile) and step < self.refine_stop_iter

    def step_post_backward(
        self, params: Any, optimizers: Any, state: dict[str, Any], step: int, info: dict[str, Any], packed: bool = False
    ) -> None:
        """Update statistics at every step; densify, prune and reset opacities at theirs."""
        if not 0 < step < self.refine_stop_iter:
            return
        self._update_state(params, state, info)
        reset_settled = step % self.reset_every >= self.pause_refine_after_reset
        if step > self.refine_start_iter and step % self.refine_every == 0 and reset_settled:
            self._grow_gs(params, optimizers, state, step)
            self._prune_gs(params, optimizers, state, step)
            for key in STATISTICS:
                if key in state:
                    state[key].zero_()
        if step % self.reset_every == 0:
            reset_opa(params=params, optimizers=optimizers, state=state, value=2 * self.prune_opa)

    def _update_state(self, params: Any, state: dict[str, Any], info: dict[str, Any], packed: bool = False) -> None:
        """Add the gradients of image positions, normalized to half an image, of the visible Gaussians."""
        probe = info[self.key_for_gradient]
        visible = info["radii"][0] > 0
        half = probe.grad.new_tensor([info["width"] / 2, info["height"] / 2])
        for key in STATISTICS if self.abs_quantile else STATISTICS[:-1]:
            if state.get(key) is None:
                state[key] = half.new_zeros(len(visible))
        grads = (probe.absgrad if self.absgrad else probe.grad)[0]
        state["grad2d"] += torch.where(visible, (grads * half).norm(dim=-1), 0.0)
        state["count"] += visible
        relative_radii = info["radii"][0] / float(max(info["width"], info["height"]))
        state["radii"] = torch.maximum(state["radii"], torch.where(visible, relative_radii, 0.0))
        if self.abs_quantile:  # the sum over both axes, as in Skyfall-GS
            state["absolute"] += torch.where(visible, (probe.absgrad[0] * half).sum(-1), 0.0)

    @torch.no_grad()
    def _grow_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> tuple[int, int]:
        """Duplicate small candidates, split large ones and those that are large on the screen; returns their
        numbers."""
        gradients, candidates = self.select_candidates(state)
        large = params["scales"].exp().amax(-1) > self.grow_scale3d * state["scene_scale"]
        splits, duplicates = candidates & large, candidates & ~large
        if step < self.refine_scale2d_stop_iter:
            large_on_screen = state["radii"] > self.grow_scale2d
            splits, duplicates = splits | large_on_screen, duplicates & ~large_on_screen
        allowed = select_strongest(gradients, splits | duplicates, self.max_gaussians - len(gradients))
        splits, duplicates = splits & allowed, duplicates & allowed
        n_duplicates, n_splits = int(duplicates.sum()), int(splits.sum())
        if n_duplicates:
            duplicate(params=params, optimizers=optimizers, state=state, mask=duplicates)
        if n_splits:
            mask = torch.cat([splits, splits.new_zeros(n_duplicates)])
            split(params=params, optimizers=optimizers, state=state, mask=mask, revised_opacity=self.revised_opacity)
        return n_duplicates, n_splits

    def select_candidates(self, state: dict[str, Any]) -> tuple[Float[Tensor, " n"], Bool[Tensor, " n"]]:
        """Mean gradient of each Gaussian, and the mask of those to densify."""
        views = state["count"].clamp_min(1)
        gradients = state["grad2d"] / views
        selected = gradients > self.grow_grad2d
        if self.abs_quantile:
            selected = selected | select_strongest(state["absolute"] / views, state["count"] > 0, int(selected.sum()))
        return gradients, selected

    @torch.no_grad()
    def _prune_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> int:
        """Remove Gaussians that are faint, too long, or too large on the screen (with the halves of a split just
        made)."""
        pruned = params["opacities"].flatten().sigmoid() < self.prune_opa
        pruned |= params["scales"].exp().amax(-1) > self.prune_scale3d * state["scene_scale"]
        if step < self.refine_scale2d_stop_iter:
            pruned |= state["radii"] > self.prune_scale2d
        if pruned.any():
            remove(params=params, optimizers=optimizers, state=state, mask=pruned)
        return int(pruned.sum())


def select_strongest(gradients: Float[Tensor, " n"], among: Bool[Tensor, " n"], count: int) -> Bool[Tensor, " n"]:
    """Mask of at most `count` of the Gaussians in `among`: those with the largest gradients."""
    if int(among.sum()) <= count:
        return among
    indices = torch.where(among, gradients, -torch.inf).topk(max(count, 0)).indices
    return torch.zeros_like(among).index_fill(0, indices, True)
