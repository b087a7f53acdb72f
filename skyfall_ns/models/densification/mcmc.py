"""Growth by moving: faint splats stand up again where opaque ones are (3DGS as Markov chain Monte Carlo), in plain
torch; gsplat's version needs CUDA.

Kheradmand et al. 2024, arXiv:2404.09591, section 4.2. The paper's noise and its pull on opacities and sizes explore
where photographs say little; here the surface says where splats belong, so neither is taken over.
"""

from dataclasses import dataclass
from typing import Any

import torch
from gsplat.strategy.base import Strategy
from gsplat.strategy.ops import _update_param_with_optimizer
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from skyfall_ns.errors import TrainingError

MOST = 51  # splats in one place, as in the paper's code
FAINTEST = 0.005  # opacity that a splat keeps whatever its share (gsplat)


def shared(
    opacities: Float[Tensor, " n"], scales: Float[Tensor, "n 3"], number: Int64[Tensor, " n"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, "n 3"]]:
    """Opacities and scales of `number` equal splats that together look like one.

    (1 - o')^N = 1 - o, so that the centre is as opaque as before, and s' = s o / S with
    S = sum_k C(N, k) (-1)^(k-1) o'^k / sqrt(k), so that the integral over a line through it is (equation 9; its double
    sum is S, because sum_i C(i-1, k-1) = C(N, k)).
    """
    n, o = number.double(), opacities.double()
    each = -torch.expm1(torch.log1p(-o) / n)
    k = torch.arange(1, int(number.max()) + 1, device=o.device, dtype=torch.float64)
    log_choose = torch.lgamma(n + 1)[:, None] - torch.lgamma(k + 1) - torch.lgamma((n[:, None] - k).clamp_min(0) + 1)
    sign = 1 - 2 * ((k - 1) % 2)
    terms = torch.where(k <= n[:, None], sign * log_choose.exp() * each[:, None] ** k / k.sqrt(), 0.0)
    return each.to(opacities), scales * (o / terms.sum(-1)).to(scales)[:, None]


@torch.no_grad()
def relocate(
    params: Any, optimizers: Any, dead: Bool[Tensor, " n"], onto: Int64[Tensor, " m"], faintest: float = FAINTEST
) -> None:
    """Move the dead splats, in order, onto those numbered `onto`, which share their opacity with them; the optimizers
    forget the past of both."""
    moved, opacities = dead.nonzero()[:, 0], params["opacities"].flatten().sigmoid()
    number = (torch.bincount(onto, minlength=len(dead)) + 1).clamp_max(MOST)[onto]
    full = 1 - torch.finfo(torch.float32).eps
    each, scales = shared(opacities[onto].clamp_max(full), params["scales"].exp()[onto], number)
    new = {"opacities": torch.logit(each.clamp(faintest, full))[:, None], "scales": scales.log()}

    def parameter(name: str, old: Tensor) -> nn.Parameter:
        values = old.detach().clone()
        values[onto] = new.get(name, values[onto])
        values[moved] = values[onto]
        return nn.Parameter(values)

    def past(_: str, old: Tensor) -> Tensor:
        old[onto], old[moved] = 0, 0
        return old

    _update_param_with_optimizer(parameter, past, params, optimizers)


@dataclass
class Relocation(Strategy):
    """Every `every` steps between `start` and `stop`, splats fainter than `dead_opacity` move onto others, drawn in
    proportion to their opacity. Their number never changes."""

    dead_opacity: float
    start: int
    stop: int
    every: int

    def wants_absgrad(self, step: int) -> bool:
        """Nothing is learned from gradients of image positions."""
        return False

    def initialize_state(self, scene_scale: float = 1.0) -> dict[str, Any]:
        """No state."""
        return {}

    def step_pre_backward(self, params: Any, optimizers: Any, state: Any, step: int, info: Any) -> None:
        """Nothing to prepare."""

    def step_post_backward(
        self, params: Any, optimizers: Any, state: Any, step: int, info: Any, packed: bool = False
    ) -> None:
        """Move the dead at the steps where that is due. TrainingError if no splat is alive."""
        if not self.start < step < self.stop or step % self.every:
            return
        opacities = params["opacities"].detach().flatten().sigmoid()
        dead = opacities < self.dead_opacity
        if dead.all():
            raise TrainingError(
                f"The scene has collapsed: no splat is more opaque than {self.dead_opacity}. "
                "Use more images, a lower --pipeline.model.cull-alpha-thresh, or --pipeline.model.growth none."
            )
        if dead.any():
            weights = torch.where(dead, 0.0, opacities)
            relocate(params, optimizers, dead, torch.multinomial(weights, int(dead.sum()), replacement=True))
