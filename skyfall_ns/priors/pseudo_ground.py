"""What pseudo cameras stand over: the ground under a place, and whether a camera has a free sight."""

from dataclasses import dataclass

import numpy as np
import torch

from skyfall_ns.errors import TrainingError
from skyfall_ns.priors.pseudo_cameras import PseudoPose, PseudoSchedule, draw_stack
from skyfall_ns.priors.surface import HeightField
from skyfall_ns.scene.model_space import SceneOnModel

GROUND_PERCENTILE = 5.0  # of the surface around a place: what stands on the ground rises above it
AROUND_M = 50.0
CLEAR_M = 10.0  # least height of a camera above the surface below it
TRIES = 100


def height_field(on_model: SceneOnModel) -> HeightField | None:
    """The scene's dense surface in model units, unknown where its confidence is 0; None for scenes without one."""
    surface = on_model.surface
    if surface is None:
        return None
    known = np.isfinite(surface.height_m) & (surface.confidence > 0)
    if not known.any():
        return None
    scale, centre = on_model.scale, on_model.centre_m
    heights = np.where(known, (surface.height_m - centre[2]) * scale, np.nan).astype(np.float32)
    west, north = (surface.x_min_m - centre[0]) * scale, (surface.y_max_m - centre[1]) * scale
    return HeightField(torch.from_numpy(heights), west, north, surface.resolution_m * scale)


@dataclass(frozen=True)
class PseudoGround:
    """The scene's box and surface as pseudo cameras need them, local metres."""

    on_model: SceneOnModel
    field: HeightField | None

    def level_m(self, x_m: float, y_m: float) -> float:
        """Ground level within `AROUND_M` of a place: a low percentile of the surface, or 0 where none is known, which
        is ground in every scene."""
        if self.field is None:
            return 0.0
        scale, centre = self.on_model.scale, self.on_model.centre_m
        field, reach = self.field, int(AROUND_M * scale / self.field.cell)
        column = int(((x_m - centre[0]) * scale - field.x_min) / field.cell)
        row = int((field.y_max - (y_m - centre[1]) * scale) / field.cell)
        rows, columns = (slice(max(at - reach, 0), max(at + reach + 1, 0)) for at in (row, column))
        heights = field.height[rows, columns].numpy()
        heights = heights[np.isfinite(heights)]
        return float(np.percentile(heights, GROUND_PERCENTILE)) / scale + centre[2] if len(heights) else 0.0

    def admits(self, pose: PseudoPose) -> bool:
        """Whether a pose looks at a place in the scene's box and stands clearly above the surface below it."""
        (west, south), (east, north) = self.on_model.scene.box_m[:, :2].tolist()
        x, y, _ = pose.target_m
        if not (west <= x <= east and south <= y <= north):
            return False
        if self.field is None:
            return True
        eye = (torch.tensor(pose.eye_m) - torch.tensor(self.on_model.centre_m)) * self.on_model.scale
        below = self.field.at(eye[:2])
        return not bool(eye[2] < below + CLEAR_M * self.on_model.scale)

    def draw(self, schedule: PseudoSchedule, step: int, generator: torch.Generator) -> list[PseudoPose]:
        """A whole stack of admitted poses above the ground under their targets; others are drawn again.

        Raises TrainingError if hardly any pose is admitted."""
        poses: list[PseudoPose] = []
        for _ in range(TRIES):
            drawn = draw_stack(schedule, step, generator, len(self.on_model.image_names), self.on_model.centre_m[:2])
            raised = (pose.raised(self.level_m(*pose.target_m[:2])) for pose in drawn)
            poses += [pose for pose in raised if self.admits(pose)]
            if len(poses) >= schedule.stack:
                return poses[: schedule.stack]
        raise TrainingError(
            f"Hardly any pseudo camera of step {step} stands clear of the scene's surface and looks into its box. "
            "Raise --pipeline.depth.radii-m, or lower --pipeline.depth.target-std-m."
        )
