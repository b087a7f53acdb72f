"""Noise anchored in 3D: white in each view, shared where two views see the same surface, independent elsewhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.views import make_view

from skyfall_ns.refiners.view_noise import anchored_noise, find_voxels, seeded_noise, unproject_pixels

SIZE, GRID = (1024, 1024), (128, 128)
SHAPE = (2, 16, *GRID)


@pytest.fixture(scope="module")
def pair():
    """Two views of the same ground, a sixth of an orbit apart."""
    views = [make_view(seed, *SIZE, azimuth_deg=60.0 * seed) for seed in range(2)]
    return views, anchored_noise(views, SIZE, 5)(18, 0, SHAPE)


def test_anchored_noise_is_white(pair):
    _, field = pair
    assert field.mean().item() == pytest.approx(0, abs=0.006)
    assert field.std().item() == pytest.approx(1, abs=0.006)
    for a, b in ((field[..., 1:], field[..., :-1]), (field[:, :, 1:], field[:, :, :-1]), (field[:, 1:], field[:, :-1])):
        assert torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].abs().item() < 0.006
    tails = [(field.abs() > z).float().mean().item() for z in (1, 2, 3)]
    assert tails == pytest.approx([0.3173, 0.0455, 0.0027], rel=0.08)


def test_two_views_share_noise_where_they_see_the_same_surface(pair):
    views, field = pair
    owned = [find_voxels(view, GRID, SIZE) for view in views]
    places = [{tuple(key): pixel for pixel, key in zip(*own, strict=True)} for own in owned]
    shared = places[0].keys() & places[1].keys()
    assert len(shared) > 0.2 * GRID[0] * GRID[1]
    first, second = (torch.tensor([place[key] for key in shared]) for place in places)
    assert torch.equal(field[0].flatten(1)[:, first], field[1].flatten(1)[:, second])


def test_one_pixel_per_voxel_is_anchored(pair):
    views, field = pair
    own = seeded_noise([0, 1])(18, 0, SHAPE)
    pixels, keys = find_voxels(views[0], GRID, SIZE)
    assert len(np.unique(keys, axis=0)) == len(keys) == len(np.unique(pixels))
    anchored = np.zeros(GRID[0] * GRID[1], bool)
    anchored[pixels] = True
    same = (field[0] == own[0]).flatten(1).all(0).numpy()
    assert np.array_equal(same, ~anchored)


def test_noise_differs_by_step_draw_and_episode_but_not_by_batch(pair):
    views, field = pair
    draw = lambda seed, *at: anchored_noise(views[:1], SIZE, seed)(*at, (1, *SHAPE[1:]))  # noqa: E731
    assert torch.equal(draw(5, 18, 0), field[:1])
    for other in (draw(6, 18, 0), draw(5, 19, 0), draw(5, 18, 1)):
        assert torch.corrcoef(torch.stack([other.flatten(), field[0].flatten()]))[0, 1].abs() < 0.5
        pixels, _ = find_voxels(views[0], GRID, SIZE)
        assert not (other[0].flatten(1)[:, pixels] == field[0].flatten(1)[:, pixels]).any()


def test_empty_pixels_and_padding_are_not_anchored():
    view = make_view(3, 60, 50)
    padded, grid = (64, 64), (8, 8)
    empty = replace(view, valid=torch.zeros_like(view.valid))
    assert len(find_voxels(empty, grid, padded)[0]) == 0
    pixels, _ = find_voxels(view, grid, padded)
    rows, cols = np.divmod(pixels, 8)
    assert (cols * 8 + 4 < 50).all() and (rows * 8 + 4 < 60).all() and len(pixels) > 10


def test_unprojection_inverts_projection():
    camera = make_view(0, 64, 48).camera
    xyz_m = np.random.default_rng(0).uniform(-40, 40, (20, 3))
    depth = xyz_m @ camera.camera_from_local[2, :3] + camera.camera_from_local[2, 3]
    assert np.allclose(unproject_pixels(camera, camera.project(xyz_m), depth), xyz_m, atol=1e-9)
