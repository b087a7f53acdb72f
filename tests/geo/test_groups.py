"""Which images look alike, from the tie points that they share."""

import numpy as np

from skyfall_ns.geo.groups import look_alike, matched_groups


def seen(views, *shared):
    """Tie points: (number, images that show them)."""
    rows = []
    for count, images in shared:
        row = np.zeros(views, bool)
        row[list(images)] = True
        rows += [row] * count
    return np.array(rows)


def test_two_dates_of_kahramanmaras_are_two_groups():
    """The counts of the real set: 1140 and 1070 ties within a date, at most 207 across."""
    ties = seen(4, (1058, (0, 1)), (988, (2, 3)), (125, (0, 2)), (92, (1, 3)), (82, (0, 1, 2, 3)))
    assert look_alike(ties) == (0, 0, 1, 1)
    assert matched_groups(ties) == (0, 0, 1, 1)


def test_a_chain_of_look_alikes_is_one_group():
    ties = seen(4, (100, (0, 1)), (60, (1, 2)), (80, (2, 3)), (5, (0, 3)))
    assert look_alike(ties) == (0, 0, 0, 0)


def test_no_image_is_left_without_a_partner():
    ties = seen(3, (100, (0, 1)), (8, (1, 2)))  # image 2 is poor in ties, but image 1 is its best partner
    assert look_alike(ties) == (0, 0, 0)
    lonely = seen(3, (100, (0, 1)))
    assert look_alike(lonely) == (0, 0, 1)
    assert matched_groups(lonely) == (0, 0, 0)
