"""How a cell's height is read from finer ones."""

import numpy as np
import pytest
import torch

from skyfall_ns.models.heights import FINER, LEAST_UP, MIDDLE, lying, medians, window
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


@pytest.mark.parametrize("turn", [0.0, 40.0, 137.0])
def test_heights_are_read_from_splats_that_do_not_stand(turn):
    """Slopes of discs in any direction, their quaternions of any length."""
    slopes = torch.tensor([0.0, 45.0, 78.0, 79.0, 90.0, 101.0, 102.0, 180.0]).deg2rad()
    half, about = slopes / 2, torch.tensor(turn).deg2rad()
    quats = 3 * torch.stack([half.cos(), half.sin() * about.cos(), half.sin() * about.sin(), torch.zeros(8)], 1)
    splats = Gaussians(torch.arange(24.0).reshape(8, 3), quats, torch.rand(8, 3), torch.arange(8.0))
    assert lying(splats).opacities.tolist() == [0, 1, 2, 6, 7]
    assert (lying(splats).means == splats.means[[0, 1, 2, 6, 7]]).all()
    assert np.degrees(np.arccos(LEAST_UP)) == pytest.approx(78.46, abs=0.01)
