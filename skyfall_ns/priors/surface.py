"""The embedded prior: the depth of the scene's own dense surface, ray-marched; needs no weights and no network."""

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.priors.types import DepthPrediction, DepthPrior, PriorCamera, lend


@dataclass(frozen=True)
class HeightField:
    """Heights over a north-up grid in model units; NaN where the surface is unknown. Cell centres lie at
    x_min + (col + 0.5) * cell, y_max - (row + 0.5) * cell."""

    height: Float[Tensor, "h w"]
    x_min: float
    y_max: float
    cell: float

    def at(self, xy: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
        """Height of the cell under each position; NaN outside and in holes."""
        rows, cols = self.height.shape
        col = torch.floor((xy[..., 0] - self.x_min) / self.cell).long()
        row = torch.floor((self.y_max - xy[..., 1]) / self.cell).long()
        inside = (col >= 0) & (col < cols) & (row >= 0) & (row < rows)
        values = self.height[row.clamp(0, rows - 1), col.clamp(0, cols - 1)]
        return torch.where(inside, values, torch.full_like(values, torch.nan))


def rays(camera: PriorCamera) -> tuple[Float[Tensor, "3"], Float[Tensor, "h w 3"]]:
    """Centre and directions in model space; a direction has length 1 along the optical axis, so that centre +
    depth * direction is the point at that depth."""
    linear = camera.camera_from_model[:3, :3]
    centre = -torch.linalg.solve(linear, camera.camera_from_model[:3, 3])
    y, x = torch.meshgrid(
        torch.arange(camera.height, dtype=linear.dtype, device=linear.device) + 0.5,
        torch.arange(camera.width, dtype=linear.dtype, device=linear.device) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack([x, y, torch.ones_like(x)], -1)
    in_camera = pixels @ torch.linalg.inv(camera.intrinsics.to(linear)).T
    return centre, in_camera @ torch.linalg.inv(linear).T


def march(field: HeightField, camera: PriorCamera, step_cells: float = 0.75, bisections: int = 6) -> Tensor:
    """Depth "h w" where each ray first goes below the surface; NaN where it meets a hole or nothing at all.

    Steps are `step_cells` cells long along the ray between the planes of the highest and the lowest height, then halved
    `bisections` times; columns stand on the ground, so walls are vertical."""
    centre, directions = rays(camera)
    known = field.height[torch.isfinite(field.height)]
    top, bottom = known.max() + field.cell, known.min() - field.cell
    down = directions[..., 2].clamp_max(-1e-9)
    near, far = ((top - centre[2]) / down).clamp_min(0), ((bottom - centre[2]) / down).clamp_min(0)
    length = directions.norm(dim=-1)
    steps = int(((far - near) * length).clamp_max(4 * max(field.height.shape) * field.cell).max() / field.cell)
    steps = max(2, int(steps / step_cells))
    depth, before = torch.full_like(near, torch.nan), near.clone()
    open_ray = torch.ones_like(near, dtype=torch.bool)
    for index in range(1, steps + 1):
        now = near + (far - near) * (index / steps)
        point = centre + now[..., None] * directions
        ground = field.at(point[..., :2])
        hit = open_ray & (point[..., 2] <= ground)
        depth = torch.where(hit, now, depth)
        open_ray &= ~(hit | (torch.isnan(ground) & (point[..., 2] < bottom)))
        before = torch.where(open_ray, now, before)
    return _bisect(field, centre, directions, before, depth, bisections)


def _bisect(field: HeightField, centre: Tensor, directions: Tensor, above: Tensor, below: Tensor, times: int) -> Tensor:
    for _ in range(times):
        middle = 0.5 * (above + below)
        point = centre + middle[..., None] * directions
        under = point[..., 2] <= field.at(point[..., :2])
        above, below = torch.where(under, above, middle), torch.where(under, middle, below)
    return below


@dataclass(frozen=True)
class SurfacePrior:
    """Depth of a height field; holes and rays that leave it are invalid."""

    field: HeightField

    def __call__(self, image: Float[Tensor, "h w 3"], camera: PriorCamera) -> DepthPrediction:
        depth = march(self.field, camera)
        valid = torch.isfinite(depth)
        return DepthPrediction(torch.where(valid, depth, torch.zeros_like(depth)), valid, "depth")


@dataclass(frozen=True)
class SurfacePriorConfig:
    """Depth of the scene's own dense surface."""

    field: HeightField | None

    def check(self) -> None:
        if self.field is None:
            raise TrainingError(
                "This scene has no dense surface to supervise depth with. "
                "Process it with --points dense, or pass --pipeline.depth.prior none."
            )

    def load(self, device: torch.device) -> AbstractContextManager[DepthPrior]:
        self.check()
        assert self.field is not None
        field = self.field
        return lend(SurfacePrior(HeightField(field.height.to(device), field.x_min, field.y_max, field.cell)))
