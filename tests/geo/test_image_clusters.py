"""Which images look alike, from the tie points that they share."""

import numpy as np

from skyfall_ns.geo.image_clusters import look_alike


def seen(views, *shared):
    """Tie points: (number, images that were matched there)."""
    rows = []
    for count, images in shared:
        row = np.zeros(views, bool)
        row[list(images)] = True
        rows += [row] * count
    return np.array(rows)


def groups(ties, shown=None):
    return look_alike(ties, np.ones_like(ties) if shown is None else shown)


KAHRAMANMARAS = ((1058, (0, 1)), (988, (2, 3)), (125, (0, 2)), (92, (1, 3)), (82, (0, 1, 2, 3)))


def test_two_dates_of_kahramanmaras_are_two_groups():
    """The counts of the real set: 1140 and 1070 ties within a date, at most 207 across."""
    assert groups(seen(4, *KAHRAMANMARAS)) == (0, 0, 1, 1)


def test_a_single_image_of_another_date_is_alone():
    """The same set without its last image: the third has no better partner than those that it does not look like."""
    ties = seen(4, *KAHRAMANMARAS)[:, :3]
    assert groups(ties[ties.sum(1) > 1]) == (0, 0, 1)


def test_a_chain_of_look_alikes_is_one_group():
    assert groups(seen(4, (100, (0, 1)), (60, (1, 2)), (80, (2, 3)), (5, (0, 3)))) == (0, 0, 0, 0)


def test_images_that_all_differ_alike_are_one_group():
    assert groups(seen(3, (20, (0, 1)), (18, (1, 2)), (22, (0, 2)))) == (0, 0, 0)


def test_an_image_without_ties_is_alone():
    assert groups(seen(3, (100, (0, 1)))) == (0, 0, 1)


def test_an_image_of_a_part_is_judged_by_the_ties_there():
    """Ten ties of a hundred lie where the third image looks, and it shares eight of them."""
    ties = seen(3, (92, (0, 1)), (8, (0, 1, 2)))
    assert groups(ties) == (0, 0, 1)
    shown = np.ones_like(ties)
    shown[:90, 2] = False
    assert groups(ties, shown) == (0, 0, 0)
