"""How a cell's height is read from finer ones."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from skyfall_ns.models.heights import FINER, MIDDLE, medians, upright, window, with_upright_walls
from skyfall_ns.models.light import normals_of
from skyfall_ns.models.rasterizers import Gaussians


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
