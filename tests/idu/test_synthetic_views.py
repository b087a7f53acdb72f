"""Refined images as training data: exact cameras, every view once per cycle, and masks from weights."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch

from skyfall_ns.dataparsers.camera_metadata import training_index, view_from_camera
from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.camera_placement import place_cameras
from skyfall_ns.idu.curriculum import Curriculum
from skyfall_ns.idu.episode_store import EpisodeStore
from skyfall_ns.idu.synthetic_views import SyntheticViews, nerfstudio_camera
from skyfall_ns.method_configs import skyfall
from skyfall_ns.scene.model_space import HALF_PIXEL

SIZE_PX, APPEARANCE_IMAGE = 32, 2


@pytest.fixture(scope="module")
def normalized(city_scene):
    parser = copy.deepcopy(skyfall.config.pipeline.datamanager.dataparser)
    parser.data = city_scene
    return parser.setup().get_dataparser_outputs().metadata["normalized_scene"]


@pytest.fixture
def store(normalized, tmp_path):
    """A complete episode of random images; the first column of each is empty."""
    curriculum = Curriculum(grid=1, azimuths=7, size_px=SIZE_PX)
    episode = curriculum.plan_episodes(normalized.scene.box_m)[1]
    poses, _ = place_cameras(curriculum, episode, normalized.scene.box_m, lambda x, y: 0.0, lambda eye, target: None)
    complete = EpisodeStore.create(tmp_path, episode, poses, SIZE_PX, {"run": 1}, 500.0)
    generator = torch.Generator().manual_seed(0)
    for name in complete.view_names:
        alpha, depth_m = torch.ones(SIZE_PX, SIZE_PX), torch.full((SIZE_PX, SIZE_PX), 100.0)
        alpha[:, 0] = 0
        complete.write_render(name, torch.rand(SIZE_PX, SIZE_PX, 3, generator=generator), alpha, depth_m)
        complete.write_refined(name, torch.rand(SIZE_PX, SIZE_PX, 3, generator=generator))
        complete.write_weight(name, torch.rand(SIZE_PX, SIZE_PX, generator=generator))
    return complete


def test_training_cameras_project_like_the_cameras_of_the_episode(store, normalized):
    """To a thousandth of a pixel, despite float32 poses in Nerfstudio and the half pixel of the rasterizer."""
    low, high = normalized.scene.box_m
    points_m = np.random.default_rng(0).uniform(low, high, (200, 3))
    points = (points_m - np.array(normalized.center_m)) * normalized.scale
    for name in store.view_names:
        camera = store.view_camera(name)
        view = view_from_camera(nerfstudio_camera(camera, normalized, APPEARANCE_IMAGE))
        transformed = points @ view.camera_from_model[:3, :3].numpy().T + view.camera_from_model[:3, 3].numpy()
        colrow = (transformed / transformed[:, 2:]) @ view.intrinsics[:2].numpy().T
        assert (transformed[:, 2] > 0).all() and (view.width, view.height) == (SIZE_PX, SIZE_PX)
        assert np.abs(colrow - HALF_PIXEL - camera.project(points_m)).max() < 1e-3


def test_every_view_is_drawn_once_per_cycle(store, normalized):
    views, names = SyntheticViews.from_store(store, normalized, APPEARANCE_IMAGE, weighted=True), store.view_names
    order = []
    for draw_index in range(10 * len(names)):
        camera, batch = views.draw_view(draw_index)
        (index,) = (i for i, known in enumerate(views.cameras) if known is camera)
        assert torch.equal(batch["image"], store.read_refined(names[index])) and batch["camera"] is camera
        assert training_index(camera) == APPEARANCE_IMAGE and batch["held_out"] is False
        order.append(index)
    cycles = [tuple(order[i : i + len(names)]) for i in range(0, len(order), len(names))]
    assert all(Counter(cycle) == Counter(range(len(names))) for cycle in cycles)
    assert len(set(cycles)) > 5  # in different orders
    again = SyntheticViews.from_store(EpisodeStore.open(store.path), normalized, APPEARANCE_IMAGE, weighted=True)
    for draw_index in range(9):
        assert torch.equal(again.draw_view(draw_index)[1]["image"], views.draw_view(draw_index)[1]["image"])


def test_masks_are_weights_or_valid_pixels(store, normalized):
    weighted = SyntheticViews.from_store(store, normalized, APPEARANCE_IMAGE, weighted=True)
    unweighted = SyntheticViews.from_store(store, normalized, APPEARANCE_IMAGE, weighted=False)
    for draw_index in range(len(store.view_names)):
        camera, batch = weighted.draw_view(draw_index)
        (name,) = (n for n, known in zip(store.view_names, weighted.cameras, strict=True) if known is camera)
        assert batch["mask"].shape == (SIZE_PX, SIZE_PX, 1)
        assert torch.equal(batch["mask"][..., 0], store.read_weight(name)) and batch["mask"].std() > 0.1
        mask = unweighted.draw_view(draw_index)[1]["mask"]
        assert torch.equal(mask[..., 0], store.valid_mask(name).float())
    mask = unweighted.draw_view(0)[1]["mask"]
    assert mask[:, 0].max() == 0 and mask[:, 1:].min() == 1


def test_missing_weights_are_reported(store, normalized):
    store.image_path("weight", "003").unlink()
    SyntheticViews.from_store(store, normalized, APPEARANCE_IMAGE, weighted=False)
    with pytest.raises(TrainingError, match=r"weight/003\.png is missing\. Refine the episode again"):
        SyntheticViews.from_store(store, normalized, APPEARANCE_IMAGE, weighted=True)
