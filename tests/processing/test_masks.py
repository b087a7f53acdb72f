"""Which pixels show the area, on a block whose every pixel is known."""

import numpy as np

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.raster import Grid
from skyfall_ns.processing.masks import shows_surface

GRID = Grid(-30.0, 30.0, 0.5, 120, 120)


def view(east: float) -> AffineCamera:
    """North up, one pixel a meter; `east` meters of ground are hidden by a meter of height."""
    return AffineCamera(np.array([[1.0, 0, -east, 60], [0, -1.0, 0, 60]]), None, (120, 120))


def block(top: float, west: float, east: float) -> np.ndarray:
    height = np.zeros((GRID.height, GRID.width), np.float32)
    x = GRID.x_m()
    height[:, (x > west) & (x < east)] = top
    return height


def columns(shown: np.ndarray) -> tuple[int, int]:
    """First and last column of the middle row, which has no gap; counted from x = 0 at the ground."""
    found = np.flatnonzero(shown[60])
    assert len(found) == found[-1] - found[0] + 1
    return found[0] - 60, found[-1] - 60


def test_flat_ground_is_shown_where_it_is():
    area = np.array([[-10.0, -20.0], [10.0, 20.0]])
    shown = shows_surface(view(0.5), GRID, block(0.0, 0, 0), area)
    assert columns(shown) == (-10, 10) and shown.sum() == 21 * 41


def test_a_tower_at_the_rim_leans_over_the_ground_beside_it():
    """Its roof is usable although the ground there lies outside."""
    area = np.array([[-10.0, -20.0], [10.0, 20.0]])
    first, last = columns(shows_surface(view(0.5), GRID, block(40.0, -10, -5), area))
    assert abs(first - (-10 - 20)) <= 1 and abs(last - 10) <= 1


def test_what_stands_outside_hides_the_area():
    """A tower east of the area leans to the west over it: those pixels show the tower."""
    area = np.array([[-10.0, -20.0], [10.0, 20.0]])
    first, last = columns(shows_surface(view(0.5), GRID, block(20.0, 12, 16), area))
    assert abs(first - -10) <= 1 and abs(last - 2) <= 1


def test_curved_cameras_see_the_same_place():
    """A quadratic term of 1.2 px at the area's edge."""
    area = np.array([[-10.0, -20.0], [10.0, 20.0]])
    bent = np.zeros((2, 6))
    bent[0, 0] = 0.012
    straight = view(0.0)
    shown = shows_surface(AffineCamera(straight.matrix, bent, straight.size), GRID, block(0.0, 0, 0), area)
    first, last = columns(shown)
    assert abs(first - -8.8) <= 1 and abs(last - 11.2) <= 1
