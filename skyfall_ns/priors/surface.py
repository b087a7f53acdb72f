"""The depth prior `surface`: the depth of the scene's own dense surface, by ray marching; needs no weights."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from skyfall_ns.errors import TrainingError
from skyfall_ns.priors.base import DepthPrediction, DepthPrior
from skyfall_ns.priors.options import PriorOptions
from skyfall_ns.scene.model_space import NormalizedScene
from skyfall_ns.view import View

COARSE_CELLS = 8  # cells of the field along one side of a coarse cell
SAMPLES_PER_PASS = 8  # samples of every ray between two removals of finished rays


@dataclass(frozen=True)
class HeightField:
    """Heights over a north-up grid in model units; NaN where the surface is unknown. Cell centers are at
    x_min + (col + 0.5) * cell, y_max - (row + 0.5) * cell."""

    height: Float[Tensor, "h w"]
    x_min: float
    y_max: float
    cell: float

    def height_at(self, xy: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
        """Height of the cell under each position; NaN outside and in holes."""
        rows, cols = self.height.shape
        col = torch.floor((xy[..., 0] - self.x_min) / self.cell).long()
        row = torch.floor((self.y_max - xy[..., 1]) / self.cell).long()
        inside = (col >= 0) & (col < cols) & (row >= 0) & (row < rows)
        values = self.height[row.clamp(0, rows - 1), col.clamp(0, cols - 1)]
        return torch.where(inside, values, torch.full_like(values, torch.nan))


def surface_height_field(normalized: NormalizedScene) -> HeightField | None:
    """The scene's dense surface in model units, NaN where its confidence is 0; None for scenes without a surface."""
    surface = normalized.surface
    if surface is None:
        return None
    known = np.isfinite(surface.height_m) & (surface.confidence > 0)
    if not known.any():
        return None
    scale, center = normalized.scale, normalized.center_m
    heights = np.where(known, (surface.height_m - center[2]) * scale, np.nan).astype(np.float32)
    west, north = (surface.grid.x_min_m - center[0]) * scale, (surface.grid.y_max_m - center[1]) * scale
    return HeightField(torch.from_numpy(heights), west, north, surface.grid.resolution_m * scale)


def camera_rays(camera: View) -> tuple[Float[Tensor, "3"], Float[Tensor, "h w 3"]]:
    """Center and ray directions of a camera in model space. Directions have length 1 along the optical axis: center +
    depth * direction is the point at that depth."""
    linear = camera.camera_from_model[:3, :3]
    center = -torch.linalg.solve(linear, camera.camera_from_model[:3, 3])
    y, x = torch.meshgrid(
        torch.arange(camera.height, dtype=linear.dtype, device=linear.device) + 0.5,
        torch.arange(camera.width, dtype=linear.dtype, device=linear.device) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack([x, y, torch.ones_like(x)], -1)
    in_camera = pixels @ torch.linalg.inv(camera.intrinsics.to(linear)).T
    return center, in_camera @ torch.linalg.inv(linear).T


def march_rays(field: HeightField, camera: View, step_cells: float = 0.75, bisections: int = 10) -> Tensor:
    """Depth "h w" where each ray first goes below the surface; NaN where it hits a hole or leaves the field.

    Samples are `step_cells` cells apart horizontally, first in a coarse field of maximum heights, then from its
    crossing on; the crossing is refined by `bisections` bisections. Each cell is a column that stands on the ground, so
    walls are vertical. Rays that go below the surface out of a hole or from outside the field are NaN: what they hit is
    unknown."""
    center, directions = camera_rays(camera)
    shape = directions.shape[:2]
    center, directions = center.to(field.height), directions.reshape(-1, 3).to(field.height)
    near, far = _box_interval(field, center, directions)
    above, below, _ = _first_crossing(_coarse_maximum(field), center, directions, near, far, step_cells)
    near = torch.where(torch.isfinite(below), above, far)
    above, below, known = _first_crossing(field, center, directions, near, far, step_cells)
    hit = torch.nonzero(torch.isfinite(below) & known).squeeze(-1)
    depth = torch.full_like(near, torch.nan)
    depth[hit] = _bisect_crossing(field, center, directions[hit], above[hit], below[hit], bisections)
    return depth.reshape(shape)


def _coarse_maximum(field: HeightField) -> HeightField:
    """Maximum heights of coarse cells (`COARSE_CELLS` x `COARSE_CELLS` cells) and their neighbors, one coarse cell
    wider on all sides: rays that stay above it do not hit the field."""
    rows, cols = field.height.shape
    heights = torch.where(torch.isfinite(field.height), field.height, -torch.inf)[None, None]
    right, below = (2 * COARSE_CELLS - size % COARSE_CELLS for size in (cols, rows))
    heights = pad(heights, (COARSE_CELLS, right, COARSE_CELLS, below), value=-torch.inf)
    heights = max_pool2d(max_pool2d(heights, COARSE_CELLS), 3, stride=1, padding=1)[0, 0]
    cell = COARSE_CELLS * field.cell
    return HeightField(heights, field.x_min - cell, field.y_max + cell, cell)


def _first_crossing(
    field: HeightField, center: Tensor, directions: Tensor, near: Tensor, far: Tensor, step_cells: float
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"], Bool[Tensor, " n"]]:
    """(above, below, known) of each ray between near and far: `below` is the first sampled depth below the field (NaN:
    none), `above` the sample before it, and `known` whether the field has a height at `above`."""
    step = step_cells * field.cell / directions[:, :2].norm(dim=-1).clamp_min(1e-9)
    step = torch.minimum(step, (far - near).clamp_min(1e-9))
    above, below = near.clone(), torch.full_like(near, torch.nan)
    known = torch.zeros_like(near, dtype=torch.bool)
    ahead = torch.arange(SAMPLES_PER_PASS + 1, dtype=near.dtype, device=near.device)
    active = torch.nonzero(far > near).squeeze(-1)
    while len(active):
        t = above[active, None] + step[active, None] * ahead
        point = center + t[..., None] * directions[active, None]
        ground = field.height_at(point[..., :2])
        under = point[..., 2] <= ground
        hit, first = under.any(1), under.int().argmax(1, keepdim=True)
        before = (first - 1).clamp_min(0)
        below[active] = torch.where(hit, t.gather(1, first)[:, 0], torch.nan)
        above[active] = torch.where(hit, t.gather(1, before)[:, 0], t[:, -1])
        known[active] = torch.isfinite(ground.gather(1, before)[:, 0]) & (first[:, 0] > 0)
        active = active[~hit & (t[:, -1] < far[active])]
    return above, below, known


def _box_interval(
    field: HeightField, center: Float[Tensor, "3"], directions: Float[Tensor, "n 3"]
) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Depths where rays enter and leave the field's bounding box, extended by one cell above and below the heights."""
    known = field.height[torch.isfinite(field.height)]
    rows, cols = field.height.shape
    low, high = field.height.new_tensor(
        [
            [field.x_min, field.y_max - rows * field.cell, float(known.min()) - field.cell],
            [field.x_min + cols * field.cell, field.y_max, float(known.max()) + field.cell],
        ]
    )
    along = torch.where(directions.abs() < 1e-9, 1e-9, directions)
    to_low, to_high = (low - center) / along, (high - center) / along
    return torch.minimum(to_low, to_high).amax(-1).clamp_min(0), torch.maximum(to_low, to_high).amin(-1)


def _bisect_crossing(
    field: HeightField, center: Tensor, directions: Tensor, above: Tensor, below: Tensor, times: int
) -> Float[Tensor, " n"]:
    """Depth of the crossing between `above` and `below` after `times` bisections."""
    for _ in range(times):
        middle = 0.5 * (above + below)
        point = center + middle[:, None] * directions
        under = point[:, 2] <= field.height_at(point[:, :2])
        above, below = torch.where(under, above, middle), torch.where(under, middle, below)
    return below


@dataclass(frozen=True)
class SurfacePrior:
    """Depth of a height field; holes and rays that leave the field are invalid."""

    field: HeightField

    def __call__(self, image: Float[Tensor, "h w 3"], camera: View) -> DepthPrediction:
        depth = march_rays(self.field, camera)
        valid = torch.isfinite(depth)
        return DepthPrediction(torch.where(valid, depth, torch.zeros_like(depth)), valid, "depth")


@dataclass(frozen=True)
class SurfacePriorConfig:
    """Depth of the scene's own dense surface."""

    reads_image: ClassVar[bool] = False
    field: HeightField | None

    @classmethod
    def from_options(cls, options: PriorOptions, normalized: NormalizedScene) -> "SurfacePriorConfig":
        """The configuration for a scene; there are no options."""
        return cls(surface_height_field(normalized))

    def check(self) -> None:
        """Raise TrainingError if the scene has no dense surface."""
        if self.field is None:
            raise TrainingError(
                "This scene has no dense surface for depth supervision. "
                "Process it with --points dense, or pass --pipeline.depth.prior none."
            )

    def load(self, device: torch.device) -> AbstractContextManager[DepthPrior]:
        """Return the prior with its heights on `device`."""
        self.check()
        assert self.field is not None
        field = self.field
        return nullcontext(SurfacePrior(HeightField(field.height.to(device), field.x_min, field.y_max, field.cell)))
