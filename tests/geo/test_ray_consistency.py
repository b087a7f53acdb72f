"""Lines of sight against a cost volume with one true surface and one false tower."""

import numpy as np
import pytest

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.ray_consistency import distances_along_rays_m

LEVELS = np.arange(0.0, 20.0, 0.5)
CELL_M = 0.5


def make_camera(azimuth_deg: float, incidence_deg: float) -> AffineCamera:
    """A camera at an azimuth (clockwise from north) and incidence angle; north up, one pixel per cell."""
    azimuth, tangent = np.deg2rad(azimuth_deg), np.tan(np.deg2rad(incidence_deg))
    linear = np.array([[1.0, 0.0, -np.sin(azimuth) * tangent], [0.0, -1.0, np.cos(azimuth) * tangent]]) / CELL_M
    return AffineCamera(np.column_stack([linear, [50.0, 50.0]]), None, (100, 100))


@pytest.fixture
def aggregated_cost():
    """Costs with their minimum (100) at flat ground of 2 m, but at a tower of 15 m in one cell (300; 400 at the
    ground)."""
    cost = np.full((40, 60, len(LEVELS)), 900, np.uint16)
    cost[:, :, 4] = 100
    cost[20, 30, 4], cost[20, 30, 30] = 400, 300
    return cost


def test_lines_of_sight_confirm_the_ground_and_contradict_a_false_tower(aggregated_cost):
    index = aggregated_cost.argmin(2)
    assert LEVELS[index[20, 30]] == 15.0
    base_m = np.zeros(index.shape, np.float32)
    east, west = distances_along_rays_m(
        aggregated_cost, LEVELS, base_m, index, [make_camera(90, 20), make_camera(270, 20)], CELL_M
    )
    ground = np.ones(index.shape, bool)
    ground[20, 30] = False
    for distance_m in (east, west):
        assert np.abs(distance_m[ground]).max() == 0.0
        assert distance_m[20, 30] == -13.0  # the ground behind it matches better


def test_a_true_tower_occludes_the_ground_behind_it(aggregated_cost):
    aggregated_cost[20, 30, 30] = 50
    index = aggregated_cost.argmin(2)
    base_m = np.zeros(index.shape, np.float32)
    distance_m = distances_along_rays_m(aggregated_cost, LEVELS, base_m, index, [make_camera(90, 20)], CELL_M)[0]
    assert distance_m[20, 30] == 0.0
    behind = 30 - 13.0 * np.tan(np.deg2rad(20)) / CELL_M  # column 20.5: the satellite stands in the east
    hidden = np.flatnonzero(distance_m[20] == 13.0)
    assert len(hidden) == 1 and abs(hidden[0] - behind) < 1.0


def test_distances_do_not_depend_on_the_base(aggregated_cost):
    """The same heights above a base that is 3 m lower."""
    index = aggregated_cost.argmin(2)
    cameras = [make_camera(40, 15)]
    base_m = np.zeros(index.shape, np.float32)
    expected = distances_along_rays_m(aggregated_cost, LEVELS, base_m, index, cameras, CELL_M)
    lowered = distances_along_rays_m(aggregated_cost, LEVELS + 3.0, base_m - 3.0, index, cameras, CELL_M)
    np.testing.assert_allclose(lowered, expected, atol=1e-5)
