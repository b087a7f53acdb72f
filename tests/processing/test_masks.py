"""Masks of the pixels that show the area, of blocks whose masks are known."""

import numpy as np

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.geo.grid import Grid
from skyfall_ns.processing.masks import visible_area_mask

GRID = Grid(-30.0, 30.0, 0.5, 120, 120)


def tilted_camera(east: float) -> AffineCamera:
    """North up, one pixel per meter; a meter of height hides `east` meters of ground."""
    return AffineCamera(np.array([[1.0, 0, -east, 60], [0, -1.0, 0, 60]]), None, (120, 120))


def block_heights(top: float, west: float, east: float) -> np.ndarray:
    """Ground at 0 with a block of height `top` between two x, over the whole grid from south to north."""
    height = np.zeros((GRID.height, GRID.width), np.float32)
    x = GRID.x_m()
    height[:, (x > west) & (x < east)] = top
    return height


def column_range(mask: np.ndarray) -> tuple[int, int]:
    """First and last column of the middle row, which has no gap; counted from x = 0 on the ground."""
    found = np.flatnonzero(mask[60])
    assert len(found) == found[-1] - found[0] + 1
    return found[0] - 60, found[-1] - 60


def test_mask_of_flat_ground_is_the_projected_area():
    area = np.array([[-10.0, -20.0], [10.0, 20.0]])
    mask = visible_area_mask(tilted_camera(0.5), GRID, block_heights(0.0, 0, 0), area)
    assert column_range(mask) == (-10, 10) and mask.sum() == 21 * 41


def test_mask_contains_a_tower_that_leans_out_of_the_area():
    """Its roof belongs to the area, although the ground behind those pixels does not."""
    area = np.array([[-10.0, -20.0], [10.0, 20.0]])
    first, last = column_range(visible_area_mask(tilted_camera(0.5), GRID, block_heights(40.0, -10, -5), area))
    assert abs(first - (-10 - 20)) <= 1 and abs(last - 10) <= 1


def test_mask_excludes_ground_hidden_by_a_tower_outside():
    """A tower east of the area leans to the west over it: those pixels show the tower."""
    area = np.array([[-10.0, -20.0], [10.0, 20.0]])
    first, last = column_range(visible_area_mask(tilted_camera(0.5), GRID, block_heights(20.0, 12, 16), area))
    assert abs(first - -10) <= 1 and abs(last - 2) <= 1


def test_mask_follows_the_quadratic_term():
    """A quadratic term of 1.2 px at the area's edge."""
    area = np.array([[-10.0, -20.0], [10.0, 20.0]])
    quadratic = np.zeros((2, 6))
    quadratic[0, 0] = 0.012
    affine = tilted_camera(0.0)
    mask = visible_area_mask(AffineCamera(affine.matrix, quadratic, affine.size), GRID, block_heights(0.0, 0, 0), area)
    first, last = column_range(mask)
    assert abs(first - -8.8) <= 1 and abs(last - 11.2) <= 1
