"""Ground level and free space for pseudo cameras."""

from dataclasses import dataclass

import numpy as np
import torch

from skyfall_ns.errors import TrainingError
from skyfall_ns.priors.pseudo_cameras import PseudoPose, PseudoSchedule, draw_stack
from skyfall_ns.priors.surface import HeightField
from skyfall_ns.scene.model_space import NormalizedScene

GROUND_PERCENTILE = 5.0  # of the surface heights around a place; buildings and trees are above it
GROUND_RADIUS_M = 50.0
MIN_CLEARANCE_M = 10.0  # minimum height of a camera above the surface
MAX_STACKS = 100


@dataclass(frozen=True)
class PseudoGround:
    """Bounding box and surface of a scene, from which poses of pseudo cameras are drawn; local meters."""

    normalized: NormalizedScene
    field: HeightField | None

    def ground_level_m(self, x_m: float, y_m: float) -> float:
        """Ground level at a place: a low percentile of the surface within `GROUND_RADIUS_M`, or 0, the ground level of
        every scene, where no surface is known."""
        if self.field is None:
            return 0.0
        scale, center = self.normalized.scale, self.normalized.center_m
        field, reach = self.field, int(GROUND_RADIUS_M * scale / self.field.cell)
        column = int(((x_m - center[0]) * scale - field.x_min) / field.cell)
        row = int((field.y_max - (y_m - center[1]) * scale) / field.cell)
        rows, columns = (slice(max(at - reach, 0), max(at + reach + 1, 0)) for at in (row, column))
        heights = field.height[rows, columns].numpy()
        heights = heights[np.isfinite(heights)]
        return float(np.percentile(heights, GROUND_PERCENTILE)) / scale + center[2] if len(heights) else 0.0

    def is_valid_pose(self, pose: PseudoPose) -> bool:
        """Whether the target is in the scene's box and the camera is free; see `is_free_position`."""
        (west, south), (east, north) = self.normalized.scene.box_m[:, :2].tolist()
        x, y, _ = pose.target_m
        return west <= x <= east and south <= y <= north and self.is_free_position(pose.eye_m)

    def is_free_position(self, eye_m: tuple[float, float, float]) -> bool:
        """Whether a camera (local meters) is at least `MIN_CLEARANCE_M` above the surface, or above no known one."""
        if self.field is None:
            return True
        eye = (torch.tensor(eye_m) - torch.tensor(self.normalized.center_m)) * self.normalized.scale
        below = self.field.height_at(eye[:2])
        return not bool(eye[2] < below + MIN_CLEARANCE_M * self.normalized.scale)

    def draw_poses(self, schedule: PseudoSchedule, step: int, generator: torch.Generator) -> list[PseudoPose]:
        """Draw one stack of valid poses, heights relative to the ground at their targets; invalid poses are redrawn.

        Raises TrainingError if `MAX_STACKS` stacks do not have enough valid poses."""
        poses: list[PseudoPose] = []
        for _ in range(MAX_STACKS):
            drawn = draw_stack(
                schedule, step, generator, len(self.normalized.image_names), self.normalized.center_m[:2]
            )
            raised = (pose.raise_by(self.ground_level_m(*pose.target_m[:2])) for pose in drawn)
            poses += [pose for pose in raised if self.is_valid_pose(pose)]
            if len(poses) >= schedule.stack:
                return poses[: schedule.stack]
        raise TrainingError(
            f"Hardly any pseudo camera of step {step} is above the scene's surface and has its target in the scene. "
            "Raise --pipeline.depth.radii-m, or lower --pipeline.depth.target-std-m."
        )
