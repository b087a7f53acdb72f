"""Depth supervision: a loss between rendered depth and the depth of a prior, in pseudo views at some training steps."""

from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
import tyro
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.models.geometry.depth_losses import DepthLossName, depth_loss_function
from skyfall_ns.models.renderer import Renderer
from skyfall_ns.option_checks import COUNT, InRange, check_options
from skyfall_ns.pipelines.checkpoint_state import preserve_rng_state
from skyfall_ns.priors.base import (
    DepthPrediction,
    DepthPrior,
    DepthPriorConfig,
    PredictionKind,
    comparable_depth,
    target_depth,
)
from skyfall_ns.priors.options import DtypeName, MogeVersion
from skyfall_ns.priors.pseudo_cameras import PseudoPose, PseudoSchedule, pinhole_intrinsics
from skyfall_ns.priors.pseudo_ground import PseudoGround
from skyfall_ns.priors.registry import PriorName, build_prior
from skyfall_ns.priors.surface import surface_height_field
from skyfall_ns.scene.model_space import NormalizedScene
from skyfall_ns.view import View

FLAG = "--pipeline.depth."
SHORT_SCHEDULE = PseudoSchedule(start=100, end=600, ramp=100, size_px=256)  # for 600 steps on a CPU
SOLID_ALPHA = 0.5  # pixels with less alpha are not supervised


@dataclass
class DepthSupervisionConfig:
    """Options of depth supervision from pseudo views. For the window, size and weight of Skyfall-GS pass start 1000,
    end 21000, ramp 500, size-px 1024, weight 0.5."""

    prior: PriorName = "auto"
    """Source of the depth: the scene's dense surface, a learned model (moge, transformers), a horizontal plane (for
    tests), or none. auto: the surface if the scene has one, else none."""
    weight: Annotated[float, InRange(0)] = 0.15
    """Weight of the loss after the ramp; 0 turns depth supervision off. Skyfall-GS has 0.5, with a learned prior
    (measured: benchmarks/notes.md)."""
    loss: DepthLossName = "pearson_patch"
    """Loss between rendered and predicted depth; every choice is invariant to scale and shift."""
    weights: str | None = None
    """Hub name (in the local cache), file or directory of a learned prior's weights. Default: Depth Anything V2 Small,
    or the large model of the MoGe version."""
    kind: PredictionKind | None = None
    """Kind of prediction of a model of `transformers`. Default: the kind known for its model type."""
    moge_version: MogeVersion = "v2"
    """Version of MoGe."""
    device: str | None = None
    """Device of the prior. Default: the device of the Gaussians."""
    dtype: DtypeName = "float32"
    """Number format of a learned prior."""
    rounds: Annotated[int, COUNT] = 1
    """How often a stack of pseudo views is used before the next one is drawn. The prior runs at the first use only, so
    more rounds make a slow prior cheaper."""
    schedule: Annotated[PseudoSchedule, tyro.conf.arg(name="")] = field(default_factory=lambda: SHORT_SCHEDULE)
    """Training steps and poses of pseudo views."""

    def check_settings(self) -> None:
        """Raise TrainingError, with the flag, for an option that is out of range or a device that is not available."""
        check_options(self, FLAG)
        self.schedule.check_window(FLAG)
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise TrainingError(
                f"{FLAG}device {self.device} cannot be used on this machine. Pass cpu, or leave the flag out."
            ) from error

    def build_prior(self, normalized: NormalizedScene) -> DepthPriorConfig | None:
        """Build the configuration of the prior, which has not been checked yet; None for no depth supervision."""
        return None if self.weight == 0 else build_prior(self.prior, self, normalized)


class DepthSupervision:
    """The depth loss of training steps.

    The prior is loaded on demand: checked at once, loaded in its context at the first prediction, and released when the
    window ends. It is part of neither the model nor checkpoints."""

    def __init__(
        self, config: DepthSupervisionConfig, prior: DepthPriorConfig, normalized: NormalizedScene, seed: int
    ) -> None:
        config.check_settings()
        prior.check()
        self._config, self._prior_config, self._normalized = config, prior, normalized
        self._ground, self.seed = PseudoGround(normalized, surface_height_field(normalized)), seed
        self._prior_context, self._prior = ExitStack(), None
        self._poses: list[PseudoPose] = []  # the present stack of pseudo views
        self._view_count = 0  # number of views used of the present stack, over all rounds
        self._predictions: dict[PseudoPose, DepthPrediction] = {}

    @classmethod
    def from_config(
        cls, config: DepthSupervisionConfig, normalized: NormalizedScene, seed: int
    ) -> "DepthSupervision | None":
        """Depth supervision of a scene; None if it is off or the scene has no prior.

        Raises MissingExtraError or TrainingError if a package or weights are missing or an option is out of range."""
        prior = config.build_prior(normalized)
        return None if prior is None else cls(config, prior, normalized, seed)

    def step_losses(self, renderer: Renderer, step: int) -> dict[str, Tensor]:
        """{"depth": weighted loss} at steps with a pseudo view, else nothing.

        Gradients reach the Gaussians through rendered depth only; the rendering that densification reads is still that
        of the training view."""
        schedule = self._config.schedule
        if step >= schedule.end:
            self.release_prior()
        if not schedule.has_view_at(step):
            return {}
        generator = torch.Generator().manual_seed(self.seed + step)
        pose = self._next_pose(step, generator)
        view = self.pose_view(pose)
        prediction = self._cached_prediction(renderer, pose, view)
        rendering = renderer.render_depth(view)
        depth = comparable_depth(rendering.depth, prediction.kind)
        valid = prediction.valid & (rendering.alpha.detach() > SOLID_ALPHA)
        loss = depth_loss_function(self._config.loss)(depth, target_depth(prediction), valid, generator)
        return {"depth": self._config.weight * schedule.ramp_weight(step) * loss}

    def pose_view(self, pose: PseudoPose) -> View:
        """View of a pose in model space."""
        normalized, size = self._normalized, self._config.schedule.size_px
        camera = pose.camera_from_local()  # camera meters from local meters
        camera[:3, 3] = normalized.scale * (
            camera[:3, 3] + camera[:3, :3] @ torch.tensor(normalized.center_m, dtype=torch.float64)
        )
        return View(camera, pinhole_intrinsics(self._config.schedule.fov_deg, size), size, size, "pinhole")

    def clear_cache(self) -> None:
        """Drop the stack of pseudo views, so that the next step draws a new one, as a resumed run does."""
        self._poses, self._view_count = [], 0
        self._predictions.clear()

    def release_prior(self) -> None:
        """Release the prior and its memory."""
        self._prior_context.close()
        self._prior = None
        self._predictions.clear()

    def _next_pose(self, step: int, generator: torch.Generator) -> PseudoPose:
        """The next pose of the stack; draws a new stack after the last round."""
        if self._view_count >= self._config.rounds * len(self._poses):
            self.clear_cache()
            self._poses = self._ground.draw_poses(self._config.schedule, step, generator)
        self._view_count += 1
        return self._poses[(self._view_count - 1) % len(self._poses)]

    def _cached_prediction(self, renderer: Renderer, pose: PseudoPose, view: View) -> DepthPrediction:
        if pose not in self._predictions:
            self._predictions[pose] = self._predict_depth(renderer, pose, view)
        return self._predictions[pose]

    @torch.no_grad()
    def _predict_depth(self, renderer: Renderer, pose: PseudoPose, view: View) -> DepthPrediction:
        """Prediction of the prior on the device of the Gaussians; the random state of training is preserved, because a
        resumed run loads the prior at another step."""
        device = renderer.device if self._config.device is None else torch.device(self._config.device)
        matrices = {name: getattr(view, name).to(device) for name in ("camera_from_model", "intrinsics")}
        camera = replace(view, **matrices)
        if self._prior_config.reads_image:
            image = renderer.render(view, pose.image).color.clamp(0, 1).to(device)
        else:
            image = torch.zeros(view.height, view.width, 3, device=device)
        with preserve_rng_state(renderer.device):
            prediction = self._load_prior(device)(image, camera)
        values, valid = prediction.values.float().to(renderer.device), prediction.valid.to(renderer.device)
        return DepthPrediction(values, valid, prediction.kind)

    def _load_prior(self, device: torch.device) -> DepthPrior:
        """The prior, loaded at the first call."""
        if self._prior is None:
            self._prior = self._prior_context.enter_context(self._prior_config.load(device))
        return self._prior
