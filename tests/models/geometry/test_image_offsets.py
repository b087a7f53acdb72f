"""Learned shifts: exact in pixels, no common part, gradients through means, and a wrong camera that is found out."""

import copy

import numpy as np
import pytest
import torch

from skyfall_ns.dataparsers.camera_metadata import ROWS_KEY
from skyfall_ns.method_configs import skyfall
from skyfall_ns.models.geometry.image_offsets import ImageShift, shifted
from skyfall_ns.models.geometry.view import bend, parallel_view


def oblique_view():
    rows = torch.tensor([[190.0, 10.0, 60.0, 25.0], [5.0, -195.0, -30.0, 26.0], [0.3, 0.1, -0.95, 20.0]])
    return parallel_view(rows, 0.3 * torch.rand(2, 6, generator=torch.Generator().manual_seed(0)), 50, 52)


def seen(means, view):
    return means @ view.camera_from_model[:3, :3].T


def test_shifts_are_pixels_and_do_not_change_what_lies_behind_what():
    view, shift = oblique_view(), torch.tensor([0.7, -0.4], dtype=torch.float64)
    means = bend(torch.rand(20, 3, dtype=torch.float64), view)
    moved = shifted(means, view, shift)
    torch.testing.assert_close((seen(moved, view) - seen(means, view))[:, :2], shift.expand(20, 2))
    sight = torch.linalg.cross(view.camera_from_model[0, :3], view.camera_from_model[1, :3])
    torch.testing.assert_close((moved - means) @ sight, torch.zeros(20, dtype=torch.float64), atol=1e-9, rtol=0)


def test_gradients_reach_the_shift():
    view, means = oblique_view(), torch.rand(5, 3, dtype=torch.float64)
    shift = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: shifted(means, view, s), (shift,))


def views(number: int):
    g = torch.Generator().manual_seed(1)
    rows = oblique_view().camera_from_model[:3].repeat(number, 1, 1)
    rows[:, :2, :3] += 20 * torch.randn(number, 2, 3, generator=g, dtype=torch.float64)
    return [parallel_view(row, None, 50, 52) for row in rows]


def test_nothing_is_left_of_a_translation_of_the_scene():
    cameras = views(4)
    shift, move = ImageShift(cameras), torch.tensor([0.01, -0.02, 0.05], dtype=torch.float64)
    apparent = torch.stack([v.camera_from_model[:2, :3] @ move for v in cameras]).float()
    with torch.no_grad():
        shift.pixels[:] = apparent
    assert apparent.abs().max() > 1 and shift.all().abs().max() < 1e-4
    with torch.no_grad():
        shift.pixels[:] = torch.arange(8.0).reshape(4, 2)
    once = shift.all().detach().clone()
    with torch.no_grad():
        shift.pixels[:] = once
    torch.testing.assert_close(shift.all(), once)  # and all else is kept
    assert torch.linalg.matrix_rank(shift._free, atol=1e-4) == 2 * 4 - 3
    assert torch.equal(shift(3), shift.all()[3])
    assert shift.prior().item() == pytest.approx(once.square().sum().item() / 4)


def test_one_image_has_no_shift_and_two_have_one_number():
    assert ImageShift(views(1))._free.abs().max() < 1e-6
    assert torch.linalg.matrix_rank(ImageShift(views(2))._free, atol=1e-4) == 1


@pytest.fixture
def pipeline(city_scene):
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data, config.model.pose_shift = city_scene, True
    torch.manual_seed(0)
    return config.setup(device="cpu")


def train(pipeline, steps: int) -> np.ndarray:
    """Shifts after some steps, pixels; splats move at their own rates."""
    model = pipeline.model.train()
    groups = model.get_param_groups()
    assert set(groups) <= set(skyfall.config.optimizers)
    rates = {name: table["optimizer"].lr for name, table in skyfall.config.optimizers.items()} | {"shift": 1e-2}
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
    return np.array([model.learned_shifts_px()[name] for name in model.on_model.image_names])


def test_a_wrong_camera_is_found_out(pipeline):
    """One of four cameras answers half a pixel too far east; its image's shift takes most of it back."""
    cameras = pipeline.datamanager.train_dataset.cameras
    cameras.metadata[ROWS_KEY][0, 3] += 0.5
    wanted = pipeline.model.shift
    with torch.no_grad():
        wanted.pixels[0, 0] = -0.5
        expected = wanted.all().numpy().copy()
        wanted.pixels.zero_()
    shifts = train(pipeline, 150)
    share = (shifts * expected).sum() / np.square(expected).sum()
    assert 0.8 < share < 1.1
    assert np.abs(shifts - share * expected).max() < 0.1  # and nothing else moves
