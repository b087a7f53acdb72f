"""One episode of the iterative dataset update: render, refine, weight, and pass the views to training.

Every phase resumes from the files of the episode, so that a run that was killed continues where it was.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nerfstudio.utils.rich_utils import CONSOLE

from skyfall_ns.dataparsers.skyfall_datamanager import SkyfallDatamanager
from skyfall_ns.idu.camera_placement import PlacementReport, place_cameras
from skyfall_ns.idu.consistency import assess_episode
from skyfall_ns.idu.curriculum import Curriculum, Episode, Pose, farthest_depth_m
from skyfall_ns.idu.episode_store import OUTDATED_IMAGES, EpisodeStore, episode_path
from skyfall_ns.idu.refinement import peak_memory_bytes, refine_episode
from skyfall_ns.idu.rendering import find_obstacle, render_training_pairs, render_views
from skyfall_ns.idu.synthetic_views import SyntheticViews
from skyfall_ns.models.renderer import Renderer
from skyfall_ns.priors.pseudo_ground import PseudoGround
from skyfall_ns.priors.surface import surface_height_field
from skyfall_ns.refiners.base import RefinerConfig
from skyfall_ns.refiners.registry import RefinerOptions

ShowPhase = Callable[[Episode, str], None]


@dataclass(frozen=True)
class EpisodeSettings:
    """Settings of a run that are the same for all its episodes.

    `directory`: RUN/idu. `identity`: scene and initial Gaussians that episodes belong to (plain JSON). `image`: index
    of the training image whose appearance the renders have. `external_refinement`: images are refined by
    skyfall-refine. `consistency_weighting`, `geometry_gradient_scale`: see `IduPipelineConfig`.
    """

    directory: Path
    checkpoint_directory: Path
    identity: Mapping[str, Any]
    image: int
    seed: int
    external_refinement: bool
    consistency_weighting: bool
    geometry_gradient_scale: float


@dataclass
class EpisodeRunner:
    """Runs the episodes of a run and keeps their stores; `offload` frees accelerator memory while views are refined."""

    renderer: Renderer
    datamanager: SkyfallDatamanager
    curriculum: Curriculum
    refiner: RefinerConfig
    refiner_options: RefinerOptions
    settings: EpisodeSettings
    offload: Callable[[], AbstractContextManager[None]]
    stores: dict[int, EpisodeStore] = field(default_factory=dict)

    def run(self, episode: Episode, show_phase: ShowPhase) -> SyntheticViews:
        """Render, refine and weight the views of an episode as far as files are missing; return the views to train on.

        Raises SystemExit with instructions if views wait for external refinement, TrainingError if files are damaged.
        """
        show_phase(episode, "rendered")
        store = self.open_store(episode)
        self.render_missing(store)
        missing = store.missing_refined()
        if missing and self.settings.external_refinement:
            raise SystemExit(_waiting_message(store, len(missing), self.settings.checkpoint_directory))
        if missing:
            show_phase(episode, f"refined by {self.refiner_options.name}: {len(missing)} views")
            self.refine_missing(store)
        show_phase(episode, "compared view by view")
        self.weight_pixels(store)
        settings = self.settings
        return SyntheticViews.from_store(
            store,
            self.renderer.normalized,
            settings.image,
            settings.consistency_weighting,
            settings.geometry_gradient_scale,
        )

    def open_store(self, episode: Episode) -> EpisodeStore:
        """Open the files of an episode, or create them with new cameras."""
        if episode.number not in self.stores:
            self.stores[episode.number] = self._create_store(episode)
        return self.stores[episode.number]

    def render_missing(self, store: EpisodeStore) -> None:
        """Render the views that are missing, and training pairs if the refiner needs them."""
        start = time.perf_counter()
        pairs = self.refiner.training_pairs if store.missing_refined() else 0
        if not store.missing_renders() and not pairs:
            return
        training, self.renderer.training = self.renderer.training, False
        try:
            render_views(self.renderer, store, self.settings.image)
            if pairs:
                render_training_pairs(self.renderer, self.datamanager, store, self.settings.image, pairs)
        finally:
            self.renderer.training = training
        store.record_phase("render", time.perf_counter() - start, peak_memory_bytes(self.renderer.device))

    def refine_missing(self, store: EpisodeStore) -> None:
        """Refine the views that are missing."""
        with self.offload():
            report = refine_episode(store, self.refiner, self.renderer.device)
        kept = f", {report.kept_count} of them kept as rendered" if report.kept_count else ""
        seconds = f"{report.seconds:.0f} s"
        CONSOLE.log(f"Episode {store.episode.number}: {report.refined_count} images refined in {seconds}{kept}.")

    def weight_pixels(self, store: EpisodeStore) -> None:
        """Weight pixels by the consistency of neighboring views."""
        CONSOLE.log(f"Episode {store.episode.number}: {_consistency_summary(assess_episode(store))}")

    def _create_store(self, episode: Episode) -> EpisodeStore:
        settings, box_m = self.settings, self.renderer.normalized.scene.box_m
        poses, report = self._place_cameras(episode)
        store = EpisodeStore.create(
            settings.directory,
            episode,
            poses,
            self.curriculum.size_px,
            settings.identity,
            farthest_depth_m(poses, box_m),
            self.refiner_options.to_dict(),
        )
        if report is not None:
            store.record_placement(report)
        CONSOLE.log(f"Episode {episode.number}: {store.placement_summary()}.")
        if not settings.external_refinement:
            discarded = store.set_refiner(self.refiner.identity(store.path), self.refiner.generative)
            if discarded:
                CONSOLE.log(f"Episode {episode.number}: {discarded} {OUTDATED_IMAGES} are refined again.")
        return store

    def _place_cameras(self, episode: Episode) -> tuple[Sequence[Pose], PlacementReport | None]:
        """The cameras on disk, which were placed around the Gaussians of that step, or new ones and their report."""
        path = episode_path(self.settings.directory, episode.number)
        if (path / "poses.json").exists():
            return EpisodeStore.open(path).spec.poses, None
        normalized = self.renderer.normalized
        ground = PseudoGround(normalized, surface_height_field(normalized))
        return place_cameras(
            self.curriculum,
            episode,
            normalized.scene.box_m,
            ground.ground_level_m,
            lambda eye, target: find_obstacle(self.renderer, ground, episode, eye, target),
            self.settings.seed,
        )


def _waiting_message(store: EpisodeStore, missing: int, checkpoints: Path) -> str:
    return (
        f"Episode {store.episode.number} is rendered, and {missing} of its {len(store.view_names)} views wait to be "
        f"refined. Run skyfall-refine on {store.path}, or on a copy that you bring back, "
        f"then resume with --load-dir {checkpoints}."
    )


def _consistency_summary(scores: dict[str, Any]) -> str:
    raw, refined = scores["raw"]["psnr"], scores["refined"]["psnr"]
    if raw is None or refined is None:
        return "no two neighboring views overlap."
    return f"consistency of neighboring views {raw:.1f} dB (renders), {refined:.1f} dB (refined images)."
