"""Stage 2, iterative dataset update: in each episode the scene is rendered, the renders are refined, and training
continues with the refined images. `idu/episode_runner.py` is the loop; this file chooses the image of each training
step.
"""

import hashlib
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.curriculum import Curriculum, Episode
from skyfall_ns.idu.episode_panel import EpisodePanel, EpisodeStatus, show_episode
from skyfall_ns.idu.episode_runner import EpisodeRunner, EpisodeSettings
from skyfall_ns.idu.learning_rates import reset_learning_rates
from skyfall_ns.idu.offload import offload_to_cpu
from skyfall_ns.idu.refinement import peak_memory_bytes
from skyfall_ns.idu.schedule import EpisodeSchedule, EpisodeWindow, source_episode, synthetic_index
from skyfall_ns.idu.synthetic_views import SyntheticViews
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.option_checks import COUNT, POSITIVE, SHARE, InRange
from skyfall_ns.pipelines import checkpoint_state
from skyfall_ns.pipelines.depth_supervision import DepthSupervision
from skyfall_ns.pipelines.episode_directory import EPISODES_DIRECTORY, import_episodes, refuse_existing_episodes
from skyfall_ns.pipelines.load_run import find_checkpoint
from skyfall_ns.pipelines.skyfall_pipeline import SkyfallPipeline, SkyfallPipelineConfig
from skyfall_ns.refiners.base import RefinerConfig
from skyfall_ns.refiners.registry import RefinerOptions

NO_RESET = 1_000_000  # interval of opacity resets that are off


@dataclass
class IduPipelineConfig(SkyfallPipelineConfig):
    """Stage 2: satellite images and refined renders to Gaussians."""

    _target: type = field(default_factory=lambda: IduPipeline)
    stage1: Path | None = None
    """config.yml of the stage 1 run to start from. Without it, and without --load-dir, stage 1 is trained first."""
    stage1_steps: Annotated[int, COUNT] = 600
    """Steps of stage 1 if it is trained first."""
    curriculum: Curriculum = field(default_factory=Curriculum)
    """Cameras and steps of the episodes."""
    refiner: RefinerOptions = field(default_factory=RefinerOptions)
    """The refiner of the renders, and its options."""
    external_refinement: bool = False
    """End after an episode is rendered, so that skyfall-refine can refine it on this or another machine; with
    --load-dir the run resumes with the refined images. The package and weights of the refiner are not needed here."""
    synthetic_share: Annotated[float, SHARE] = 0.75
    """Fraction of the training steps that use refined images; the others use satellite images."""
    replay_decay: Annotated[float, SHARE] = 0.7
    """Frequency of the images of each episode relative to those of the next one; 0: only images of the present episode,
    as in Skyfall-GS."""
    appearance_image: str | None = None
    """Name of the training image whose appearance the renders have. Default: the one with the highest sun among
    model.reference-images."""
    consistency_weighting: bool = True
    """Weight the pixels of refined images by their consistency with neighboring views."""
    geometry_gradient_scale: Annotated[float, SHARE] = 0.3
    """Factor on the gradients of refined images with respect to everything but colors; with a smaller factor, heights
    depend more on the satellite images (Skyfall-GS: 1)."""
    episode_lr_scale: Annotated[float, InRange(0, 10, above=True)] = 0.25
    """Factor on the learning rates of --optimizers in episodes."""
    episode_depth: Annotated[float, InRange(0)] = 0.0
    """Weight of depth supervision in episodes; 0 turns it off (Skyfall-GS: 0.5)."""
    episode_depth_elevations_deg: Annotated[tuple[float, float] | None, InRange(0, 90, above=True)] = None
    """Elevation of the depth cameras at the start and at the end of an episode (Skyfall-GS: 85 45); None: that of
    --pipeline.depth."""
    episode_depth_radii_m: Annotated[tuple[float, float] | None, POSITIVE] = None
    """Distance of the depth cameras at the start and at the end of an episode, meters (Skyfall-GS: 150 75); None: that
    of --pipeline.depth."""
    episode_entropy_weight: Annotated[float | None, InRange(0)] = None
    """Weight of the entropy of opacities in episodes (Skyfall-GS: 0 in Jacksonville, 10 in New York); None: that of
    --pipeline.model."""
    densify_fraction: Annotated[float, SHARE] = 0.0
    """Fraction of an episode's steps during which Gaussians are split and pruned (Skyfall-GS: 0.9)."""
    densify_grad_thresh: Annotated[float, InRange(0)] = 6e-4
    """Gradient above which Gaussians are densified in episodes; see --pipeline.model.densify-grad-thresh."""
    opacity_reset_fraction: Annotated[float, SHARE] = 0.0
    """Fraction of an episode's steps after which opacities are reset; 0: never (Skyfall-GS: 0.5)."""


class IduPipeline(SkyfallPipeline):
    """Stage 2 training."""

    LENGTH_FLAG: ClassVar[str] = "--pipeline.curriculum.steps"
    config: IduPipelineConfig

    def __init__(self, config: IduPipelineConfig, device: str, test_mode: str = "val", **kwargs: Any) -> None:
        """Raises MissingExtraError or TrainingError if the refiner lacks a package or weights, or an option is out of
        range; checked before training only."""
        super().__init__(config, device, test_mode, **kwargs)
        self.schedule: EpisodeSchedule | None = None  # set when training starts
        self._runner: EpisodeRunner | None = None
        self._views: dict[int, SyntheticViews] = {}
        self._panel: EpisodePanel | None = None
        self._start_step: int | None = None  # of stage 2, from a checkpoint
        self._source_hash: str | None = None  # of the Gaussians that stage 2 started from
        self._loaded = False
        self._train_started = 0.0
        self._refiner: RefinerConfig | None = None
        self.episodes: tuple[Episode, ...] = ()
        self._appearance_image = 0
        if test_mode == "val":
            self._refiner = config.refiner.build()
            self.episodes = config.curriculum.plan_episodes(self.model.normalized.scene.box_m)
            if not config.external_refinement:
                self._refiner.check()
            self._appearance_image = self._choose_appearance_image()

    # State of the run

    def get_extra_state(self) -> dict[str, Any]:
        """State of stage 1, the first step of stage 2, and the hash of the Gaussians that it started from."""
        start = None if self.schedule is None else self.schedule.first_step
        return super().get_extra_state() | {"idu": {"start": start, "source_hash": self._source_hash}}

    def set_extra_state(self, state: dict[str, Any] | None) -> None:
        """Keep the state until training resumes; a checkpoint of stage 1 has no first step of stage 2."""
        super().set_extra_state(state)
        saved = ({} if state is None else state).get("idu", {})
        self._start_step, self._source_hash, self._loaded = saved.get("start"), saved.get("source_hash"), True

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Callbacks of stage 1, and those that begin an episode before a step or end it after a step."""
        trainer = training_callback_attributes.trainer
        if trainer is None:
            return super().get_training_callbacks(training_callback_attributes)
        self.schedule = EpisodeSchedule(self._find_first_step(trainer), tuple(e.steps for e in self.episodes))
        trainer.config.max_num_iterations = min(trainer.config.max_num_iterations, self.schedule.end_step)
        if self._start_step is None:
            refuse_existing_episodes(trainer.base_dir / EPISODES_DIRECTORY)
        else:
            import_episodes(trainer.config, trainer.base_dir / EPISODES_DIRECTORY)
        window = self.schedule.window_at(trainer._start_step)
        if window is not None and window.first_step < trainer._start_step:
            self._restart_densification(window)  # its statistics come from the checkpoint
        callbacks = super().get_training_callbacks(training_callback_attributes)
        before, after = TrainingCallbackLocation.BEFORE_TRAIN_ITERATION, TrainingCallbackLocation.AFTER_TRAIN_ITERATION
        return [
            *callbacks,
            TrainingCallback([before], partial(self._begin_episode, trainer)),
            TrainingCallback([after], self._end_episode),
        ]

    def _find_first_step(self, trainer: Trainer) -> int:
        """First step of stage 2, after the last step of the run that it starts from."""
        if not self._loaded and self.config.stage1 is not None:
            trainer._start_step = self._load_stage1(find_checkpoint(self.config.stage1)) + 1
        if self._start_step is not None:
            return self._start_step
        return trainer._start_step if self._loaded else self.config.stage1_steps

    def _load_stage1(self, checkpoint: Path) -> int:
        """Load Gaussians and appearance of another run; returns the number of its last step."""
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        try:
            self.load_pipeline(state["pipeline"], state["step"])
        except (KeyError, RuntimeError) as error:
            raise TrainingError(
                f"{checkpoint} does not have the parameters of this run's model. "
                "Pass the same --pipeline.model options (appearance, sh-degree, image-offsets) as in stage 1."
            ) from error
        self._resume_state, self._start_step, self._source_hash = None, None, None  # of the other run
        return int(state["step"])

    # Episodes

    def _begin_episode(self, trainer: Trainer, step: int) -> None:
        """Prepare the views of an episode at its first step, or at the first step after a resume."""
        window = self._window_at(step)
        if window is None or window.number in self._views:
            return
        if step == window.first_step:
            self._source_hash = self._source_hash or _hash_means(self.model)
            trainer.save_checkpoint(step - 1)  # a resumed run renders the same Gaussians
            self._restart_densification(window)
        if self.depth_supervision is not None:
            self.depth_supervision.release_prior()  # its memory is the refiner's
        self._prepare_views(trainer, window.number, step)
        self._restart_depth_supervision(window)
        self._set_entropy_weight()
        table, factor = trainer.config.optimizers, self.config.episode_lr_scale
        reset_learning_rates(trainer.optimizers, table, step - window.first_step, window.steps, factor)
        self.clear_cache()
        self._train_started = time.perf_counter()

    def _prepare_views(self, trainer: Trainer, number: int, step: int) -> None:
        """Run the episodes whose views episode `number` trains on; the random state of training is preserved."""
        runner, status = self._episode_runner(trainer), EpisodeStatus(trainer, step)
        first = 1 if self.config.replay_decay > 0 else number
        with checkpoint_state.preserve_rng_state(self.model.device):
            self._views = {
                n: self._views.get(n) or runner.run(self.episodes[n - 1], status.show_phase)
                for n in range(first, number + 1)
            }
        status.remove_from_viewer()
        self._panel = show_episode(trainer, runner.stores[number], self.model.normalized, self._panel)

    def _end_episode(self, step: int) -> None:
        """Record the training time of an episode since it began or resumed."""
        window = self._window_at(step)
        if window is None or self._runner is None or step < window.first_step + window.steps - 1:
            return
        seconds, peak = time.perf_counter() - self._train_started, peak_memory_bytes(self.model.device)
        self._runner.stores[window.number].record_phase("train", seconds, peak)

    def _episode_runner(self, trainer: Trainer) -> EpisodeRunner:
        if self._runner is None:
            assert self._refiner is not None
            config = self.config
            settings = EpisodeSettings(
                directory=trainer.base_dir / EPISODES_DIRECTORY,
                checkpoint_directory=trainer.checkpoint_dir,
                identity=checkpoint_state.scene_identity(self.model.normalized) | {"source_hash": self._source_hash},
                image=self._appearance_image,
                seed=trainer.config.machine.seed,
                external_refinement=config.external_refinement,
                consistency_weighting=config.consistency_weighting,
                geometry_gradient_scale=config.geometry_gradient_scale,
            )
            offload = partial(offload_to_cpu, self.model, trainer.optimizers)
            self._runner = EpisodeRunner(
                self.model.renderer,
                self.datamanager,
                config.curriculum,
                self._refiner,
                config.refiner,
                settings,
                offload,
            )
        return self._runner

    def _restart_densification(self, window: EpisodeWindow) -> None:
        """Restart densification with the options of episodes."""
        stop, every = round(self.config.densify_fraction * window.steps), self.model.config.refine_every
        fraction = self.config.opacity_reset_fraction
        resets = max(round(fraction * window.steps / every), 1) if fraction else NO_RESET
        options = replace(
            self.model.config,
            warmup_length=0,
            stop_split_at=stop,
            densify_grad_thresh=self.config.densify_grad_thresh,
            reset_alpha_every=resets,
        )
        self.model.densifier.restart(window.first_step, options)

    def _restart_depth_supervision(self, window: EpisodeWindow) -> None:
        """Restrict depth supervision to the steps of an episode, or end it."""
        if self.depth_supervision is None:
            return
        if self.config.episode_depth == 0:
            self.depth_supervision = None
            return
        config, schedule = self.config, self.config.depth.schedule
        schedule = replace(
            schedule,
            start=window.first_step - 1,
            end=window.first_step + window.steps,
            ramp=0,
            elevations_deg=config.episode_depth_elevations_deg or schedule.elevations_deg,
            radii_m=config.episode_depth_radii_m or schedule.radii_m,
        )
        options = replace(config.depth, schedule=schedule, weight=config.episode_depth)
        self.depth_supervision = DepthSupervision.from_config(
            options, self.model.normalized, self.depth_supervision.seed
        )

    def _set_entropy_weight(self) -> None:
        """Use the entropy weight of episodes, if there is one."""
        weight = self.config.episode_entropy_weight
        if weight is not None:
            self.model.regularization.options = replace(self.model.config, entropy_weight=weight)

    def _choose_appearance_image(self) -> int:
        """Index of the training image whose appearance the renders have."""
        normalized, name = self.model.normalized, self.config.appearance_image
        names = normalized.image_names
        if name is not None:
            if name not in names:
                raise TrainingError(
                    f"--pipeline.appearance-image {name} is not a training image. Pass one of {', '.join(names)}."
                )
            return names.index(name)
        sun_heights = [-1.0 if sun is None else sun[2] for sun in normalized.sun_directions]
        return max(self.model.appearance_model.reference_images, key=sun_heights.__getitem__)

    # Steps

    def _window_at(self, step: int) -> EpisodeWindow | None:
        return None if self.schedule is None else self.schedule.window_at(step)

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Losses of a satellite image or of a refined image."""
        window = self._window_at(step)
        index = None if window is None else synthetic_index(step - window.first_step, self.config.synthetic_share)
        if window is None or index is None:
            return super().get_train_loss_dict(step)
        number = source_episode(index, window.number, self.config.replay_decay)
        camera, batch = self._views[number].draw_view(index)
        outputs = self.model(camera.to(self.device))
        metrics = self.model.get_metrics_dict(outputs, batch)
        losses = self.model.get_loss_dict(outputs, batch, metrics)
        return outputs, losses | self.depth_losses(step), metrics


def _hash_means(model: SkyfallModel) -> str:
    """Hash of the positions of the Gaussians."""
    return hashlib.sha256(model.means.detach().cpu().numpy().tobytes()).hexdigest()[:16]
