"""The embedded prior: the depth of the scene's own dense surface, ray-marched; needs no weights and no network."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from skyfall_ns.errors import TrainingError
from skyfall_ns.priors.base import DepthPrediction, DepthPrior, PriorCamera, lend

COARSE = 8  # cells of the field in one of the coarse field
SAMPLES = 8  # taken of every ray before the finished ones are put aside


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


def march(field: HeightField, camera: PriorCamera, step_cells: float = 0.75, bisections: int = 10) -> Tensor:
    """Depth "h w" where each ray first goes below the surface; NaN where it meets a hole or nothing at all.

    Samples lie `step_cells` cells apart over the ground, first in a coarse field of the highest heights, then from
    where that is met; the crossing is halved `bisections` times. Columns stand on the ground, so walls are vertical. A
    ray that comes below the surface out of a hole, or from outside, has met something unknown."""
    centre, directions = rays(camera)
    shape = directions.shape[:2]
    centre, directions = centre.to(field.height), directions.reshape(-1, 3).to(field.height)
    near, far = _through_box(field, centre, directions)
    above, below, _ = _first_below(_highest(field), centre, directions, near, far, step_cells)
    near = torch.where(torch.isfinite(below), above, far)
    above, below, known = _first_below(field, centre, directions, near, far, step_cells)
    met = torch.nonzero(torch.isfinite(below) & known).squeeze(-1)
    depth = torch.full_like(near, torch.nan)
    depth[met] = _bisect(field, centre, directions[met], above[met], below[met], bisections)
    return depth.reshape(shape)


def _highest(field: HeightField) -> HeightField:
    """The highest heights of `COARSE` x `COARSE` cells and of their neighbours, one such cell wider on all sides: no
    ray that stays above it meets the field."""
    rows, cols = field.height.shape
    heights = torch.where(torch.isfinite(field.height), field.height, -torch.inf)[None, None]
    heights = pad(heights, (COARSE, 2 * COARSE - cols % COARSE, COARSE, 2 * COARSE - rows % COARSE), value=-torch.inf)
    heights = max_pool2d(max_pool2d(heights, COARSE), 3, stride=1, padding=1)[0, 0]
    cell = COARSE * field.cell
    return HeightField(heights, field.x_min - cell, field.y_max + cell, cell)


def _first_below(
    field: HeightField, centre: Tensor, directions: Tensor, near: Tensor, far: Tensor, step_cells: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """The first sampled depth between near and far where each ray is below the field (NaN: none), the sample before it,
    and whether the field is known there."""
    step = step_cells * field.cell / directions[:, :2].norm(dim=-1).clamp_min(1e-9)
    step = torch.minimum(step, (far - near).clamp_min(1e-9))
    above, below = near.clone(), torch.full_like(near, torch.nan)
    known = torch.zeros_like(near, dtype=torch.bool)
    ahead = torch.arange(SAMPLES + 1, dtype=near.dtype, device=near.device)
    active = torch.nonzero(far > near).squeeze(-1)
    while len(active):
        t = above[active, None] + step[active, None] * ahead
        point = centre + t[..., None] * directions[active, None]
        ground = field.at(point[..., :2])
        under = point[..., 2] <= ground
        hit, first = under.any(1), under.int().argmax(1, keepdim=True)
        before = (first - 1).clamp_min(0)
        below[active] = torch.where(hit, t.gather(1, first)[:, 0], torch.nan)
        above[active] = torch.where(hit, t.gather(1, before)[:, 0], t[:, -1])
        known[active] = torch.isfinite(ground.gather(1, before)[:, 0]) & (first[:, 0] > 0)
        active = active[~hit & (t[:, -1] < far[active])]
    return above, below, known


def _through_box(
    field: HeightField, centre: Float[Tensor, "3"], directions: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Depths where rays enter the field's box (a cell higher and deeper than the heights) and leave it."""
    known = field.height[torch.isfinite(field.height)]
    rows, cols = field.height.shape
    low, high = field.height.new_tensor(
        [
            [field.x_min, field.y_max - rows * field.cell, float(known.min()) - field.cell],
            [field.x_min + cols * field.cell, field.y_max, float(known.max()) + field.cell],
        ]
    )
    along = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    one, other = (low - centre) / along, (high - centre) / along
    return torch.minimum(one, other).amax(-1).clamp_min(0), torch.maximum(one, other).amin(-1)


def _bisect(
    field: HeightField, centre: Tensor, directions: Tensor, above: Tensor, below: Tensor, times: int
) -> Float[Tensor, " n"]:
    for _ in range(times):
        middle = 0.5 * (above + below)
        point = centre + middle[:, None] * directions
        under = point[:, 2] <= field.at(point[:, :2])
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

    reads_picture: ClassVar[bool] = False
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
