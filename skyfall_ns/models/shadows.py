"""Cast shadows: which splats the sun reaches at an image's date (EOGS' largest gain), looked up in a depth map drawn
from the sun's direction.

A splat that lies behind what the sun sees by d metres keeps exp(-sharpness d) of the sun (EOGS, with 0.4 per metre).
What the sun sees is where half of its light has stopped: read further back, roofs throw shadows that are too small
(measured on a city: 0.25 dB of held-out images). Shadows follow the splats without gradients: geometry is for stereo
and photometry to find.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.rasterizers import Rendering
from skyfall_ns.models.view import View

SHARPNESS_PER_M = 2.0
FORGIVEN_M = 1.2  # depth differences that are the splats' own thickness
CELL_M = 0.35  # of the sun's depth map


def sun_view(direction: Float[Tensor, "3"], low: Float[Tensor, "3"], high: Float[Tensor, "3"], cell: float) -> View:
    """A parallel view of the box (low, high) from `direction` (towards the light), `cell` model units per pixel; depth
    is measured from a plane in front of the box, so that it is positive."""
    towards = direction.double() / direction.double().norm()
    side = torch.tensor([1.0, 0.0, 0.0] if abs(towards[0]) < 0.9 else [0.0, 1.0, 0.0], dtype=torch.float64)
    right = torch.nn.functional.normalize(side - (side @ towards) * towards, dim=0)
    down = torch.linalg.cross(right, towards)
    rows = torch.stack([right / cell, -down / cell, -towards])
    corners = torch.cartesian_prod(*torch.stack([low.double(), high.double()], 1))
    seen = corners @ rows.T
    offset = -seen.min(0).values
    offset[2] += 0.01 * float((high - low).norm())
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3, :3], camera[2, 3] = rows, offset[2]
    intrinsics = torch.eye(3, dtype=torch.float64)
    intrinsics[:2, 2] = offset[:2]
    width, height = (max(1, math.ceil(v)) for v in (seen.max(0).values + offset)[:2].tolist())
    return View(camera, intrinsics, width, height, "parallel")


def sunlit(
    points: Float[Tensor, "n 3"], sun_depth: Float[Tensor, "h w"], view: View, sharpness: float, forgiven: float
) -> Float[Tensor, " n"]:
    """Share of the sun that reaches each point, 0..1: 1 outside the sun's picture and where it holds no surface.

    `sharpness` is per model unit of depth, `forgiven` a depth in model units."""
    camera, k = view.camera_from_model.to(points), view.intrinsics.to(points)
    seen = points @ camera[:3, :3].T + camera[:3, 3]
    pixels = seen[:, :2] @ k[:2, :2].T + k[:2, 2]
    corner = (pixels - 0.5).floor()
    share = pixels - 0.5 - corner
    light = torch.zeros_like(seen[:, 0])
    for column, row in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = corner[:, 0].long() + column, corner[:, 1].long() + row
        inside = (x >= 0) & (x < view.width) & (y >= 0) & (y < view.height)
        first = sun_depth.to(points)[y.clamp(0, view.height - 1), x.clamp(0, view.width - 1)]
        behind = torch.where(inside & (first > 0), torch.relu(seen[:, 2] - first - forgiven), 0.0)
        weight = (share[:, 0] if column else 1 - share[:, 0]) * (share[:, 1] if row else 1 - share[:, 1])
        light += weight * torch.exp(-sharpness * behind)
    return light


class Shadows:
    """Which splats the sun of each image reaches, drawn anew now and then."""

    def __init__(self, directions: list[tuple[float, float, float] | None], scale: float) -> None:
        """`directions` are unit vectors to the sun in the local frame, None where unknown (then nothing is shaded);
        `scale` is model units per metre."""
        self._directions, self._scale = directions, scale
        self._lit: dict[object, tuple[int, int, Tensor]] = {}

    def lit_in(
        self, image: int, means: Tensor, step: int, every: int, draw: Callable[[View], Rendering]
    ) -> Float[Tensor, " n"] | None:
        """Sunlight on each splat at an image's date, recomputed when splats have come or gone or `every` steps have
        passed; None where the sun's place is unknown."""
        direction = self._directions[image]
        return None if direction is None else self._cached(image, direction, means, step, every, draw)

    def lit_from(
        self, direction: tuple[float, float, float], means: Tensor, step: int, draw: Callable[[View], Rendering]
    ) -> Float[Tensor, " n"]:
        """Sunlight on each splat for any direction to the sun (local frame)."""
        return self._cached(direction, direction, means, step, 1, draw)

    def forget(self) -> None:
        """Empty the cache, as a run that starts from a checkpoint has it."""
        self._lit.clear()

    def _cached(self, key: object, direction, means: Tensor, step: int, every: int, draw) -> Tensor:  # type: ignore[no-untyped-def]
        known = self._lit.get(key)
        if known is not None and known[0] == means.shape[0] and 0 <= step - known[1] < every:
            return known[2]
        with torch.no_grad():
            low, high = means.amin(0), means.amax(0)
            view = sun_view(torch.tensor(direction), low.cpu(), high.cpu(), CELL_M * self._scale)
            lit = sunlit(means, draw(view).half_depth(), view, SHARPNESS_PER_M / self._scale, FORGIVEN_M * self._scale)
        self._lit[key] = (means.shape[0], step, lit)
        return lit
