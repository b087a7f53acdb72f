"""Stage 2, iterative dataset update: per episode the scene is rendered, the renders are refined, and training goes on
with what came of them."""

import hashlib
import math
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.consistency import assess_episode
from skyfall_ns.idu.curriculum import PRESETS, Curriculum, Episode, farthest_m, poses
from skyfall_ns.idu.episode_panel import EpisodeNote, EpisodePanel, show_episode
from skyfall_ns.idu.episode_store import OF_ANOTHER, EpisodeFolder, episode_path
from skyfall_ns.idu.learning_rates import restart_rates
from skyfall_ns.idu.offload import parked
from skyfall_ns.idu.refinement import peak_memory_bytes, refine_episode
from skyfall_ns.idu.rendering import draw_pairs, render_views, stands_free
from skyfall_ns.idu.schedule import Round, EpisodeSchedule, episode_turn, synthetic_turn
from skyfall_ns.idu.synthetic_views import SyntheticViews
from skyfall_ns.models.skyfall import SkyfallModel
from skyfall_ns.pipelines import checkpoint_state
from skyfall_ns.pipelines.depth_supervision import DepthSupervision
from skyfall_ns.pipelines.load_run import find_checkpoint
from skyfall_ns.pipelines.skyfall_pipeline import SkyfallPipeline, SkyfallPipelineConfig
from skyfall_ns.priors.pseudo_ground import PseudoGround, height_field
from skyfall_ns.refiners.registry import RefinerOptions

IDU = "idu"


@dataclass
class IduPipelineConfig(SkyfallPipelineConfig):
    """Renders refined, episode by episode."""

    _target: type = field(default_factory=lambda: IduPipeline)
    stage1: Path | None = None
    """config.yml of the stage 1 run to start from. Without it, and without --load-dir, stage 1 is trained first."""
    stage1_steps: int = 600
    """Steps of stage 1 where it is trained first."""
    preset: Literal["fitted", "reference-jax", "reference-nyc"] | None = None
    """A whole curriculum by its name, instead of the options below."""
    curriculum: Curriculum = field(default_factory=Curriculum)
    """From where the scene is looked at."""
    refiner: RefinerOptions = field(default_factory=RefinerOptions)
    """What is made of the renders."""
    refine_elsewhere: bool = False
    """End as soon as an episode is rendered, for skyfall-refine to refine it, on another machine if need be; with
    --load-dir the run goes on with what came of it. The refiner's package and weights are not asked for here."""
    synthetic_share: float = 0.75
    """Part of the training steps that look at refined images; the others look at satellite images."""
    keep_earlier: float = 0.7
    """Share of the episode before, relative to the present one's, and so on back; 0 forgets what came before, as
    Skyfall-GS does."""
    look: str | None = None
    """Name of the training image whose light and colours the renders have. Default: of those that
    model.canonical names, the one with the highest sun."""
    agreement: bool = True
    """Weigh the pixels of refined images by how well neighbouring views agree with them."""
    moves: float = 0.3
    """How much refined images move splats and change their shapes, relative to how much they colour them: the less, the
    more heights are the satellites' alone (Skyfall-GS: 1)."""
    episode_rates: float = 0.25
    """Learning rates in episodes, relative to those of --optimizers: where pictures are made up, splats move slowly."""
    episode_depth: float = 0.0
    """Weight of depth supervision during episodes, over the elevations and distances of --pipeline.depth; 0 turns it
    off (Skyfall-GS: 0.5)."""
    grow_share: float = 0.0
    """Part of an episode's steps during which splats are split and pruned (Skyfall-GS: 0.9)."""
    grow_thresh: float = 6e-4
    """Gradient above which a splat grows in an episode; see --pipeline.model.densify-grad-thresh."""
    reset_share: float = 0.0
    """Part of an episode's steps after which opacities are reset; 0 never (Skyfall-GS: 0.5)."""

    def check(self) -> None:
        """TrainingError that names the flag of a number that makes no sense."""
        for name in ("synthetic_share", "keep_earlier", "moves", "grow_share", "reset_share"):
            if not 0 <= getattr(self, name) <= 1:
                flag = name.replace("_", "-")
                raise TrainingError(f"--pipeline.{flag} is {getattr(self, name)}. Pass a number from 0 to 1.")
        if not 0 <= self.episode_depth < math.inf:
            raise TrainingError(f"--pipeline.episode-depth is {self.episode_depth}. Pass a weight of at least 0.")
        if not 0 < self.episode_rates <= 10:
            raise TrainingError(f"--pipeline.episode-rates is {self.episode_rates}. Pass a number above 0, up to 10.")
        if self.stage1_steps < 1:
            raise TrainingError(f"--pipeline.stage1-steps is {self.stage1_steps}. Pass 1 or more.")
        if self.preset is not None and self.curriculum not in PRESETS.values():
            raise TrainingError(
                f"--pipeline.preset {self.preset} and options of --pipeline.curriculum exclude each other. Leave "
                "one out; docs/stage2.md has the presets' numbers."
            )

    def chosen_curriculum(self) -> Curriculum:
        """The preset's, or the one that the options say."""
        return self.curriculum if self.preset is None else PRESETS[self.preset]


class IduPipeline(SkyfallPipeline):
    """Stage 2 training."""

    LENGTH_FLAG: ClassVar[str] = "--pipeline.curriculum.steps"
    config: IduPipelineConfig
    rounds: EpisodeSchedule | None = None  # from the first step on
    _folders: dict[int, EpisodeFolder]
    _views: dict[int, SyntheticViews]
    _panel: EpisodePanel | None = None  # in the viewer, if there is one
    _began: int | None = None
    _origin: str | None = None
    _loaded: bool = False

    def __init__(self, config: IduPipelineConfig, device: str, test_mode: str = "val", **kwargs: Any) -> None:
        """Raises MissingExtraError or TrainingError, before anything is trained, if the refiner lacks something or a
        number makes no sense; only training asks for it."""
        super().__init__(config, device, test_mode, **kwargs)
        self._folders, self._views = {}, {}
        if test_mode == "val":
            config.check()
            self.curriculum = config.chosen_curriculum()
            self.episodes = self.curriculum.episodes(self.model.on_model.scene.box_m)
            self._refiner = config.refiner.choose()
            if not config.refine_elsewhere:
                self._refiner.check()
            self._look = self._chosen_look()

    # Where the run stands

    def get_extra_state(self) -> dict[str, Any]:
        """Also: when stage 2 began, and from which splats."""
        start = None if self.rounds is None else self.rounds.start
        return super().get_extra_state() | {"idu": {"start": start, "origin": self._origin}}

    def set_extra_state(self, state: dict[str, Any] | None) -> None:
        """A checkpoint of stage 2 knows when it began; after one of stage 1 it begins."""
        super().set_extra_state(state)
        known = ({} if state is None else state).get("idu", {})
        self._began, self._origin, self._loaded = known.get("start"), known.get("origin"), True

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """The model's, and before each step the question whether an episode begins."""
        trainer = training_callback_attributes.trainer
        if trainer is None:
            return super().get_training_callbacks(training_callback_attributes)
        self._trainer, self._idu = trainer, trainer.base_dir / IDU
        self.rounds = EpisodeSchedule(self._start(trainer), tuple(e.steps for e in self.episodes))
        trainer.config.max_num_iterations = min(trainer.config.max_num_iterations, self.rounds.end)
        if self._began is None:
            _check_new(self._idu)
        else:
            _take_over(trainer.config, self._idu)
        current = self.rounds.window_at(trainer._start_step)
        if current is not None and current.first < trainer._start_step:
            self._begin_growth(current)  # its statistics come from the checkpoint
        callbacks = super().get_training_callbacks(training_callback_attributes)
        before = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._before_step)
        after = TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], self._after_step)
        return [*callbacks, before, after]

    def _start(self, trainer: Trainer) -> int:
        """The first step of stage 2: after the steps of the run that it starts from."""
        if not self._loaded and self.config.stage1 is not None:
            trainer._start_step = self._load_stage1(find_checkpoint(self.config.stage1)) + 1
        if self._began is not None:
            return self._began
        return trainer._start_step if self._loaded else self.config.stage1_steps

    def _load_stage1(self, checkpoint: Path) -> int:
        """Take over the splats and looks of another run; the number of its last step."""
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        try:
            self.load_pipeline(state["pipeline"], state["step"])
        except (KeyError, RuntimeError) as error:
            raise TrainingError(
                f"{checkpoint} was trained with other parts of the model than this run has. "
                "Pass the same --pipeline.model options (appearance, sh-degree, pose-shift) as in stage 1."
            ) from error
        self._stopped, self._began, self._origin = None, None, None  # the splats of that run, not its place
        return int(state["step"])

    # Episodes

    def _before_step(self, step: int) -> None:
        assert self.rounds is not None
        now = self.rounds.window_at(step)
        if now is None or now.number in self._views:
            return
        if step == now.first:
            self._origin = self._origin or _fingerprint(self.model)
            self._trainer.save_checkpoint(step - 1)  # renders are never made from other splats than a resumed run has
            self._begin_growth(now)
        note = EpisodeNote(self._trainer, step)
        with _quiet_dice(self.model):
            self._views = {
                number: self._views.get(number) or self._prepared(self.episodes[number - 1], note)
                for number in self._needed(now.number)
            }
        note.remove()
        self._panel = show_episode(self._trainer, self._folders[now.number], self.model.on_model, self._panel)
        self._begin_depth(now)
        table, factor = self._trainer.config.optimizers, self.config.episode_rates
        restart_rates(self._trainer.optimizers, table, step - now.first, now.steps, factor)
        self.forget()
        self._trains_since = time.perf_counter()

    def _after_step(self, step: int) -> None:
        """Write down how long an episode's training took, from where it began or went on."""
        assert self.rounds is not None
        now = self.rounds.window_at(step)
        if now is None or step < now.first + now.steps - 1:
            return
        seconds, peak = time.perf_counter() - self._trains_since, peak_memory_bytes(self.model.device)
        self._folders[now.number].record_phase("train", seconds, peak)

    def _needed(self, number: int) -> list[int]:
        return list(range(1, number + 1)) if self.config.keep_earlier > 0 else [number]

    def _begin_growth(self, now: Round) -> None:
        stop, every = round(self.config.grow_share * now.steps), self.model.config.refine_every
        resets = max(round(self.config.reset_share * now.steps / every), 1) if self.config.reset_share else 10**6
        options = replace(
            self.model.config, warmup_length=0, stop_split_at=stop, densify_grad_thresh=self.config.grow_thresh,
            reset_alpha_every=resets,
        )  # fmt: skip
        self.model.grow_from(now.first, options)

    def _begin_depth(self, now: Round) -> None:
        """Depth supervision over an episode: its window is the episode's."""
        if self.depth is None:
            return
        self.depth.close()
        if self.config.episode_depth == 0:
            self.depth = None
            return
        options, seed = self.config.depth, self.depth.seed
        window = replace(options.schedule, start=now.first - 1, end=now.first + now.steps, ramp=0)
        self.depth = DepthSupervision.of(
            replace(options, schedule=window, weight=self.config.episode_depth), self.model.on_model, seed
        )

    def _prepared(self, episode: Episode, note: EpisodeNote) -> SyntheticViews:
        """An episode's images: rendered, refined and weighed as far as that is not done yet."""
        note.tell(episode, "rendered")
        folder = self._folder(episode)
        self._render(folder)
        missing = folder.missing_refined()
        if missing and self.config.refine_elsewhere:
            raise SystemExit(_waiting(folder, len(missing), self._trainer.checkpoint_dir))
        if missing:
            note.tell(episode, f"refined by {self.config.refiner.name}: {len(missing)} views")
            device = self.model.device
            with parked(self.model, self._trainer.optimizers):
                report = refine_episode(folder, self._refiner, device)
            kept = f", {report.kept} of them kept as rendered" if report.kept else ""
            CONSOLE.log(f"Episode {episode.number}: {report.refined} images refined in {report.seconds:.0f} s{kept}.")
        note.tell(episode, "compared view by view")
        self._weigh(folder)
        config = self.config
        return SyntheticViews.of(folder, self.model.on_model, self._look, config.agreement, config.moves)

    def _folder(self, episode: Episode) -> EpisodeFolder:
        if episode.number in self._folders:
            return self._folders[episode.number]
        on_model, curriculum, seed = self.model.on_model, self.curriculum, self._trainer.config.machine.seed
        ground = PseudoGround(on_model, height_field(on_model))
        path = episode_path(self._idu, episode.number)
        if (path / "poses.json").exists():  # made with the splats of then
            chosen = EpisodeFolder.open(path).shots.poses
        else:
            chosen = poses(
                curriculum, episode, on_model.scene.box_m, ground.level_m,
                lambda eye, target: stands_free(self.model, ground, episode, eye, target), seed,
            )  # fmt: skip
        folder = EpisodeFolder.begin(
            self._idu, episode, chosen, curriculum.size_px,
            checkpoint_state.identity(on_model) | {"splats": self._origin},
            farthest_m(chosen, on_model.scene.box_m), self.config.refiner.to_dict(),
        )  # fmt: skip
        if not self.config.refine_elsewhere:
            forgotten = folder.begin_refining(self._refiner.identity(folder.path), self._refiner.generative)
            if forgotten:
                CONSOLE.log(f"Episode {episode.number}: {forgotten} images {OF_ANOTHER} are made again.")
        self._folders[episode.number] = folder
        return folder

    def _render(self, folder: EpisodeFolder) -> None:
        start = time.perf_counter()
        wants_pairs = self.config.refiner.name == "scene" and bool(folder.missing_refined())
        if not folder.missing_renders() and not wants_pairs:
            return
        self.model.eval()
        render_views(self.model, folder, self._look)
        if wants_pairs:
            draw_pairs(self.model, self.datamanager, folder, self._look, self.config.refiner.scene.pairs)
        self.model.train()
        folder.record_phase("render", time.perf_counter() - start, peak_memory_bytes(self.model.device))

    def _weigh(self, folder: EpisodeFolder) -> None:
        numbers = assess_episode(folder)
        CONSOLE.log(f"Episode {folder.episode.number}: {_told(numbers)}")

    def _chosen_look(self) -> int:
        names, suns = self.model.on_model.image_names, self.model.on_model.suns
        if self.config.look is not None:
            if self.config.look not in names:
                raise TrainingError(
                    f"--pipeline.look {self.config.look} is none of the training images. They are: {', '.join(names)}."
                )
            return names.index(self.config.look)
        heights = [-1.0 if sun is None else sun[2] for sun in suns]
        return max(self.model.looks.shown, key=heights.__getitem__)

    # Steps

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """A satellite view's losses, or those of a refined one."""
        now = None if self.rounds is None else self.rounds.window_at(step)
        turn = None if now is None else synthetic_turn(step - now.first, self.config.synthetic_share)
        if now is None or turn is None:
            return super().get_train_loss_dict(step)
        number = episode_turn(turn, now.number, self.config.keep_earlier)
        camera, batch = self._views[number].at(turn)
        outputs = self.model(camera.to(self.device))
        metrics = self.model.get_metrics_dict(outputs, batch)
        losses = self.model.get_loss_dict(outputs, batch, metrics)
        return outputs, losses | self.depth_losses(step), metrics


def _fingerprint(model: SkyfallModel) -> str:
    """Which splats a run started from."""
    return hashlib.sha256(model.means.detach().cpu().numpy().tobytes()).hexdigest()[:16]


def _waiting(folder: EpisodeFolder, missing: int, checkpoints: Path) -> str:
    return (
        f"Episode {folder.episode.number} is rendered, and {missing} of its {len(folder.names)} views wait to be "
        f"refined. Run skyfall-refine on {folder.path}, or on a copy that you bring back, "
        f"then go on with --load-dir {checkpoints}."
    )


def _told(numbers: dict[str, Any]) -> str:
    raw, refined = numbers["raw"]["psnr"], numbers["refined"]["psnr"]
    if raw is None or refined is None:
        return "no two neighbouring views see the same place."
    return f"neighbouring views agree to {raw:.1f} dB as rendered, {refined:.1f} dB as refined."


@contextmanager
def _quiet_dice(model: torch.nn.Module) -> Iterator[None]:
    """Random numbers of training go on as if nothing had been drawn in between."""
    devices = [model.device] if model.device.type == "cuda" else []  # type: ignore[union-attr, arg-type]
    state = random.getstate()
    with torch.random.fork_rng(devices=devices):
        yield
    random.setstate(state)


def _check_new(idu: Path) -> None:
    """TrainingError if a run that begins stage 2 would train on what another one has rendered."""
    if idu.exists():
        raise TrainingError(
            f"{idu} holds episodes of an earlier run. Choose another --timestamp, or go on with that run by --load-dir "
            f"{idu.with_name('nerfstudio_models')}."
        )


def _take_over(config: TrainerConfig, idu: Path) -> None:
    """The episodes of the run that is gone on with, where this one has another folder."""
    models = config.load_dir if config.load_checkpoint is None else config.load_checkpoint.parent
    if models is None or idu.exists():
        return
    before, partial = models.resolve().parent / IDU, idu.with_name(f".{IDU}.partial")
    if before.is_dir():
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(before, partial)
        partial.rename(idu)
