"""Depth supervision: at some steps a pseudo camera looks at the splats, and a depth prior says what it should see."""

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Annotated, Literal

import torch
import tyro
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.models.geometry.depth_losses import DepthLossName, depth_loss
from skyfall_ns.models.geometry.view import View
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.priors.base import (
    DepthPrediction,
    DepthPrior,
    DepthPriorConfig,
    PredictionKind,
    PriorCamera,
    as_target,
    comparable,
)
from skyfall_ns.priors.learned import (
    DEPTH_ANYTHING,
    MOGE_WEIGHTS,
    DtypeName,
    MogePriorConfig,
    MogeVersion,
    TransformersPriorConfig,
)
from skyfall_ns.priors.plane import PlanePriorConfig
from skyfall_ns.priors.pseudo_cameras import PseudoPose, PseudoSchedule, pinhole_intrinsics
from skyfall_ns.priors.pseudo_ground import PseudoGround, height_field
from skyfall_ns.priors.surface import SurfacePriorConfig
from skyfall_ns.scene.model_space import SceneOnModel

FLAG = "--pipeline.depth."
PriorName = Literal["auto", "none", "surface", "moge", "transformers", "plane"]
SHORT_RUN = PseudoSchedule(start=100, end=600, ramp=100, size_px=256)  # of 600 steps, on a CPU


@dataclass
class DepthSupervisionConfig:
    """Views that no satellite has, and what tells their depth. For Skyfall-GS' own window, size and weight pass
    start 1000, end 21000, ramp 500, size-px 1024, weight 0.5."""

    prior: PriorName = "auto"
    """What tells the depth: the scene's dense surface, a learned model, a horizontal plane (for tests), or nothing.
    `auto`: the surface where the scene has one, else nothing."""
    weight: float = 0.15
    """Weight of the loss after the ramp; 0 turns depth supervision off. Skyfall-GS has 0.5, with a learned prior;
    with the scene's own surface that makes heights 0.01 to 0.02 m worse, and pictures no better (docs/depth.md)."""
    loss: DepthLossName = "pearson_patch"
    """How rendered depth is compared; every choice is blind to scale and shift."""
    weights: str | None = None
    """Hub name (in the local cache), file or folder of a learned prior's weights. Default: Depth Anything V2 Small, or
    the large model of the MoGe version."""
    kind: PredictionKind | None = None
    """What a model of `transformers` answers. Default: what its type is known to answer."""
    moge_version: MogeVersion = "v2"
    """Which MoGe."""
    device: str | None = None
    """Where the prior works. Default: where the splats are."""
    dtype: DtypeName = "float32"
    """Number format of a learned prior."""
    rounds: int = 1
    """How often a stack of pseudo views is shown before the next is drawn. The prior is asked at a first showing only:
    more rounds make a slow prior cheaper."""
    schedule: Annotated[PseudoSchedule, tyro.conf.arg(name="")] = field(default_factory=lambda: SHORT_RUN)
    """When and from where pseudo views look."""

    def check(self) -> None:
        """TrainingError that names the flag of a number that makes no sense."""
        self.schedule.check(FLAG)
        for name, low in (("weight", 0), ("rounds", 1)):
            if not getattr(self, name) >= low:
                raise TrainingError(f"{FLAG}{name} is {getattr(self, name)}. Pass {low} or more.")
        try:
            torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise TrainingError(
                f"{FLAG}device {self.device} cannot be used on this machine. Pass cpu, or leave the flag out."
            ) from error

    def choose(self, on_model: SceneOnModel) -> DepthPriorConfig | None:
        """The prior's own configuration, not checked yet; None for no depth supervision."""
        surface = height_field(on_model)
        if self.weight == 0 or self.prior == "none" or (self.prior == "auto" and surface is None):
            return None
        if self.prior == "transformers":
            return TransformersPriorConfig(self.weights or DEPTH_ANYTHING, self.kind, self.dtype)
        if self.prior == "moge":
            return MogePriorConfig(self.moge_version, self.weights or MOGE_WEIGHTS[self.moge_version], self.dtype)
        return PlanePriorConfig() if self.prior == "plane" else SurfacePriorConfig(surface)


class DepthSupervision:
    """The depth loss of training steps. The prior is a guest: checked at once, loaded when first asked, let go when the
    window is over; never part of the model or of a checkpoint."""

    def __init__(
        self, config: DepthSupervisionConfig, prior: DepthPriorConfig, on_model: SceneOnModel, seed: int
    ) -> None:
        config.check()
        prior.check()
        self._config, self._prior_config, self._on_model = config, prior, on_model
        self._ground, self.seed = PseudoGround(on_model, height_field(on_model)), seed
        self._guests, self._prior = ExitStack(), None
        self._stack: list[PseudoPose] = []
        self._shown = 0
        self._said: dict[PseudoPose, DepthPrediction] = {}

    @classmethod
    def of(cls, config: DepthSupervisionConfig, on_model: SceneOnModel, seed: int) -> "DepthSupervision | None":
        """None where nothing supervises depth.

        Raises MissingExtraError or TrainingError if the prior or a number of the configuration is not usable."""
        prior = config.choose(on_model)
        return None if prior is None else cls(config, prior, on_model, seed)

    def losses(self, model: SkyfallModel, step: int) -> dict[str, Tensor]:
        """{"depth": weighted loss} at steps with a pseudo view, else nothing; gradients reach the splats through the
        rendered depth alone, and `model.info`, which densification reads, stays the training view's."""
        schedule = self._config.schedule
        if step >= schedule.end:
            self.close()
        if not schedule.active(step):
            return {}
        generator = torch.Generator().manual_seed(self.seed + step)
        pose = self._next_pose(step, generator)
        view = self.view(pose)
        target = self._predict(model, pose, view)
        drawn = model.render_depth(view)
        depth = comparable(drawn.depth, target.kind)
        seen = target.valid & (drawn.alpha.detach() > 0.5)
        loss = depth_loss(self._config.loss)(depth, as_target(target), seen, generator)
        return {"depth": self._config.weight * schedule.weight(step) * loss}

    def view(self, pose: PseudoPose) -> View:
        """A pose as a pinhole in model space."""
        on_model, size = self._on_model, self._config.schedule.size_px
        camera = pose.camera_from_local()  # camera metres from local metres
        camera[:3, 3] = on_model.scale * (
            camera[:3, 3] + camera[:3, :3] @ torch.tensor(on_model.centre_m, dtype=torch.float64)
        )
        return View(camera, pinhole_intrinsics(self._config.schedule.fov_deg, size), size, size, "pinhole")

    def forget(self) -> None:
        """Draw a new stack when next asked, as a run that starts from a checkpoint does."""
        self._stack, self._shown = [], 0
        self._said.clear()

    def close(self) -> None:
        """Let the prior go, with the memory it holds."""
        self._guests.close()
        self._prior = None
        self._said.clear()

    def _next_pose(self, step: int, generator: torch.Generator) -> PseudoPose:
        if self._shown >= self._config.rounds * len(self._stack):
            self.forget()
            self._stack = self._ground.draw(self._config.schedule, step, generator)
        self._shown += 1
        return self._stack[(self._shown - 1) % len(self._stack)]

    def _predict(self, model: SkyfallModel, pose: PseudoPose, view: View) -> DepthPrediction:
        if pose not in self._said:
            self._said[pose] = self._ask(model, pose, view)
        return self._said[pose]

    @torch.no_grad()
    def _ask(self, model: SkyfallModel, pose: PseudoPose, view: View) -> DepthPrediction:
        device = model.device if self._config.device is None else torch.device(self._config.device)
        camera = PriorCamera(view.camera_from_model.to(device), view.intrinsics.to(device), view.width, view.height)
        if self._prior_config.reads_picture:
            picture = model.render(view, pose.image).color.clamp(0, 1).to(device)
        else:
            picture = torch.zeros(view.height, view.width, 3, device=device)
        said = self._load(device)(picture, camera)
        return DepthPrediction(said.values.float().to(model.device), said.valid.to(model.device), said.kind)

    def _load(self, device: torch.device) -> DepthPrior:
        if self._prior is None:
            self._prior = self._guests.enter_context(self._prior_config.load(device))
        return self._prior
