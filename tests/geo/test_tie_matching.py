"""The sorted search finds exactly what a search among all features finds."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from skyfall_ns.geo.threads import thread_pool
from skyfall_ns.geo.tie_matching import BLOCK, POINTING_PX, RATIO, mutual_matches


def scene(count_a: int, count_b: int, angle_deg: float, length_px: float, seed: int):
    """Descriptors, segments whose directions spread over 10 degrees, and positions; a third of b's features are a's
    with noise, a few places of b carry two similar features."""
    g = np.random.default_rng(seed)
    a, b = (np.abs(g.normal(size=(n, 128))).astype(np.float32) for n in (count_a, count_b))
    angle = np.deg2rad(angle_deg + g.uniform(-5, 5, count_a))
    along = length_px / 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    middle = g.uniform(0, 800, (count_a, 2))
    segments = np.stack([middle - along, middle + along], 1)
    points = g.uniform(0, 800, (count_b, 2))
    same = min(count_a, count_b) // 3
    b[:same] = a[:same] + 0.3 * g.normal(size=(same, 128))
    points[:same] = middle[:same] + along[:same] * g.uniform(-1, 1, (same, 1)) + g.normal(size=(same, 2)) * 10
    doubles = min(same, count_b - same) // 4
    b[same : same + doubles] = b[:doubles] + 0.05 * g.normal(size=(doubles, 128))
    points[same : same + doubles] = points[:doubles] + 0.2
    a, b = (np.abs(d) / np.linalg.norm(d, axis=1, keepdims=True) for d in (a, b))
    return a.astype(np.float32), b.astype(np.float32), segments, points


def brute_force(a, b, segments, points) -> set[tuple[int, int]]:
    """The definition, one feature after another."""
    span = segments[:, 1] - segments[:, 0]
    length = np.linalg.norm(span, axis=1)
    along = span / length[:, None]
    offset = points[None] - segments.mean(1)[:, None]
    beside = np.abs(along[:, None, 0] * offset[..., 1] - along[:, None, 1] * offset[..., 0])
    beyond = np.abs((along[:, None] * offset).sum(-1)) - length[:, None] / 2
    similarity = np.where((beside < POINTING_PX) & (beyond < POINTING_PX), a @ b.T, -1.0)
    near = np.linalg.norm(points[:, None] - points[None], axis=-1) < 1.0
    pairs = set()
    for i, row in enumerate(similarity):
        j = int(row.argmax())
        rivals = row[~near[j]].max()
        if row[j] > 0 and 1 - row[j] < RATIO**2 * (1 - rivals) and similarity[:, j].argmax() == i:
            pairs.add((i, j))
    return pairs


@pytest.mark.parametrize(
    ("count_a", "count_b", "angle_deg", "length_px"),
    [(900, 700, 20.0, 300.0), (700, 900, -85.0, 30.0), (BLOCK // 2, 40, 140.0, 1000.0)],
)
def test_every_match_of_a_search_among_all_is_found_and_no_other(count_a, count_b, angle_deg, length_px):
    case = scene(count_a, count_b, angle_deg, length_px, seed=count_a)
    expected = brute_force(*case)
    found = mutual_matches(*case)
    assert len(expected) > 0.15 * min(count_a, count_b)
    assert {(int(i), int(j)) for i, j in found} == expected and len(found) == len(expected)


def test_views_of_one_direction_have_no_lines_and_are_matched_all_the_same():
    a, b, segments, points = scene(600, 600, 0.0, 1e-7, seed=5)
    middle = segments.mean(1, keepdims=True)
    found = mutual_matches(a, b, np.repeat(middle, 2, axis=1), points)
    assert len(found) > 100 and (found[:, 0] == found[:, 1]).mean() > 0.7


def test_features_far_from_all_lines_match_nothing():
    a, b, segments, points = scene(300, 300, 30.0, 100.0, seed=6)
    assert mutual_matches(a, b, segments, points + 5000.0).shape == (0, 2)


def test_the_threads_of_a_pool_have_one_blas_thread_each():
    def threads():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = threads()
    with thread_pool() as pool:
        assert set(pool.submit(threads).result()) == {1}
    assert threads() == before
