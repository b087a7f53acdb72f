"""The curriculum: the reference's grids and cameras, moves of cameras that stand badly, lists that do not fit."""

import math
from dataclasses import replace

import numpy as np
import pytest

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.curriculum import (
    MOVES,
    REFERENCE_JAX,
    REFERENCE_NYC,
    Curriculum,
    camera_of,
    farthest_m,
    poses,
)

DEFAULT = Curriculum()
BOX = np.array([[-256.0, -256.0, -5.0], [256.0, 256.0, 60.0]])
SMALL = np.array([[-100.0, -80.0, 0.0], [100.0, 80.0, 30.0]])


def flat(x, y):
    return 0.0


def free(eye, target):
    return True


def shots(curriculum, number=1, box=BOX, level_m=flat, admits=free, seed=0):
    episode = curriculum.episodes(box)[number - 1]
    return poses(curriculum, episode, box, level_m, admits, seed)


def test_grids_are_the_references():
    jax, nyc = REFERENCE_JAX.targets(BOX), REFERENCE_NYC.targets(BOX)
    assert len(jax) == 9 and len(nyc) == 16
    np.testing.assert_allclose(np.unique(jax), [-128, 0, 128])
    np.testing.assert_allclose(np.unique(nyc.round(6)), [-153.6, -51.2, 51.2, 153.6])
    np.testing.assert_allclose(REFERENCE_JAX.targets(BOX + [1000, 0, 0]).mean(0), [1000, 0], atol=1e-9)


def test_no_episode_of_the_reference_is_lost():
    jax, nyc = REFERENCE_JAX.episodes(BOX), REFERENCE_NYC.episodes(BOX)
    assert [(e.number, e.elevation_deg, e.radius_m) for e in jax][-1] == (5, 45.0, 250.0) and len(jax) == 5
    assert [e.elevation_deg for e in nyc] == [85, 75, 65, 55, 45, 25] and {e.radius_m for e in nyc} == {600.0}
    assert {(e.fov_deg, e.steps) for e in nyc} == {(20.0, 10_000)}
    assert len(shots(REFERENCE_JAX)) == 108 and len(shots(REFERENCE_NYC)) == 192


def test_cameras_are_the_references():
    """eye = target + r (cos a cos e, sin a cos e, sin e), a = 2 pi i / 6: the same places as ours."""
    exact = replace(REFERENCE_JAX, azimuth_turn=0.0, perturbation_deg=0.0)
    for number in (1, 5):
        episode = exact.episodes(BOX)[number - 1]
        e, r = math.radians(episode.elevation_deg), episode.radius_m
        wanted = {
            (round(x + r * math.cos(a) * math.cos(e), 4), round(y + r * math.sin(a) * math.cos(e), 4))
            for x in (-128, 0, 128) for y in (-128, 0, 128) for a in (2 * math.pi * i / 6 for i in range(6))
        }  # fmt: skip
        found = shots(exact, number)
        assert {(round(p.eye_m[0], 4) + 0.0, round(p.eye_m[1], 4) + 0.0) for p in found} == wanted
        assert all(p.eye_m[2] == pytest.approx(r * math.sin(e)) for p in found)
        assert all(a.eye_m == b.eye_m and a.seed != b.seed for a, b in zip(found[::2], found[1::2], strict=True))


def test_pinholes_look_at_their_targets():
    assert camera_of(shots(REFERENCE_JAX)[0], 60, 1024).intrinsics[0, 0] == pytest.approx(886.81, abs=0.005)
    assert camera_of(shots(REFERENCE_JAX)[0], 20, 1024).intrinsics[0, 0] == pytest.approx(2903.7, abs=0.05)
    for pose in shots(DEFAULT, 3, SMALL)[::7]:
        camera = camera_of(pose, 30, 256)
        np.testing.assert_allclose(camera.project(np.array(pose.target_m)), [127.5, 127.5], atol=1e-6)
        above, right = camera.project(np.array(pose.target_m) + [0, 0, 5.0]), np.linalg.inv(camera.camera_from_local)
        assert above[1] < 127 and above[0] == pytest.approx(127.5)  # z is up in the picture
        np.testing.assert_allclose(right[:3, 3], pose.eye_m, atol=1e-6)
        assert np.linalg.det(camera.camera_from_local[:3, :3]) == pytest.approx(1)
        east = math.sin(math.radians(pose.azimuth_deg)) * math.cos(math.radians(pose.elevation_deg))
        assert pose.eye_m[0] - pose.target_m[0] == pytest.approx(east * math.dist(pose.eye_m, pose.target_m))


def test_default_views_cover_a_small_scene_down_to_20_degrees():
    episodes = DEFAULT.episodes(SMALL)
    assert [e.elevation_deg for e in episodes] == [60, 40, 20] and DEFAULT.azimuths == 12
    corners = np.array([[x, y, 0.0] for x in np.linspace(-100, 100, 9) for y in np.linspace(-80, 80, 9)])
    for episode in episodes:
        seen = np.zeros(len(corners), int)
        for pose in shots(DEFAULT, episode.number, SMALL):
            pixel = camera_of(pose, episode.fov_deg, 256).project(corners)
            seen += ((pixel > 0) & (pixel < 255)).all(-1)
        assert seen.min() >= 3, episode


def test_directions_turn_from_episode_to_episode():
    first, second, third = (sorted({p.azimuth_deg for p in shots(DEFAULT, n, SMALL)}) for n in (1, 2, 3))
    assert len(first) == 12
    for a, b in ((first, second), (second, third), (first, third)):
        gaps = np.abs(np.subtract.outer(a, b))
        assert np.minimum(gaps, 360 - gaps).min() > 5
    still = replace(DEFAULT, azimuth_turn=0.0)
    assert {p.azimuth_deg for p in shots(still, 1, SMALL)} == {p.azimuth_deg for p in shots(still, 3, SMALL)}


def test_samples_differ_a_little_and_always_alike():
    curriculum = replace(DEFAULT, samples_per_view=3, perturbation_deg=2.0)
    found, again = shots(curriculum, 2, SMALL), shots(curriculum, 2, SMALL)
    assert found == again and len({p.seed for p in found}) == len(found) == 9 * 12 * 3
    assert shots(curriculum, 2, SMALL, seed=1)[0].seed != found[0].seed
    for first, *others in (found[i : i + 3] for i in range(0, len(found), 3)):
        assert first.elevation_deg == 40 and {p.view for p in others} == {first.view}
        for other in others:
            assert 0 < abs(other.elevation_deg - 40) <= 2 and 0 < abs(other.azimuth_deg - first.azimuth_deg) % 358 <= 2


def test_targets_stand_on_the_ground():
    hill = shots(DEFAULT, 1, SMALL, level_m=lambda x, y: 7.0 + x / 10)
    low = shots(DEFAULT, 1, SMALL)
    for a, b in zip(hill, low, strict=True):
        assert a.target_m[2] == pytest.approx(7 + a.target_m[0] / 10)
        assert a.eye_m[2] - a.target_m[2] == pytest.approx(b.eye_m[2])


def test_blocked_cameras_move_or_go():
    radius = DEFAULT.episodes(SMALL)[2].radius_m

    def above_100_m(eye, target):
        return eye[2] >= 100.0

    moved = shots(DEFAULT, 3, SMALL, admits=above_100_m)
    assert len(moved) == 108 and radius * math.sin(math.radians(20)) < 100
    farther = next(f for d, f in MOVES if radius * f * math.sin(math.radians(20 + d)) >= 100)
    assert math.dist(moved[0].eye_m, moved[0].target_m) == pytest.approx(radius * farther)
    kept = shots(DEFAULT, 3, SMALL, admits=lambda eye, target: target[0] > 0)
    assert len(kept) == 36 and [p.name for p in kept] == [f"{i:03d}" for i in range(36)]
    raised = shots(DEFAULT, 3, SMALL, admits=lambda eye, target: eye[2] > radius * math.sin(math.radians(25)) * 1.2)
    assert {p.elevation_deg for p in raised} == {30.0}
    with pytest.raises(TrainingError, match=r"episode 3 \(20 degrees.*Raise --pipeline.curriculum.elevations-deg"):
        shots(DEFAULT, 3, SMALL, admits=lambda eye, target: False)


def test_lists_that_do_not_fit_are_told_by_flag():
    with pytest.raises(TrainingError) as error:
        replace(REFERENCE_NYC, radii_m=(600.0,) * 5).check()
    assert "--pipeline.curriculum.radii-m has 5 values and --pipeline.curriculum.elevations-deg 6. Give" in str(
        error.value
    )
    with pytest.raises(TrainingError, match="fov-deg has 2 values"):
        replace(DEFAULT, fov_deg=(30.0, 40.0)).episodes(SMALL)
    per_episode = replace(DEFAULT, steps=(1, 2, 3)).episodes(SMALL)
    assert [e.steps for e in per_episode] == [1, 2, 3]


@pytest.mark.parametrize(
    "odd",
    [{"elevations_deg": ()}, {"elevations_deg": (60.0, 0.0)}, {"elevations_deg": (math.nan,)}, {"radii_m": (-1.0,)},
     {"radii_m": ()}, {"fov_deg": (180.0,)}, {"steps": (0,)}, {"grid": 0}, {"grid_extent_m": 0.0}, {"azimuths": 0},
     {"azimuth_turn": math.inf}, {"samples_per_view": 0}, {"perturbation_deg": -1.0}, {"size_px": 8}],
)  # fmt: skip
def test_numbers_that_make_no_views(odd):
    flag = next(iter(odd)).replace("_", "-")
    with pytest.raises(TrainingError, match=rf"--pipeline\.curriculum\.{flag} .*makes no views\. Give "):
        Curriculum(**odd).check()


def test_depths_reach_the_far_corner():
    found = shots(DEFAULT, 3, SMALL)
    corners = np.array([[x, y, z] for x in SMALL[:, 0] for y in SMALL[:, 1] for z in SMALL[:, 2]])
    assert farthest_m(found, SMALL) == pytest.approx(max(math.dist(p.eye_m, c) for p in found for c in corners))
