"""Refining an episode: killed between any two images, out of memory, answers that are none; with counting refiners."""

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu import episode_store
from skyfall_ns.idu.curriculum import Curriculum, poses
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.idu.refinement import refine_episode
from skyfall_ns.refiners.identity import NoneRefinerConfig

CPU = torch.device("cpu")
BOX = np.array([[-50.0, -50.0, 0.0], [50.0, 50.0, 20.0]])


class Killed(BaseException):
    """As if the process ended here."""


@dataclass
class Counting:
    """Negatives of the views; counts what it is asked, and fails as told."""

    generative: ClassVar[bool] = False
    batch: int = 3
    strength: float = 1.0
    fits: int = 1000
    """Views that the memory takes at once."""
    nan: str = ""
    asked: Counter = field(default_factory=Counter)
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
            yield self.refine
        finally:
            self.unloads += 1

    def refine(self, views):
        self.batches.append(len(views))
        if len(views) > self.fits:
            raise torch.OutOfMemoryError("out of memory")
        self.asked.update(view.name for view in views)
        images = [1 - self.strength * view.image for view in views]
        for image, view in zip(images, views, strict=True):
            if view.name == self.nan:
                image[3, 3] = float("nan")
        return images


@pytest.fixture
def folder(tmp_path):
    curriculum = Curriculum(grid=1, azimuths=8, size_px=16)
    episode = curriculum.episodes(BOX)[0]
    views = poses(curriculum, episode, BOX, lambda x, y: 0.0, lambda eye, target: True)
    made = EpisodeFolder.begin(tmp_path, episode, views, 16, {"run": 1}, 500.0)
    for name in made.names:
        image = torch.rand(16, 16, 3, generator=torch.Generator().manual_seed(int(name)))
        made.write_render(name, image, torch.ones(16, 16), torch.full((16, 16), 100.0))
    return made


def refine(folder, config):
    return refine_episode(EpisodeFolder.open(folder.path), config, CPU, progress=False)


def files(folder):
    return {p.name: p.read_bytes() for p in (folder.path / "refined").glob("*")}


def test_every_view_is_refined_once(folder):
    config = Counting()
    report = refine(folder, config)
    assert config.asked == Counter(folder.names) and config.batches == [3, 3, 2] and config.unloads == 1
    assert (report.refined, report.kept) == (8, 0) and report.seconds > 0
    assert report.peak_memory_bytes and 1e7 < report.peak_memory_bytes < 1e12
    again = EpisodeFolder.open(folder.path)
    assert (again.refined("004") - (1 - again.view("004").image)).abs().max() < 1e-6
    assert again.manifest.phases["refine"]["seconds"] > 0 and again.manifest.refiner == config.identity()
    report = refine(folder, config)
    assert report.refined == 0 and config.loads == 1 and config.asked == Counter(folder.names)


def test_a_kill_between_any_two_files_costs_no_image_twice(folder, monkeypatch):
    """The process ends before its n-th write, for every n: what is on the disk and told by the manifest is not made
    again, and the end is the same. At most the batch that was in memory is asked again."""
    refine(folder, Counting())
    whole, write, left = files(folder), episode_store.write_whole, [-1]

    def counted(path, data):
        if left[0] == 0:
            raise Killed
        left[0] -= 1
        write(path, data)

    monkeypatch.setattr(episode_store, "write_whole", counted)
    for n in range(1 + 3 * len(folder.names)):  # who refines; then an image, its record and the time of each
        left[0] = -1
        EpisodeFolder.open(folder.path).begin_refining({"name": "nobody"}, False)
        for file in (folder.path / "refined").glob("*"):
            file.unlink()
        config, left[0] = Counting(batch=1), n
        with pytest.raises(Killed):
            refine(folder, config)
        assert config.loads == config.unloads
        killed = EpisodeFolder.open(folder.path).manifest.views
        done = [name for name, view in killed.items() if view.refined_sha256]
        left[0] = -1
        refine(folder, config)
        assert all(config.asked[name] == 1 for name in done), n
        assert set(config.asked) == set(folder.names) and sum(config.asked.values()) <= len(folder.names) + 1
        assert files(folder) == whole


def test_a_batch_that_was_cut_short_is_all_that_is_lost(folder):
    class Stops(Counting):
        def refine(self, views):
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().refine(views)

    config = Stops(batch=3)
    with pytest.raises(KeyboardInterrupt):
        refine(folder, config)
    assert config.unloads == 1 and len(files(folder)) == 6
    config = Counting()
    assert refine(folder, config).refined == 2 and config.asked == Counter(folder.names[6:])


def test_spoilt_images_are_refined_again(folder):
    refine(folder, Counting())
    whole = files(folder)
    folder.file("refined", "002").unlink()
    folder.file("refined", "005").write_bytes(b"\x89PNG")
    config = Counting()
    assert refine(folder, config).refined == 2 and config.asked == Counter(["002", "005"]) and files(folder) == whole
    assert refine(folder, Counting(strength=0.5)).refined == 8  # another refiner
    assert files(folder) != whole


def test_what_lies_in_the_folder_can_belong_to_the_refiner(folder):
    class Shown(Counting):
        def identity(self, episode=None):
            return {"name": "shown", "reference": (episode / "reference.png").exists()}

    assert refine(folder, Shown()).refined == 8 and refine(folder, Shown()).refined == 0
    (folder.path / "reference.png").touch()
    assert refine(folder, Shown()).refined == 8 and refine(folder, Shown()).refined == 0


def test_batches_shrink_to_the_memory(folder):
    config = Counting(batch=8, fits=2)
    with pytest.warns(UserWarning, match="Memory ran out with [84] views at once; going on with [42]"):
        assert refine(folder, config).refined == 8
    assert config.batches == [8, 4, 2, 2, 2, 2] and config.asked == Counter(folder.names) and config.loads == 1
    with pytest.raises(TrainingError) as error:
        refine(folder, Counting(fits=0, strength=2.0))
    assert "Pass --pipeline.refiner.diffusion.offload" in str(error.value)


def test_a_model_that_does_not_fit_is_told_alike(folder):
    class Huge(Counting):
        def load(self, device, episode):
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(TrainingError, match=r"--refiner\.diffusion\.offload"):
        refine_episode(folder, Huge(), CPU, progress=False, flag="--refiner.")


def test_answers_that_are_none_keep_the_render(folder):
    with pytest.warns(UserWarning, match="view 004 has numbers that are none; its render is kept"):
        report = refine(folder, Counting(nan="004"))
    assert (report.refined, report.kept) == (8, 1)
    data = json.loads((folder.path / "manifest.json").read_text())
    assert [name for name, view in data["views"].items() if view["kept_render"]] == ["004"]
    assert folder.file("refined", "004").read_bytes() == folder.file("render", "004").read_bytes()
    assert refine(folder, Counting()).refined == 0


def test_missing_renders_are_told_before_anything_is_loaded(folder):
    folder.file("render", "003").unlink()
    config = Counting()
    with pytest.raises(TrainingError, match=r"1 of 8 renders of .* are missing or damaged: 003\. Go on with"):
        refine(folder, config)
    assert config.loads == 0


def test_a_refiner_that_loses_an_image_is_no_refiner(folder):
    class Loses(Counting):
        def refine(self, views):
            return super().refine(views)[1:]

    with pytest.raises(ValueError, match="zip"):
        refine(folder, Loses())


def test_none_gives_the_renders_back(folder):
    assert refine(folder, NoneRefinerConfig()).refined == 8
    for name in folder.names:
        assert folder.file("refined", name).read_bytes() == folder.file("render", name).read_bytes()
