"""Refinement of an episode with counting refiners: kills between any two files, memory, and NaN."""

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from helpers.idu_runs import SimulatedKill

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu import episode_store
from skyfall_ns.idu.camera_placement import place_cameras
from skyfall_ns.idu.curriculum import Curriculum
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.idu.refinement import refine_episode
from skyfall_ns.refiners.identity import IdentityRefinerConfig

CPU = torch.device("cpu")
BOX = np.array([[-50.0, -50.0, 0.0], [50.0, 50.0, 20.0]])


@dataclass
class CountingRefiner:
    """Returns negatives of the views; counts calls, and fails on request."""

    generative: ClassVar[bool] = False
    batch: int = 3
    training_pairs: int = 0
    strength: float = 1.0
    max_views: int = 1000
    """Number of views that fit into memory."""
    nan_view: str = ""
    calls: Counter = field(default_factory=Counter)
    batches: list = field(default_factory=list)
    loads: int = 0
    unloads: int = 0

    def check(self) -> None:
        pass

    def identity(self, episode=None) -> dict[str, Any]:
        return {"name": "counting", "strength": self.strength}

    @contextmanager
    def load(self, device, episode):
        assert (episode / "poses.json").exists() and device == CPU
        self.loads += 1
        try:
            yield self.refine_views
        finally:
            self.unloads += 1

    def refine_views(self, views):
        self.batches.append(len(views))
        if len(views) > self.max_views:
            raise torch.OutOfMemoryError("out of memory")
        self.calls.update(view.name for view in views)
        images = [1 - self.strength * view.image for view in views]
        for image, view in zip(images, views, strict=True):
            if view.name == self.nan_view:
                image[3, 3] = float("nan")
        return images


@pytest.fixture
def store(tmp_path):
    """A rendered episode of eight views."""
    curriculum = Curriculum(grid=1, azimuths=8, size_px=16)
    episode = curriculum.plan_episodes(BOX)[0]
    poses, _ = place_cameras(curriculum, episode, BOX, lambda x, y: 0.0, lambda eye, target: None)
    rendered = EpisodeStore.create(tmp_path, episode, poses, 16, {"run": 1}, 500.0)
    for name in rendered.view_names:
        image = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(int(name)))
        rendered.write_render(name, image, torch.ones(16, 16), torch.full((16, 16), 100.0))
    return rendered


def refine(store, config):
    """Open and refine an episode, as a new run does."""
    return refine_episode(EpisodeStore.open(store.path), config, CPU, progress=False)


def refined_files(store):
    return {p.name: p.read_bytes() for p in (store.path / "refined").glob("*")}


def test_every_view_is_refined_once(store):
    config = CountingRefiner()
    report = refine(store, config)
    assert config.calls == Counter(store.view_names) and config.batches == [3, 3, 2] and config.unloads == 1
    assert (report.refined_count, report.kept_count) == (8, 0) and report.seconds > 0
    assert report.peak_memory_bytes and 1e7 < report.peak_memory_bytes < 1e12
    again = EpisodeStore.open(store.path)
    assert (again.read_refined("004") - (1 - again.rendered_view("004").image)).abs().max() < 1e-6
    assert again.manifest.phases["refine"]["seconds"] > 0 and again.manifest.refiner == config.identity()
    report = refine(store, config)
    assert report.refined_count == 0 and config.loads == 1 and config.calls == Counter(store.view_names)


def test_kill_between_any_two_files_repeats_no_complete_image(store, monkeypatch):
    """The process ends before its n-th write, for every n: images that are complete in the manifest are not refined
    again, and the result is the same. At most the batch in memory is refined again."""
    refine(store, CountingRefiner())
    expected, write, remaining = refined_files(store), episode_store.atomic_write, [-1]

    def write_or_kill(path, data):
        if remaining[0] == 0:
            raise SimulatedKill
        remaining[0] -= 1
        write(path, data)

    monkeypatch.setattr(episode_store, "atomic_write", write_or_kill)
    for n in range(1 + 3 * len(store.view_names)):  # the refiner; then image, record and time of each view
        remaining[0] = -1
        EpisodeStore.open(store.path).set_refiner({"name": "other"}, False)
        for file in (store.path / "refined").glob("*"):
            file.unlink()
        config, remaining[0] = CountingRefiner(batch=1), n
        with pytest.raises(SimulatedKill):
            refine(store, config)
        assert config.loads == config.unloads
        records = EpisodeStore.open(store.path).manifest.views
        complete = [name for name, view in records.items() if view.refined_sha256]
        remaining[0] = -1
        refine(store, config)
        assert all(config.calls[name] == 1 for name in complete), n
        assert set(config.calls) == set(store.view_names)
        assert sum(config.calls.values()) <= len(store.view_names) + 1
        assert refined_files(store) == expected


def test_interrupted_batch_is_refined_again(store):
    class InterruptedRefiner(CountingRefiner):
        def refine_views(self, views):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().refine_views(views)

    config = InterruptedRefiner(batch=3)
    with pytest.raises(KeyboardInterrupt):
        refine(store, config)
    assert config.unloads == 1 and len(refined_files(store)) == 6
    config = CountingRefiner()
    assert refine(store, config).refined_count == 2 and config.calls == Counter(store.view_names[6:])


def test_missing_damaged_and_outdated_images_are_refined_again(store):
    refine(store, CountingRefiner())
    expected = refined_files(store)
    store.image_path("refined", "002").unlink()
    store.image_path("refined", "005").write_bytes(b"\x89PNG")
    config = CountingRefiner()
    assert refine(store, config).refined_count == 2 and config.calls == Counter(["002", "005"])
    assert refined_files(store) == expected
    assert refine(store, CountingRefiner(strength=0.5)).refined_count == 8  # another refiner
    assert refined_files(store) != expected


def test_identity_may_depend_on_files_of_the_episode(store):
    class ReferenceRefiner(CountingRefiner):
        def identity(self, episode=None):
            return {"name": "reference", "reference": (episode / "reference.png").exists()}

    assert refine(store, ReferenceRefiner()).refined_count == 8
    assert refine(store, ReferenceRefiner()).refined_count == 0
    (store.path / "reference.png").touch()
    assert refine(store, ReferenceRefiner()).refined_count == 8
    assert refine(store, ReferenceRefiner()).refined_count == 0


def test_batches_are_halved_when_memory_runs_out(store):
    config = CountingRefiner(batch=8, max_views=2)
    with pytest.warns(UserWarning, match="Memory ran out with [84] views per batch; continuing with [42]"):
        assert refine(store, config).refined_count == 8
    assert config.batches == [8, 4, 2, 2, 2, 2] and config.calls == Counter(store.view_names) and config.loads == 1
    with pytest.raises(TrainingError) as error:
        refine(store, CountingRefiner(max_views=0, strength=2.0))
    assert "Pass --pipeline.refiner.diffusion.offload" in str(error.value)


def test_model_that_does_not_fit_is_reported(store):
    class LargeRefiner(CountingRefiner):
        def load(self, device, episode):
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(TrainingError, match=r"--pipeline\.refiner\.diffusion\.offload"):
        refine_episode(store, LargeRefiner(), CPU, progress=False)


def test_images_with_nan_are_replaced_by_renders(store):
    with pytest.warns(UserWarning, match="view 004 has NaN or infinity; its render is kept"):
        report = refine(store, CountingRefiner(nan_view="004"))
    assert (report.refined_count, report.kept_count) == (8, 1)
    data = json.loads((store.path / "manifest.json").read_text())
    assert [name for name, view in data["views"].items() if view["kept_render"]] == ["004"]
    assert store.image_path("refined", "004").read_bytes() == store.image_path("render", "004").read_bytes()
    assert refine(store, CountingRefiner()).refined_count == 0


def test_missing_renders_are_reported_before_loading(store):
    store.image_path("render", "003").unlink()
    config = CountingRefiner()
    with pytest.raises(TrainingError, match=r"1 of 8 renders of .* are missing or damaged: 003\. Resume the training"):
        refine(store, config)
    assert config.loads == 0


def test_refiner_that_omits_an_image_is_an_error(store):
    class IncompleteRefiner(CountingRefiner):
        def refine_views(self, views):
            return super().refine_views(views)[1:]

    with pytest.raises(ValueError, match="zip"):
        refine(store, IncompleteRefiner())


def test_identity_refiner_returns_renders(store):
    assert refine(store, IdentityRefinerConfig()).refined_count == 8
    for name in store.view_names:
        assert store.image_path("refined", name).read_bytes() == store.image_path("render", name).read_bytes()
