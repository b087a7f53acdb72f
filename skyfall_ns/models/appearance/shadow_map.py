"""Cast shadows: sun visibility of Gaussians for the sun of an image (the largest gain in EOGS), from a shadow map.

The map is a variance shadow map (Donnelly and Lauritzen 2006) of heights rendered from the sun direction: the heights
that stop light have a mean m and a variance v, and by Chebyshev's inequality at most a fraction v / (v + d²) of the
light reaches a point d below m. Where the edge of a roof covers a part of a pixel and the street the rest, that is the
fraction of the rest; so shadows have soft edges, and the brightness of an image at the edge of a shadow has a gradient
to the roof that casts it.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.models.appearance.lighting import Direction
from skyfall_ns.models.appearance.shadow_lookup import sample_sun_visibility
from skyfall_ns.models.rasterizers import Rendering
from skyfall_ns.view import View

DEPTH_BIAS_M = 0.4  # points less than this below the mean are in the sun, because of thick Gaussians and slopes
MIN_STD_M = 0.2  # lower bound of the standard deviation of heights
CELL_M = 0.5  # pixel size of shadow maps, close to that of satellite images

RasterizeChannels = Callable[[Float[Tensor, "n 3"], View], Rendering]


def sun_view(direction: Float[Tensor, "3"], low: Float[Tensor, "3"], high: Float[Tensor, "3"], cell: float) -> View:
    """A parallel view of the box (low, high) from `direction` (toward the light), `cell` model units per pixel; depth
    is measured from a plane in front of the box, so that it is positive."""
    toward = direction.double() / direction.double().norm()
    side = torch.tensor([1.0, 0.0, 0.0] if abs(toward[0]) < 0.9 else [0.0, 1.0, 0.0], dtype=torch.float64)
    right = torch.nn.functional.normalize(side - (side @ toward) * toward, dim=0)
    down = torch.linalg.cross(right, toward)
    rows = torch.stack([right / cell, -down / cell, -toward])
    corners = torch.cartesian_prod(*torch.stack([low.double(), high.double()], 1))
    projected = corners @ rows.T
    offset = -projected.min(0).values
    offset[2] += 0.01 * float((high - low).norm())
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3, :3], camera[2, 3] = rows, offset[2]
    intrinsics = torch.eye(3, dtype=torch.float64)
    intrinsics[:2, 2] = offset[:2]
    width, height = (max(1, math.ceil(v)) for v in (projected.max(0).values + offset)[:2].tolist())
    return View(camera, intrinsics, width, height, "parallel")


@dataclass(frozen=True)
class ShadowMap:
    """Variance shadow map: `moments` are heights above `mean_height` and their squares, both times alpha, and alpha.
    `scale` is model units per meter."""

    moments: Float[Tensor, "h w 3"]
    mean_height: Float[Tensor, ""]
    view: View
    scale: float

    def sun_visibility(self, points: Float[Tensor, "n 3"]) -> Float[Tensor, " n"]:
        """Sun visibility of points (model space), 0..1; 1 outside the map and where it has no surface. Gradients flow
        to the map, not to the points."""
        return sample_sun_visibility(self.moments, points, self.lookup_rows(), self.min_variance)

    @property
    def min_variance(self) -> float:
        """Lower bound of the variance of heights, squared model units."""
        return (MIN_STD_M * self.scale) ** 2

    def lookup_rows(self) -> Float[Tensor, "3 4"]:
        """Rows that map a point (model space) to its column, its row and the height that is compared; float64."""
        k = self.view.intrinsics[:2]
        pixel = k[:, :2] @ self.view.camera_from_model[:2]
        pixel[:, 3] += k[:, 2]
        height = pixel.new_tensor([[0.0, 0.0, 1.0, DEPTH_BIAS_M * self.scale - float(self.mean_height)]])
        return torch.cat([pixel, height])

    def detach(self) -> "ShadowMap":
        """The same map without gradients."""
        return replace(self, moments=self.moments.detach())


def render_shadow_map(
    sun: Direction, means: Float[Tensor, "n 3"], scale: float, rasterize: RasterizeChannels
) -> ShadowMap:
    """Render the shadow map of Gaussians for a sun (unit vector in the local frame), differentiable in the
    Gaussians."""
    means = means.detach()
    low, high = torch.stack([torch.stack(values.aminmax()) for values in means.unbind(-1)], -1).cpu()
    view = sun_view(torch.tensor(sun), low, high, CELL_M * scale)
    mean_height = means[:, 2].mean()  # relative to it, float32 squares are accurate enough
    heights = means[:, 2] - mean_height
    moments = rasterize(torch.stack([heights, heights**2, torch.ones_like(heights)], -1), view).color
    return ShadowMap(moments, mean_height, view, scale)


class ShadowMapCache:
    """Shadow maps, rendered again after some steps."""

    def __init__(self, scale: float) -> None:
        """`scale` is model units per meter."""
        self._scale = scale
        self._maps: dict[tuple[object, int], tuple[int, int, ShadowMap]] = {}  # by (image or sun, update period)

    def for_image(
        self, image: int, sun: Direction, means: Tensor, step: int, update_every: int, rasterize: RasterizeChannels
    ) -> ShadowMap:
        """The shadow map of an image, rendered again when the number of Gaussians has changed or `update_every` steps
        have passed, and then with gradients."""
        return self._get_or_render(image, sun, means, step, update_every, rasterize)

    @torch.no_grad()
    def for_sun(self, sun: Direction, means: Tensor, step: int, rasterize: RasterizeChannels) -> ShadowMap:
        """The shadow map of any sun, without gradients."""
        return self._get_or_render(sun, sun, means, step, 1, rasterize)

    def clear_cache(self) -> None:
        """Drop all maps, as after a start from a checkpoint."""
        self._maps.clear()

    def _get_or_render(
        self, key: object, sun: Direction, means: Tensor, step: int, update_every: int, rasterize: RasterizeChannels
    ) -> ShadowMap:
        cached = self._maps.get((key, update_every))
        if cached is not None and cached[0] == means.shape[0] and 0 <= step - cached[1] < update_every:
            return cached[2]
        if update_every <= 1:  # of these only the last is used again, and maps of large scenes are large
            self._maps = {entry: kept for entry, kept in self._maps.items() if entry[1] > 1}
        shadow_map = render_shadow_map(sun, means, self._scale, rasterize)
        self._maps[key, update_every] = (means.shape[0], step, shadow_map.detach())
        return shadow_map
