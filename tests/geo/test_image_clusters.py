"""Clusters of images from the tie points that they share."""

import numpy as np

from skyfall_ns.geo.image_clusters import cluster_images


def make_tie_points(image_count, *counts):
    """Observation mask of tie points, from (number, images in which they were found)."""
    rows = []
    for count, images in counts:
        row = np.zeros(image_count, bool)
        row[list(images)] = True
        rows += [row] * count
    return np.array(rows)


def find_clusters(tie_points, within=None):
    return cluster_images(tie_points, np.ones_like(tie_points) if within is None else within)


KAHRAMANMARAS = ((1058, (0, 1)), (988, (2, 3)), (125, (0, 2)), (92, (1, 3)), (82, (0, 1, 2, 3)))


def test_two_dates_of_kahramanmaras_are_two_clusters():
    """The counts of the real set: 1140 and 1070 tie points within a date, at most 207 between dates."""
    assert find_clusters(make_tie_points(4, *KAHRAMANMARAS)) == (0, 0, 1, 1)


def test_a_single_image_of_another_date_is_a_cluster_of_its_own():
    """The same set without its last image: the third image has no partner of its own date."""
    tie_points = make_tie_points(4, *KAHRAMANMARAS)[:, :3]
    assert find_clusters(tie_points[tie_points.sum(1) > 1]) == (0, 0, 1)


def test_a_chain_of_similar_images_is_one_cluster():
    assert find_clusters(make_tie_points(4, (100, (0, 1)), (60, (1, 2)), (80, (2, 3)), (5, (0, 3)))) == (0, 0, 0, 0)


def test_images_that_all_differ_equally_are_one_cluster():
    assert find_clusters(make_tie_points(3, (20, (0, 1)), (18, (1, 2)), (22, (0, 2)))) == (0, 0, 0)


def test_an_image_without_tie_points_is_a_cluster_of_its_own():
    assert find_clusters(make_tie_points(3, (100, (0, 1)))) == (0, 0, 1)


def test_an_image_of_a_part_is_compared_by_the_tie_points_there():
    """Ten tie points of a hundred lie inside the third image, and it shares eight of them."""
    tie_points = make_tie_points(3, (92, (0, 1)), (8, (0, 1, 2)))
    assert find_clusters(tie_points) == (0, 0, 1)
    within = np.ones_like(tie_points)
    within[:90, 2] = False
    assert find_clusters(tie_points, within) == (0, 0, 0)
