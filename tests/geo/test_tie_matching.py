"""The sorted search finds exactly the matches of a search among all features."""

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from skyfall_ns.geo.threads import thread_pool
from skyfall_ns.geo.tie_matching import BLOCK_SIZE, LOWE_RATIO, MAX_POINTING_ERROR_PX, mutual_matches


def make_scene(count_a: int, count_b: int, angle_deg: float, length_px: float, seed: int):
    """Descriptors, segments whose directions vary by 10 degrees, and positions. A third of the features of b are those
    of a with noise; a few positions of b have two similar features."""
    rng = np.random.default_rng(seed)
    a, b = (np.abs(rng.normal(size=(n, 128))).astype(np.float32) for n in (count_a, count_b))
    angle = np.deg2rad(angle_deg + rng.uniform(-5, 5, count_a))
    along = length_px / 2 * np.stack([np.cos(angle), np.sin(angle)], 1)
    middle = rng.uniform(0, 800, (count_a, 2))
    segments = np.stack([middle - along, middle + along], 1)
    points = rng.uniform(0, 800, (count_b, 2))
    true_matches = min(count_a, count_b) // 3
    b[:true_matches] = a[:true_matches] + 0.3 * rng.normal(size=(true_matches, 128))
    points[:true_matches] = (
        middle[:true_matches]
        + along[:true_matches] * rng.uniform(-1, 1, (true_matches, 1))
        + rng.normal(size=(true_matches, 2)) * 10
    )
    duplicates = min(true_matches, count_b - true_matches) // 4
    b[true_matches : true_matches + duplicates] = b[:duplicates] + 0.05 * rng.normal(size=(duplicates, 128))
    points[true_matches : true_matches + duplicates] = points[:duplicates] + 0.2
    a, b = (np.abs(d) / np.linalg.norm(d, axis=1, keepdims=True) for d in (a, b))
    return a.astype(np.float32), b.astype(np.float32), segments, points


def brute_force(a, b, segments, points) -> set[tuple[int, int]]:
    """Matches by definition, one feature after another."""
    span = segments[:, 1] - segments[:, 0]
    length = np.linalg.norm(span, axis=1)
    along = span / length[:, None]
    offset = points[None] - segments.mean(1)[:, None]
    across = np.abs(along[:, None, 0] * offset[..., 1] - along[:, None, 1] * offset[..., 0])
    along_excess = np.abs((along[:, None] * offset).sum(-1)) - length[:, None] / 2
    similarity = np.where((across < MAX_POINTING_ERROR_PX) & (along_excess < MAX_POINTING_ERROR_PX), a @ b.T, -1.0)
    near = np.linalg.norm(points[:, None] - points[None], axis=-1) < 1.0
    pairs = set()
    for i, row in enumerate(similarity):
        j = int(row.argmax())
        rivals = row[~near[j]].max()
        if row[j] > 0 and 1 - row[j] < LOWE_RATIO**2 * (1 - rivals) and similarity[:, j].argmax() == i:
            pairs.add((i, j))
    return pairs


@pytest.mark.parametrize(
    ("count_a", "count_b", "angle_deg", "length_px"),
    [(900, 700, 20.0, 300.0), (700, 900, -85.0, 30.0), (BLOCK_SIZE // 2, 40, 140.0, 1000.0)],
)
def test_the_same_matches_as_of_a_search_among_all_features_are_found(count_a, count_b, angle_deg, length_px):
    scene = make_scene(count_a, count_b, angle_deg, length_px, seed=count_a)
    expected = brute_force(*scene)
    found = mutual_matches(*scene)
    assert len(expected) > 0.15 * min(count_a, count_b)
    assert {(int(i), int(j)) for i, j in found} == expected and len(found) == len(expected)


def test_views_from_one_direction_are_matched_without_epipolar_lines():
    a, b, segments, points = make_scene(600, 600, 0.0, 1e-7, seed=5)
    middle = segments.mean(1, keepdims=True)
    found = mutual_matches(a, b, np.repeat(middle, 2, axis=1), points)
    assert len(found) > 100 and (found[:, 0] == found[:, 1]).mean() > 0.7


def test_features_far_from_all_epipolar_lines_have_no_matches():
    a, b, segments, points = make_scene(300, 300, 30.0, 100.0, seed=6)
    assert mutual_matches(a, b, segments, points + 5000.0).shape == (0, 2)


def test_the_threads_of_a_pool_use_one_blas_thread_each():
    def blas_threads():
        return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]

    before = blas_threads()
    with thread_pool() as pool:
        assert set(pool.submit(blas_threads).result()) == {1}
    assert blas_threads() == before
