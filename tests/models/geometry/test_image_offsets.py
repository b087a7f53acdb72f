"""Learned image offsets: exact in pixels, without translations of the scene, with gradients, and recovered."""

import copy

import numpy as np
import pytest
import torch

from skyfall_ns.dataparsers.camera_metadata import ROWS_KEY
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.geometry.image_offsets import ImageOffset, apply_image_offset, named_offsets_px
from skyfall_ns.view import apply_quadratic_term, parallel_view


def oblique_view():
    rows = torch.tensor([[190.0, 10.0, 60.0, 25.0], [5.0, -195.0, -30.0, 26.0], [0.3, 0.1, -0.95, 20.0]])
    return parallel_view(rows, 0.3 * torch.rand(2, 6, generator=torch.Generator().manual_seed(0)), 50, 52)


def camera_coordinates(means, view):
    return means @ view.camera_from_model[:3, :3].T


def test_offsets_are_in_pixels_and_keep_the_depth_order():
    view, offset = oblique_view(), torch.tensor([0.7, -0.4], dtype=torch.float64)
    means = apply_quadratic_term(torch.rand(20, 3, dtype=torch.float64), view)
    moved = apply_image_offset(means, view, offset)
    torch.testing.assert_close(
        (camera_coordinates(moved, view) - camera_coordinates(means, view))[:, :2], offset.expand(20, 2)
    )
    line_of_sight = torch.linalg.cross(view.camera_from_model[0, :3], view.camera_from_model[1, :3])
    torch.testing.assert_close((moved - means) @ line_of_sight, torch.zeros(20, dtype=torch.float64), atol=1e-9, rtol=0)


def test_offsets_have_gradients():
    view, means = oblique_view(), torch.rand(5, 3, dtype=torch.float64)
    offset = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: apply_image_offset(means, view, s), (offset,))


def random_views(count: int):
    g = torch.Generator().manual_seed(1)
    rows = oblique_view().camera_from_model[:3].repeat(count, 1, 1)
    rows[:, :2, :3] += 20 * torch.randn(count, 2, 3, generator=g, dtype=torch.float64)
    return [parallel_view(row, None, 50, 52) for row in rows]


def test_translations_of_the_scene_are_removed():
    cameras = random_views(4)
    offsets, translation = ImageOffset(cameras), torch.tensor([0.01, -0.02, 0.05], dtype=torch.float64)
    displacement = torch.stack([v.camera_from_model[:2, :3] @ translation for v in cameras]).float()
    with torch.no_grad():
        offsets.raw_offsets_px[:] = displacement
    assert displacement.abs().max() > 1 and offsets.offsets_px().abs().max() < 1e-4
    with torch.no_grad():
        offsets.raw_offsets_px[:] = torch.arange(8.0).reshape(4, 2)
    projected = offsets.offsets_px().detach().clone()
    with torch.no_grad():
        offsets.raw_offsets_px[:] = projected
    torch.testing.assert_close(offsets.offsets_px(), projected)  # and the rest is kept
    assert torch.linalg.matrix_rank(offsets._projector, atol=1e-4) == 2 * 4 - 3
    assert torch.equal(offsets(3), offsets.offsets_px()[3])
    assert offsets.prior_loss().item() == pytest.approx(projected.square().sum().item() / 4)


def test_one_image_has_no_offset_and_two_have_one_degree_of_freedom():
    assert ImageOffset(random_views(1))._projector.abs().max() < 1e-6
    assert torch.linalg.matrix_rank(ImageOffset(random_views(2))._projector, atol=1e-4) == 1


@pytest.fixture
def pipeline(city_scene):
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data, config.model.image_offsets = city_scene, True
    torch.manual_seed(0)
    return config.setup(device="cpu")


def train_offsets(pipeline, steps: int) -> np.ndarray:
    """Learned offsets after some steps, pixels."""
    model = pipeline.model.train()
    groups = model.get_param_groups()
    assert set(groups) <= set(skyfall.config.optimizers)
    rates = {name: table["optimizer"].lr for name, table in skyfall.config.optimizers.items()} | {"image_offsets": 1e-2}
    optimizers = {name: torch.optim.Adam(group, lr=rates[name], eps=1e-15) for name, group in groups.items()}
    model.optimizers = optimizers
    for number in range(steps):
        model.step = number
        camera, batch = pipeline.datamanager.next_train(number)
        for optimizer in optimizers.values():
            optimizer.zero_grad(set_to_none=True)
        sum(model.get_loss_dict(model.get_outputs(camera), batch).values()).backward()
        for optimizer in optimizers.values():
            optimizer.step()
        model.step_post_backward(number)
    names = model.normalized.image_names
    offsets = named_offsets_px(model.image_offsets, names)
    return np.array([offsets[name] for name in names])


@pytest.mark.slow
def test_the_bias_of_a_camera_is_recovered(pipeline):
    """One of four cameras projects half a pixel too far east; the offset of its image compensates most of it."""
    cameras = pipeline.datamanager.train_dataset.cameras
    cameras.metadata[ROWS_KEY][0, 3] += 0.5
    offsets = pipeline.model.image_offsets
    with torch.no_grad():
        offsets.raw_offsets_px[0, 0] = -0.5
        expected = offsets.offsets_px().numpy().copy()
        offsets.raw_offsets_px.zero_()
    learned = train_offsets(pipeline, 150)
    fraction = (learned * expected).sum() / np.square(expected).sum()
    assert 0.8 < fraction < 1.1
    assert np.abs(learned - fraction * expected).max() < 0.1  # and the other offsets stay
