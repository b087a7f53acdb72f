"""How a cell's height is read from finer ones."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from skyfall_ns.models.appearance.lighting import normals_of
from skyfall_ns.models.geometry.height_map import (
    FEW_PULL,
    FINER,
    HELD_SIGMA_M,
    MANY_VIEWS,
    MIDDLE,
    HeightTarget,
    medians,
    upright,
    window,
    with_upright_walls,
)
from skyfall_ns.models.rasterizers import Gaussians
from skyfall_ns.scene.model_space import ModelSurface


@pytest.mark.parametrize("across", [1, 3, 5, 9])
def test_a_height_is_the_median_around_the_middle_of_its_cell(across):
    rng = np.random.default_rng(across)
    fine = rng.normal(size=(FINER * 7, FINER * 6)).astype(np.float32)
    fine[rng.random(fine.shape) < 0.3] = np.nan
    fine[MIDDLE:-FINER:FINER, MIDDLE:-FINER:FINER] = 0.5  # so that no window is empty
    got = medians(torch.from_numpy(fine), across).numpy()
    assert got.shape == (5, 4)
    reach = across // 2
    for (row, column), value in np.ndenumerate(got):
        y, x = FINER * (row + 1) + FINER // 2, FINER * (column + 1) + FINER // 2
        seen = fine[y - reach : y + reach + 1, x - reach : x + reach + 1]
        seen = np.sort(seen[np.isfinite(seen)])
        assert value == seen[(len(seen) - 1) // 2]


def test_a_wall_stays_where_it_is():
    """Noise goes, a step does not move: the window is as wide on both of its sides."""
    fine = torch.zeros(FINER * 12, FINER * 12)
    fine[:, FINER * 5 :] = 10.0
    noisy = fine + 0.1 * torch.randn(fine.shape, generator=torch.Generator().manual_seed(0))
    got = medians(noisy, window(0.5 / FINER))
    assert (got[:, :4] < 1).all() and (got[:, 4:] > 9).all()
    assert got[:, :3].std() < 0.02 and got[:, 5:].std() < 0.02


def test_a_window_is_three_cells_and_never_wider_than_a_metre_and_a_half():
    assert [window(cell / FINER) for cell in (0.25, 0.3, 0.5, 0.75, 1.0, 2.0, 10.0)] == [9, 9, 9, 5, 3, 1, 1]
    assert all(window(cell / FINER) % 2 for cell in np.linspace(0.1, 3, 60))


def discs(slopes_deg, turn_deg):
    """Splats whose third axis leans by these angles from the vertical, towards a direction; quaternions of length 3."""
    slopes, about = torch.tensor(slopes_deg).deg2rad(), torch.tensor(turn_deg).deg2rad()
    half, n = slopes / 2, len(slopes_deg)
    lean = torch.stack([half.cos(), -half.sin() * about.sin(), half.sin() * about.cos(), torch.zeros(n)], 1)
    scales = torch.tensor([[0.3, 1.0, 0.05]]).expand(n, 3)
    return Gaussians(torch.arange(3.0 * n).reshape(n, 3), 3 * lean, scales, torch.arange(float(n)))


@pytest.mark.parametrize("turn", [0.0, 40.0, 137.0, -100.0])
def test_walls_are_read_upright_or_not_at_all(turn):
    splats = discs([0.0, 45.0, 66.0, 67.0, 83.0, 85.0, 90.0, 95.0, 97.0, 113.0, 114.0, 180.0], turn)
    read = with_upright_walls(splats)
    assert read.opacities.tolist() == [0, 1, 2, 3, 4, 8, 9, 10, 11]
    assert (read.means == splats.means[read.opacities.long()]).all()
    before, after = normals_of(splats.quats)[read.opacities.long()], normals_of(read.quats)
    stays = [0, 1, 2, 7, 8]
    assert (read.quats[stays] == splats.quats[read.opacities.long()][stays]).all()
    turned = [3, 4, 5, 6]
    expected = before[turned] * torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(after[turned], expected / expected.norm(dim=1, keepdim=True))
    assert splats.quats[3].norm() == pytest.approx(3)  # the scene's own splats are as they were


def test_turning_upright_is_the_shortest_turn():
    """Turned by the lean alone: what lies level in a wall stays where it is."""
    splats = discs([70.0, 80.0, 100.0], 25.0)
    normals = normals_of(splats.quats)
    before = Rotation.from_quat(splats.quats.numpy()[:, [1, 2, 3, 0]])
    after = Rotation.from_quat(upright(splats.quats, normals).numpy()[:, [1, 2, 3, 0]])
    turns = (after * before.inv()).magnitude()
    np.testing.assert_allclose(np.degrees(turns), [20.0, 10.0, 10.0], atol=1e-4)
    level = np.stack([-normals[:, 1], normals[:, 0], np.zeros(3)], 1)
    np.testing.assert_allclose((after * before.inv()).apply(level), level, atol=1e-6)


def target(height_m, source, sigma_m, views):
    """The height target of a surface seen by so many views."""
    layers = (np.asarray(height_m, np.float32), np.ones(np.shape(height_m), np.float32))
    surface = ModelSurface(*layers, np.asarray(source, np.uint8), np.asarray(sigma_m, np.float32), -4.0, 4.0, 1.0)
    on_model = SimpleNamespace(surface=surface, scale=0.01, centre_m=(0.0, 0.0, 0.0), image_names=("a",) * views)
    return HeightTarget.of(on_model, torch.device("cpu"))


@pytest.mark.parametrize("views", [2, MANY_VIEWS])
def test_the_weight_of_heights_follows_their_sigma_and_cover_does_not(views):
    height, source, sigma = np.full((8, 8), 3.0), np.ones((8, 8)), np.full((8, 8), HELD_SIGMA_M)
    sigma[1], sigma[2], sigma[3] = 0.1, 2 * HELD_SIGMA_M, 10 * HELD_SIGMA_M
    source[3] = 2  # filled
    height[0, 0], source[0, 0], sigma[0, 0] = np.nan, 0, np.nan
    got = target(height, source, sigma, views)
    expected = np.array([1.0, 1.0, 0.25, 0.01, 1.0])
    np.testing.assert_allclose(got.weight[:5, 1:], np.tile(expected[:, None], 7), rtol=1e-5)
    assert got.weight[0, 0] == got.cover[0, 0] == 0 and torch.isfinite(got.surface_m).all()
    assert (got.cover.flatten()[1:] == 1).all()  # filled cells should be closed, whatever their height is
    assert got.pull == (1.0 if views >= MANY_VIEWS else FEW_PULL)


def test_near_walls_many_views_are_held_nowhere_and_few_are():
    height = np.tile(np.where(np.arange(8) < 4, 0.0, 10.0), (8, 1))
    layers = height, np.ones((8, 8)), np.full((8, 8), 0.1)
    many, few = target(*layers, MANY_VIEWS), target(*layers, 2)
    assert (many.weight[:, 2:6] == 0).all() and (many.cover[:, 2:6] == 0).all()
    assert (many.weight[:, [0, 7]] == 1).all() and (few.weight == 1).all() and (few.cover == 1).all()
