"""Lines of sight against a cost volume with one true surface and one false tower."""

import numpy as np
import pytest

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.ray_consistency import distances_along_rays_m

LEVELS = np.arange(0.0, 20.0, 0.5)
CELL_M = 0.5


def camera(azimuth_deg: float, incidence_deg: float) -> AffineCamera:
    """North up, a pixel per cell, looking from an azimuth (clockwise from north) off the vertical."""
    azimuth, tangent = np.deg2rad(azimuth_deg), np.tan(np.deg2rad(incidence_deg))
    linear = np.array([[1.0, 0.0, -np.sin(azimuth) * tangent], [0.0, -1.0, np.cos(azimuth) * tangent]]) / CELL_M
    return AffineCamera(np.column_stack([linear, [50.0, 50.0]]), None, (100, 100))


@pytest.fixture
def volume():
    """Flat ground at 2 m is best everywhere (cost 100); one cell's own best is a tower of 15 m (cost 300 there, and
    400 at the ground)."""
    total = np.full((40, 60, len(LEVELS)), 900, np.uint16)
    total[:, :, 4] = 100
    total[20, 30, 4], total[20, 30, 30] = 400, 300
    return total


def test_lines_of_sight_confirm_the_ground_and_see_through_a_false_tower(volume):
    index = volume.argmin(2)
    assert LEVELS[index[20, 30]] == 15.0
    flat = np.zeros(index.shape, np.float32)
    east, west = distances_along_rays_m(volume, LEVELS, flat, index, [camera(90, 20), camera(270, 20)], CELL_M)
    ground = np.ones(index.shape, bool)
    ground[20, 30] = False
    for apart in (east, west):
        assert np.abs(apart[ground]).max() == 0.0
        assert apart[20, 30] == -13.0  # the ground behind it matches better


def test_a_true_tower_hides_the_ground_behind_it(volume):
    volume[20, 30, 30] = 50
    index = volume.argmin(2)
    flat = np.zeros(index.shape, np.float32)
    apart = distances_along_rays_m(volume, LEVELS, flat, index, [camera(90, 20)], CELL_M)[0]
    assert apart[20, 30] == 0.0
    behind = 30 - 13.0 * np.tan(np.deg2rad(20)) / CELL_M  # column 20.5: the satellite stands in the east
    hidden = np.flatnonzero(apart[20] == 13.0)
    assert len(hidden) == 1 and abs(hidden[0] - behind) < 1.0


def test_distances_do_not_depend_on_the_base(volume):
    """The same heights above a base that is 3 m lower."""
    index = volume.argmin(2)
    views = [camera(40, 15)]
    flat = np.zeros(index.shape, np.float32)
    expected = distances_along_rays_m(volume, LEVELS, flat, index, views, CELL_M)
    lowered = distances_along_rays_m(volume, LEVELS + 3.0, flat - 3.0, index, views, CELL_M)
    np.testing.assert_allclose(lowered, expected, atol=1e-5)
