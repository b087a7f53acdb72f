"""Height maps: medians of subcells, upright walls, and the height target of training."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from skyfall_ns.geo.grid import Grid
from skyfall_ns.models.appearance.lighting import normals_from_quats
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.geometry.height_map import (
    FIRST_CENTER,
    FULL_WEIGHT_SIGMA_M,
    SUBCELLS,
    HeightTarget,
    rotate_upright,
    straighten_walls,
    window_cells,
    window_medians,
)
from skyfall_ns.models.rasterizers import Gaussians
from skyfall_ns.scene.height_grid import SurfaceLayers

OPTIONS = SkyfallModelOptions()


@pytest.mark.parametrize("window", [1, 3, 5, 9])
def test_a_height_is_the_median_around_the_center_of_its_cell(window):
    rng = np.random.default_rng(window)
    subcells = rng.normal(size=(SUBCELLS * 7, SUBCELLS * 6)).astype(np.float32)
    subcells[rng.random(subcells.shape) < 0.3] = np.nan
    subcells[FIRST_CENTER:-SUBCELLS:SUBCELLS, FIRST_CENTER:-SUBCELLS:SUBCELLS] = 0.5  # so that no window is empty
    heights = window_medians(torch.from_numpy(subcells), window).numpy()
    assert heights.shape == (5, 4)
    reach = window // 2
    for (row, column), value in np.ndenumerate(heights):
        y, x = SUBCELLS * (row + 1) + SUBCELLS // 2, SUBCELLS * (column + 1) + SUBCELLS // 2
        values = subcells[y - reach : y + reach + 1, x - reach : x + reach + 1]
        values = np.sort(values[np.isfinite(values)])
        assert value == values[(len(values) - 1) // 2]


def test_medians_remove_noise_and_keep_walls_in_place():
    """The window is as wide on both sides of a step."""
    subcells = torch.zeros(SUBCELLS * 12, SUBCELLS * 12)
    subcells[:, SUBCELLS * 5 :] = 10.0
    noisy = subcells + 0.1 * torch.randn(subcells.shape, generator=torch.Generator().manual_seed(0))
    heights = window_medians(noisy, window_cells(0.5 / SUBCELLS))
    assert (heights[:, :4] < 1).all() and (heights[:, 4:] > 9).all()
    assert heights[:, :3].std() < 0.02 and heights[:, 5:].std() < 0.02


def test_a_window_is_three_cells_and_at_most_a_meter_and_a_half():
    assert [window_cells(cell / SUBCELLS) for cell in (0.25, 0.3, 0.5, 0.75, 1.0, 2.0, 10.0)] == [9, 9, 9, 5, 3, 1, 1]
    assert all(window_cells(cell / SUBCELLS) % 2 for cell in np.linspace(0.1, 3, 60))


def leaning_discs(slopes_deg, azimuth_deg):
    """Discs whose normals lean by these angles from the vertical, toward an azimuth; quaternions of length 3."""
    slopes, azimuth = torch.tensor(slopes_deg).deg2rad(), torch.tensor(azimuth_deg).deg2rad()
    half, n = slopes / 2, len(slopes_deg)
    quats = torch.stack([half.cos(), -half.sin() * azimuth.sin(), half.sin() * azimuth.cos(), torch.zeros(n)], 1)
    scales = torch.tensor([[0.3, 1.0, 0.05]]).expand(n, 3)
    return Gaussians(torch.arange(3.0 * n).reshape(n, 3), 3 * quats, scales, torch.arange(float(n)))


@pytest.mark.parametrize("azimuth", [0.0, 40.0, 137.0, -100.0])
def test_walls_are_rotated_upright_or_removed(azimuth):
    gaussians = leaning_discs([0.0, 45.0, 66.0, 67.0, 83.0, 85.0, 90.0, 95.0, 97.0, 113.0, 114.0, 180.0], azimuth)
    straightened = straighten_walls(gaussians)
    assert straightened.opacities.tolist() == [0, 1, 2, 3, 4, 8, 9, 10, 11]
    assert (straightened.means == gaussians.means[straightened.opacities.long()]).all()
    before, after = (
        normals_from_quats(gaussians.quats)[straightened.opacities.long()],
        normals_from_quats(straightened.quats),
    )
    unchanged = [0, 1, 2, 7, 8]
    assert (straightened.quats[unchanged] == gaussians.quats[straightened.opacities.long()][unchanged]).all()
    rotated = [3, 4, 5, 6]
    expected = before[rotated] * torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(after[rotated], expected / expected.norm(dim=1, keepdim=True))
    assert gaussians.quats[3].norm() == pytest.approx(3)  # the input is unchanged


def test_rotation_upright_is_the_smallest_rotation():
    """Rotated about the horizontal axis in the wall, which stays where it is."""
    gaussians = leaning_discs([70.0, 80.0, 100.0], 25.0)
    normals = normals_from_quats(gaussians.quats)
    before = Rotation.from_quat(gaussians.quats.numpy()[:, [1, 2, 3, 0]])
    after = Rotation.from_quat(rotate_upright(gaussians.quats, normals).numpy()[:, [1, 2, 3, 0]])
    angles = (after * before.inv()).magnitude()
    np.testing.assert_allclose(np.degrees(angles), [20.0, 10.0, 10.0], atol=1e-4)
    horizontal = np.stack([-normals[:, 1], normals[:, 0], np.zeros(3)], 1)
    np.testing.assert_allclose((after * before.inv()).apply(horizontal), horizontal, atol=1e-6)


def height_target(height_m, source, sigma_m, num_views):
    """The height target of a surface with this number of views."""
    layers = (np.asarray(height_m, np.float32), np.ones(np.shape(height_m), np.float32))
    grid = Grid(-4.0, 4.0, 1.0, *layers[0].shape[::-1])
    surface = SurfaceLayers(*layers, np.asarray(source, np.uint8), np.asarray(sigma_m, np.float32), grid)
    normalized = SimpleNamespace(surface=surface, scale=0.01, center_m=(0.0, 0.0, 0.0), image_names=("a",) * num_views)
    return HeightTarget.from_scene(normalized, torch.device("cpu"), OPTIONS)


@pytest.mark.parametrize("num_views", [2, OPTIONS.dense_view_threshold])
def test_the_weight_of_heights_follows_their_sigma_and_coverage_does_not(num_views):
    height, source, sigma = np.full((8, 8), 3.0), np.ones((8, 8)), np.full((8, 8), FULL_WEIGHT_SIGMA_M)
    sigma[1], sigma[2], sigma[3] = 0.1, 2 * FULL_WEIGHT_SIGMA_M, 10 * FULL_WEIGHT_SIGMA_M
    source[3] = 2  # filled
    height[0, 0], source[0, 0], sigma[0, 0] = np.nan, 0, np.nan
    target = height_target(height, source, sigma, num_views)
    expected = np.array([1.0, 1.0, 0.25, 0.01, 1.0])
    np.testing.assert_allclose(target.weight[:5, 1:], np.tile(expected[:, None], 7), rtol=1e-5)
    assert target.weight[0, 0] == target.coverage_mask[0, 0] == 0 and torch.isfinite(target.surface_m).all()
    assert (target.coverage_mask.flatten()[1:] == 1).all()  # filled cells should be opaque at any height
    assert target.weight_scale == (1.0 if num_views >= OPTIONS.dense_view_threshold else OPTIONS.sparse_view_scale)


def test_near_walls_the_surface_acts_with_few_views_only():
    height = np.tile(np.where(np.arange(8) < 4, 0.0, 10.0), (8, 1))
    layers = height, np.ones((8, 8)), np.full((8, 8), 0.1)
    dense, sparse = height_target(*layers, OPTIONS.dense_view_threshold), height_target(*layers, 2)
    assert (dense.weight[:, 2:6] == 0).all() and (dense.coverage_mask[:, 2:6] == 0).all()
    assert (dense.weight[:, [0, 7]] == 1).all() and (sparse.weight == 1).all() and (sparse.coverage_mask == 1).all()
