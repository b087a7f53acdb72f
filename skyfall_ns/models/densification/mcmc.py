"""Densification by relocation: faint Gaussians are moved to opaque ones (3DGS-MCMC), in plain torch, because gsplat's
version needs CUDA.

Kheradmand et al. 2024, arXiv:2404.09591, section 4.2. The paper's noise and its regularization of opacities and scales
explore where photographs determine little; here the surface determines where Gaussians belong, so both are omitted.
"""

from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy.base import Strategy
from gsplat.strategy.ops import _update_param_with_optimizer
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from skyfall_ns.errors import TrainingError

MAX_COPIES = 51  # Gaussians in one place (code of the paper)
MIN_OPACITY = 0.005  # lower bound of a relocated Gaussian's opacity (gsplat)


def compute_relocation(
    opacities: Float[Tensor, " n"], scales: Float[Tensor, "n 3"], copies: Int64[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Opacities and scales of `copies` equal Gaussians that together equal one.

    (1 - o')^N = 1 - o preserves the opacity of the center, and s' = s o / S with
    S = sum_k C(N, k) (-1)^(k-1) o'^k / sqrt(k) preserves the integral over a line through it (equation 9; its double
    sum is S, because sum_i C(i-1, k-1) = C(N, k)).
    """
    n, o = copies.double(), opacities.double()
    new_opacities = -torch.expm1(torch.log1p(-o) / n)
    k = torch.arange(1, int(copies.max()) + 1, device=o.device, dtype=torch.float64)
    log_choose = torch.lgamma(n + 1)[:, None] - torch.lgamma(k + 1) - torch.lgamma((n[:, None] - k).clamp_min(0) + 1)
    sign = 1 - 2 * ((k - 1) % 2)
    terms = torch.where(k <= n[:, None], sign * log_choose.exp() * new_opacities[:, None] ** k / k.sqrt(), 0.0)
    return new_opacities.to(opacities), scales * (o / terms.sum(-1)).to(scales)[:, None]


@torch.no_grad()
def relocate_gaussians(
    params: Any,
    optimizers: Any,
    dead: Bool[Tensor, " n"],
    targets: Int64[Tensor, " m"],
    min_opacity: float = MIN_OPACITY,
) -> None:
    """Move the dead Gaussians, in order, to those with the indices `targets`, which share their opacity with them. The
    optimizer moments of both are reset."""
    moved, opacities = dead.nonzero()[:, 0], params["opacities"].flatten().sigmoid()
    copies = (torch.bincount(targets, minlength=len(dead)) + 1).clamp_max(MAX_COPIES)[targets]
    max_opacity = 1 - torch.finfo(torch.float32).eps
    new_opacities, scales = compute_relocation(
        opacities[targets].clamp_max(max_opacity), params["scales"].exp()[targets], copies
    )
    new = {"opacities": torch.logit(new_opacities.clamp(min_opacity, max_opacity))[:, None], "scales": scales.log()}

    def update_parameter(name: str, old: Tensor) -> nn.Parameter:
        values = old.detach().clone()
        values[targets] = new.get(name, values[targets])
        values[moved] = values[targets]
        return nn.Parameter(values)

    def reset_moments(_: str, old: Tensor) -> Tensor:
        old[targets], old[moved] = 0, 0
        return old

    _update_param_with_optimizer(update_parameter, reset_moments, params, optimizers)


@dataclass
class MCMCRelocation(Strategy):
    """Every `relocate_every` steps between `start_step` and `stop_step`, Gaussians fainter than `dead_opacity` are
    moved to others, sampled in proportion to opacity. The number of Gaussians is constant."""

    dead_opacity: float
    start_step: int
    stop_step: int
    relocate_every: int

    def needs_absgrad(self, step: int) -> bool:
        """False: gradients of image positions are not used."""
        return False

    def initialize_state(self, scene_scale: float = 1.0) -> dict[str, Any]:
        """No state."""
        return {}

    def step_pre_backward(self, params: Any, optimizers: Any, state: Any, step: int, info: Any) -> None:
        """Nothing to prepare."""

    def step_post_backward(
        self, params: Any, optimizers: Any, state: Any, step: int, info: Any, packed: bool = False
    ) -> None:
        """Relocate dead Gaussians at the steps where it is due. TrainingError if all are dead."""
        if not self.start_step < step < self.stop_step or step % self.relocate_every:
            return
        opacities = params["opacities"].detach().flatten().sigmoid()
        dead = opacities < self.dead_opacity
        if dead.all():
            raise TrainingError(
                f"The scene has collapsed: no Gaussian is more opaque than {self.dead_opacity}. "
                "Use more images, a lower --pipeline.model.cull-alpha-thresh, or --pipeline.model.densification none."
            )
        if dead.any():
            weights = torch.where(dead, 0.0, opacities)
            relocate_gaussians(params, optimizers, dead, torch.multinomial(weights, int(dead.sum()), replacement=True))
