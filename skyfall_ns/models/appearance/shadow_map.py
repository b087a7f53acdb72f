"""Cast shadows: which splats the sun reaches at an image's date (EOGS' largest gain), looked up in a map of heights
that is drawn from the sun's direction.

The map is a variance shadow map (Donnelly and Lauritzen 2006) of heights: where light stops, it has a mean height m and
a variance v, and a share v / (v + d²) of it at most, by Chebyshev's inequality, goes on to what lies d below m. Where a
roof's rim covers a part of a pixel and the street the rest, that is the share of the rest; so shadows have soft edges,
and how dark an image is at a shadow's edge moves the roof that throws it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.appearance.lighting import Direction
from skyfall_ns.models.appearance.shadow_lookup import sunlight_at
from skyfall_ns.models.geometry.view import View
from skyfall_ns.models.rasterizers import Rendering

FORGIVEN_M = 0.4  # what lies less below the mean is in the sun: splats have a thickness, slopes have both in one pixel
THICKNESS_M = 0.2  # standard deviation of what stops light, at least
CELL_M = 0.35  # of the sun's map

Draw = Callable[[Float[Tensor, "n 2"], View], Rendering]


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


@dataclass(frozen=True)
class SunMap:
    """What the sun sees of the splats: `moments` are heights above `middle` and their squares, both times alpha, and
    alpha; `per_m` is model units per metre."""

    moments: Float[Tensor, "h w 3"]
    middle: Float[Tensor, ""]
    view: View
    per_m: float

    def lit(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Share of the sun that reaches each point (model space), 0..1: 1 outside the map and where it holds no
        surface. Gradients flow to the map, not to the points."""
        k = self.view.intrinsics[:2]
        pixel = k[:, :2] @ self.view.camera_from_model[:2]
        pixel[:, 3] += k[:, 2]
        height = pixel.new_tensor([[0.0, 0.0, 1.0, FORGIVEN_M * self.per_m - float(self.middle)]])
        return sunlight_at(self.moments, points, torch.cat([pixel, height]), (THICKNESS_M * self.per_m) ** 2)

    def detach(self) -> "SunMap":
        """The same map without gradients."""
        return replace(self, moments=self.moments.detach())


def draw_sun_map(sun: Direction, means: Float[Tensor, "n 3"], per_m: float, draw: Draw) -> SunMap:
    """The map of splats from a sun (unit vector in the local frame), with gradients to what `draw` draws."""
    means = means.detach()
    low, high = torch.stack([torch.stack(values.aminmax()) for values in means.unbind(-1)], -1).cpu()
    view = sun_view(torch.tensor(sun), low, high, CELL_M * per_m)
    middle = means[:, 2].mean()  # squares of small numbers are exact enough
    heights = means[:, 2] - middle
    drawn = draw(torch.stack([heights, heights**2], -1), view)
    return SunMap(torch.cat([drawn.color, drawn.alpha[..., None]], -1), middle, view, per_m)


class Shadows:
    """The sun's maps, drawn anew now and then."""

    def __init__(self, scale: float) -> None:
        """`scale` is model units per metre."""
        self._scale = scale
        self._maps: dict[tuple[object, int], tuple[int, int, SunMap]] = {}  # by whose they are and how long they last

    def of_image(self, image: int, sun: Direction, means: Tensor, step: int, every: int, draw: Draw) -> SunMap:
        """The map of an image's sun, drawn again when splats have come or gone or `every` steps have passed, and then
        with gradients to what `draw` draws."""
        return self._cached(image, sun, means, step, every, draw)

    @torch.no_grad()
    def of_sun(self, sun: Direction, means: Tensor, step: int, draw: Draw) -> SunMap:
        """The map of any sun, without gradients."""
        return self._cached(sun, sun, means, step, 1, draw)

    def forget(self) -> None:
        """Empty the cache, as a run that starts from a checkpoint has it."""
        self._maps.clear()

    def _cached(self, key: object, sun: Direction, means: Tensor, step: int, every: int, draw: Draw) -> SunMap:
        known = self._maps.get((key, every))
        if known is not None and known[0] == means.shape[0] and 0 <= step - known[1] < every:
            return known[2]
        if every <= 1:  # of those drawn each step only the last is asked for again, and maps of large scenes are large
            self._maps = {whose: kept for whose, kept in self._maps.items() if whose[1] > 1}
        drawn = draw_sun_map(sun, means, self._scale, draw)
        self._maps[key, every] = (means.shape[0], step, drawn.detach())
        return drawn
