"""Stage 2, iterative dataset update: per episode the scene is rendered, the renders are refined, and training goes on
with what came of them."""

import random
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from skyfall_ns.errors import TrainingError
from skyfall_ns.evaluation.consistency import assess_episode
from skyfall_ns.pipelines import resume
from skyfall_ns.pipelines.curriculum import PRESETS, Curriculum, Episode, farthest_m, poses
from skyfall_ns.pipelines.episode_folder import EpisodeFolder, episode_path
from skyfall_ns.pipelines.episode_render import draw_pairs, render_views, stands_free
from skyfall_ns.pipelines.loading import find_checkpoint
from skyfall_ns.pipelines.parking import parked
from skyfall_ns.pipelines.pseudo_ground import PseudoGround, height_field
from skyfall_ns.pipelines.rates import restart_rates
from skyfall_ns.pipelines.refining import peak_memory_bytes, refine_episode
from skyfall_ns.pipelines.rounds import Round, Rounds, episode_turn, synthetic_turn
from skyfall_ns.pipelines.skyfall_pipeline import SkyfallPipeline, SkyfallPipelineConfig
from skyfall_ns.pipelines.synthetic import SyntheticViews
from skyfall_ns.refiners.config import RefinerOptions

IDU = "idu"
PresetName = Literal["fitted", "reference-jax", "reference-nyc"]


@dataclass
class IduPipelineConfig(SkyfallPipelineConfig):
    """Renders refined, episode by episode."""

    _target: type = field(default_factory=lambda: IduPipeline)
    stage1: Path | None = None
    """config.yml of the stage 1 run to start from. Without it, and without --load-dir, stage 1 is trained first."""
    stage1_steps: int = 700
    """Steps of stage 1 where it is trained first."""
    preset: PresetName = "fitted"
    """Curriculum to begin with: fitted to the scene, or Skyfall-GS' for its two kinds of scenes."""
    curriculum: Curriculum = field(default_factory=Curriculum)
    """From where the scene is looked at; what is given replaces the preset's."""
    refiner: RefinerOptions = field(default_factory=RefinerOptions)
    """What is made of the renders."""
    synthetic_share: float = 0.75
    """Part of the training steps that look at refined images; the others look at satellite images (Skyfall-GS)."""
    keep_earlier: float = 0.0
    """Share of the episode before, relative to the present one's, and so on back; 0 forgets what came before, as
    Skyfall-GS does."""
    look: str | None = None
    """Name of the training image whose light and colours the renders have. Default: the one with the highest sun."""
    agreement: bool = True
    """Weigh the pixels of refined images by how well neighbouring views agree with them."""
    grow_share: float = 0.0
    """Part of an episode's steps during which splats are split and pruned (Skyfall-GS: 0.9)."""
    grow_thresh: float = 6e-4
    """Gradient above which a splat grows in an episode; see --pipeline.model.densify-grad-thresh."""
    reset_share: float = 0.0
    """Part of an episode's steps after which opacities are reset; 0 never (Skyfall-GS: 0.5)."""

    def check(self) -> None:
        """TrainingError that names the flag of a number that makes no sense."""
        for name, high in (("synthetic_share", 1.0), ("keep_earlier", 1.0), ("grow_share", 1.0), ("reset_share", 1.0)):
            if not 0 <= getattr(self, name) <= high:
                flag = name.replace("_", "-")
                raise TrainingError(f"--pipeline.{flag} is {getattr(self, name)}. Pass a number from 0 to 1.")
        if self.stage1_steps < 1:
            raise TrainingError(f"--pipeline.stage1-steps is {self.stage1_steps}. Pass 1 or more.")


class IduPipeline(SkyfallPipeline):
    """Stage 2 training."""

    config: IduPipelineConfig
    rounds: Rounds | None = None  # from the first step on
    _folders: dict[int, EpisodeFolder]
    _views: dict[int, SyntheticViews]

    def __init__(self, config: IduPipelineConfig, device: str, test_mode: str = "val", **kwargs: Any) -> None:
        """Raises MissingExtraError or TrainingError, before anything is trained, if the refiner lacks something or a
        number makes no sense; only training asks for it."""
        super().__init__(config, device, test_mode, **kwargs)
        self._folders, self._views = {}, {}
        if test_mode == "val":
            config.check()
            self.curriculum = config.curriculum.over(PRESETS[config.preset])
            self.episodes = self.curriculum.episodes(self.model.on_model.scene.box_m)
            self._refiner = config.refiner.choose()
            self._refiner.check()
            self._look = self._chosen_look()

    # Where the run stands

    def get_extra_state(self) -> dict[str, Any]:
        """Also: when stage 2 began."""
        start = None if self.rounds is None else self.rounds.start
        return super().get_extra_state() | {"idu": {"start": start}}

    def set_extra_state(self, state: dict[str, Any] | None) -> None:
        """A checkpoint of stage 2 knows when it began; after one of stage 1 it begins."""
        super().set_extra_state(state)
        self._began = None if state is None else state.get("idu", {}).get("start")
        self._loaded = True

    _began: int | None = None
    _loaded: bool = False

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """The model's, and before each step the question whether an episode begins."""
        trainer = training_callback_attributes.trainer
        if trainer is None:
            return super().get_training_callbacks(training_callback_attributes)
        self._trainer, self._idu = trainer, trainer.base_dir / IDU
        self.rounds = Rounds(self._start(trainer), tuple(e.steps for e in self.episodes))
        if self.rounds.start == 0:
            self.model.config.sh_degree_interval = 0  # another run has learned the harmonics
        trainer.config.max_num_iterations = min(trainer.config.max_num_iterations, self.rounds.end)
        if self._began is None:
            _check_new(self._idu)
        else:
            _take_over(trainer.config, self._idu)
        current = self.rounds.at(trainer._start_step)
        if current is not None and current.first < trainer._start_step:
            self._begin_growth(current)  # its statistics come from the checkpoint
        callbacks = super().get_training_callbacks(training_callback_attributes)
        before = TrainingCallback([TrainingCallbackLocation.BEFORE_TRAIN_ITERATION], self._before_step)
        return [*callbacks, before]

    def _start(self, trainer: Trainer) -> int:
        """The first step of stage 2."""
        if self._loaded:
            return trainer._start_step if self._began is None else self._began
        if self.config.stage1 is None:
            return self.config.stage1_steps
        checkpoint = find_checkpoint(self.config.stage1)
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        self.load_pipeline(state["pipeline"], state["step"])
        self._stopped, self._began, self._loaded = None, None, False  # the splats of that run, not its place
        return 0

    # Episodes

    def _before_step(self, step: int) -> None:
        assert self.rounds is not None
        now = self.rounds.at(step)
        if now is None or now.number in self._views:
            return
        if step == now.first:
            if self.depth is not None:
                self.depth.close()  # it was stage 1's
            self._save_before(step)
            self._begin_growth(now)
        with _quiet_dice(self.model):
            self._views = {
                number: self._views.get(number) or self._prepared(self.episodes[number - 1])
                for number in self._needed(now.number)
            }
        restart_rates(self._trainer.optimizers, self._trainer.config.optimizers, step - now.first, now.steps)
        self.forget()

    def _save_before(self, step: int) -> None:
        """A checkpoint at an episode's door, so that rendering and refining are never done from other splats nor twice.
        Where splats were taken over from a stage 1 run, it is that of step -1."""
        self._trainer.save_checkpoint(step - 1)

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

    def _prepared(self, episode: Episode) -> SyntheticViews:
        """An episode's images: rendered, refined and weighed as far as that is not done yet."""
        folder, device = self._folder(episode), self.model.device
        folder.begin_refining(self._refiner.identity(), self._refiner.generative)
        self._render(folder)
        if folder.missing_refined():
            with parked(self.model, self._trainer.optimizers):
                report = refine_episode(folder, self._refiner, device)
            CONSOLE.log(f"Episode {episode.number}: {report.refined} images refined in {report.seconds:.0f} s.")
        self._weigh(folder)
        return SyntheticViews.of(folder, self.model.on_model, self._look, self.config.agreement)

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
            self._idu, episode, chosen, curriculum.size_px, resume.identity(on_model),
            farthest_m(chosen, on_model.scene.box_m), self.config.refiner.to_dict(),
        )  # fmt: skip
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
        return heights.index(max(heights))

    # Steps

    def depth_losses(self, step: int) -> dict[str, Tensor]:
        """Of stage 1 only: its schedule counts its steps."""
        return {} if self.rounds is not None and self.rounds.at(step) else super().depth_losses(step)

    def get_train_loss_dict(self, step: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """A satellite view's losses, or those of a refined one."""
        now = None if self.rounds is None else self.rounds.at(step)
        turn = None if now is None else synthetic_turn(step - now.first, self.config.synthetic_share)
        if now is None or turn is None:
            return super().get_train_loss_dict(step)
        number = episode_turn(turn, now.number, self.config.keep_earlier)
        camera, batch = self._views[number].at(turn)
        outputs = self.model(camera.to(self.device))
        metrics = self.model.get_metrics_dict(outputs, batch)
        return outputs, self.model.get_loss_dict(outputs, batch, metrics), metrics


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
