"""Refined images as training data: cameras see what the episode's see, every view has its turn, weights weigh."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch

from skyfall_ns.dataparsers.camera_metadata import image_of
from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.curriculum import Curriculum, poses
from skyfall_ns.idu.episode_store import EpisodeFolder
from skyfall_ns.idu.synthetic_views import SyntheticViews, host_camera
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.geometry.view import view_of
from skyfall_ns.scene.model_space import HALF_PIXEL

SIZE, LOOK = 32, 2


@pytest.fixture(scope="module")
def on_model(city_scene):
    parser = copy.deepcopy(skyfall.config.pipeline.datamanager.dataparser)
    parser.data = city_scene
    return parser.setup().get_dataparser_outputs().metadata["scene_on_model"]


@pytest.fixture
def folder(on_model, tmp_path):
    """A finished episode of random pictures; the first column of each is void."""
    curriculum = Curriculum(grid=1, azimuths=7, size_px=SIZE)
    episode = curriculum.episodes(on_model.scene.box_m)[1]
    views = poses(curriculum, episode, on_model.scene.box_m, lambda x, y: 0.0, lambda eye, target: True)
    made = EpisodeFolder.begin(tmp_path, episode, views, SIZE, {"run": 1}, 500.0)
    generator = torch.Generator().manual_seed(0)
    for name in made.names:
        alpha = torch.ones(SIZE, SIZE)
        alpha[:, 0] = 0
        made.write_render(name, torch.rand(SIZE, SIZE, 3, generator=generator), alpha, torch.full((SIZE, SIZE), 100.0))
        made.write_refined(name, torch.rand(SIZE, SIZE, 3, generator=generator))
        made.write_weight(name, torch.rand(SIZE, SIZE, generator=generator))
    return made


def test_places_are_seen_where_the_episodes_cameras_see_them(folder, on_model):
    """To a thousandth of a pixel, by way of the host's float32 poses and the rasterizer's half pixel."""
    low, high = on_model.scene.box_m
    places = np.random.default_rng(0).uniform(low, high, (200, 3))
    on_splats = (places - np.array(on_model.centre_m)) * on_model.scale
    for name in folder.names:
        pinhole = folder.camera(name)
        view = view_of(host_camera(pinhole, on_model, LOOK))
        seen = on_splats @ view.camera_from_model[:3, :3].numpy().T + view.camera_from_model[:3, 3].numpy()
        colrow = (seen / seen[:, 2:]) @ view.intrinsics[:2].numpy().T
        assert (seen[:, 2] > 0).all() and (view.width, view.height) == (SIZE, SIZE)
        assert np.abs(colrow - HALF_PIXEL - pinhole.project(places)).max() < 1e-3


def test_every_view_has_its_turn_once_a_lap(folder, on_model):
    views, names = SyntheticViews.of(folder, on_model, LOOK, weighted=True), folder.names
    order = []
    for turn in range(10 * len(names)):
        camera, batch = views.at(turn)
        (index,) = (i for i, known in enumerate(views.cameras) if known is camera)
        assert torch.equal(batch["image"], folder.refined(names[index])) and batch["camera"] is camera
        assert image_of(camera) == LOOK and batch["held_out"] is False
        order.append(index)
    laps = [tuple(order[i : i + len(names)]) for i in range(0, len(order), len(names))]
    assert all(Counter(lap) == Counter(range(len(names))) for lap in laps)
    assert len(set(laps)) > 5  # in other orders
    again = SyntheticViews.of(EpisodeFolder.open(folder.path), on_model, LOOK, weighted=True)
    assert all(torch.equal(again.at(turn)[1]["image"], views.at(turn)[1]["image"]) for turn in range(9))


def test_masks_are_weights_or_what_is_not_void(folder, on_model):
    weighted = SyntheticViews.of(folder, on_model, LOOK, weighted=True)
    plain = SyntheticViews.of(folder, on_model, LOOK, weighted=False)
    for turn in range(len(folder.names)):
        camera, batch = weighted.at(turn)
        (name,) = (n for n, known in zip(folder.names, weighted.cameras, strict=True) if known is camera)
        assert batch["mask"].shape == (SIZE, SIZE, 1)
        assert torch.equal(batch["mask"][..., 0], folder.weight(name)) and batch["mask"].std() > 0.1
        assert torch.equal(plain.at(turn)[1]["mask"][..., 0], folder.valid(name).float())
    assert plain.at(0)[1]["mask"][:, 0].max() == 0 and plain.at(0)[1]["mask"][:, 1:].min() == 1


def test_what_is_missing_is_named(folder, on_model):
    folder.file("weight", "003").unlink()
    SyntheticViews.of(folder, on_model, LOOK, weighted=False)
    with pytest.raises(TrainingError, match=r"weight/003\.png is missing\. Refine the episode again"):
        SyntheticViews.of(folder, on_model, LOOK, weighted=True)
