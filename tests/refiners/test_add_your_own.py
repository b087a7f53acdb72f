"""The example of docs/extending/add_a_refiner.md, run as it is printed."""

import json
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
import torch
import tyro
from helpers.documents import load_example, python_blocks, table_entry
from helpers.plates import write_plate_renders

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.camera_placement import place_cameras
from skyfall_ns.idu.curriculum import Curriculum
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.idu.refinement import refine_episode
from skyfall_ns.refiners import registry
from skyfall_ns.refiners.registry import REFINERS, RefinerName, RefinerOptions

MODULE = "skyfall_ns.refiners.median"
CPU = torch.device("cpu")


@pytest.fixture
def median(tmp_path_factory, monkeypatch):
    """The module of the page, whose refiner is in the table during the test."""
    source, line = python_blocks("extending/add_a_refiner.md")
    module = load_example(source, MODULE, tmp_path_factory.mktemp("example"), monkeypatch)
    name, entry = table_entry(line, registry)
    monkeypatch.setitem(REFINERS, name, entry)
    return module


@pytest.fixture
def store(tmp_path):
    """An episode with four rendered views of 32 pixels."""
    box_m, curriculum = np.array([[-30.0, -30.0, 0.0], [30.0, 30.0, 12.0]]), Curriculum(grid=1, azimuths=4, size_px=32)
    episode = curriculum.plan_episodes(box_m)[0]
    poses, _ = place_cameras(curriculum, episode, box_m, lambda x, y: 0.0, lambda eye, target: None)
    return write_plate_renders(EpisodeStore.create(tmp_path, episode, poses, 32, {"run": 1}, 500.0))


def test_the_example_refines_an_episode(median, store):
    config = RefinerOptions("median").build()
    config.check()
    assert isinstance(config, median.MedianRefinerConfig)
    assert refine_episode(store, config, CPU, progress=False).refined_count == 4
    reopened = EpisodeStore.open(store.path)
    assert reopened.manifest.refiner == {"name": "median", "size_px": 5} and reopened.manifest.generative is False
    for name in reopened.view_names:
        expected = cv2.medianBlur(reopened.rendered_view(name).image.numpy(), 5)
        assert np.abs(reopened.read_refined(name).numpy() - expected).max() < 0.51 / 255


def test_manifests_restore_the_example(median):
    options = RefinerOptions.from_dict(json.loads(json.dumps(RefinerOptions("median").to_dict())))
    assert options.build() == median.MedianRefinerConfig()


def test_options_out_of_range_are_an_error_of_two_sentences(median):
    with pytest.raises(TrainingError, match=r"^The window .* is 4 px wide\. Set size_px") as error:
        median.MedianRefinerConfig(size_px=4).check()
    assert str(error.value).count(". ") == 1


@pytest.mark.usefixtures("median")
def test_the_line_in_the_table_is_a_choice_of_the_command_line(tmp_path, monkeypatch):
    """Checked with a copy of the registry, whose choices are made when it is imported."""
    _, line = python_blocks("extending/add_a_refiner.md")
    source = Path(registry.__file__).read_text()
    assert source.count("] = {\n") == 1
    copy = load_example(source.replace("] = {\n", "] = {\n" + line), "registry_copy", tmp_path, monkeypatch)
    assert tyro.cli(copy.RefinerOptions, args=["--name", "median"]).build().identity()["name"] == "median"


def test_choices_are_the_table_and_unknown_names_an_error():
    assert get_args(RefinerName) == tuple(REFINERS)
    with pytest.raises(TrainingError, match=r"There is no refiner 'magic'\. Pass one of identity, bilateral"):
        RefinerOptions("magic").build()
