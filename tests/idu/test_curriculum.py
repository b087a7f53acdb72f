"""The curriculum: grids and cameras of Skyfall-GS, alternatives to obstructed cameras, and wrong options."""

import math
from dataclasses import replace

import numpy as np
import pytest

from skyfall_ns.errors import TrainingError
from skyfall_ns.idu.camera_placement import FALLBACK_OFFSETS, move_into_box, place_cameras
from skyfall_ns.idu.curriculum import (
    REFERENCE_JAX,
    REFERENCE_NYC,
    Curriculum,
    farthest_depth_m,
    pose_camera,
)

DEFAULT = Curriculum()
BOX = np.array([[-256.0, -256.0, -5.0], [256.0, 256.0, 60.0]])
SMALL_BOX = np.array([[-100.0, -80.0, 0.0], [100.0, 80.0, 30.0]])


def place_episode(
    curriculum,
    number=1,
    box=BOX,
    ground_level_m=lambda x, y: 0.0,
    find_obstacle=lambda eye, target: None,
    seed=0,
):
    """Poses of episode `number`."""
    return place_with_report(curriculum, number, box, ground_level_m, find_obstacle, seed)[0]


def place_with_report(
    curriculum, number=1, box=BOX, ground_level_m=lambda x, y: 0.0, find_obstacle=lambda eye, target: None, seed=0
):
    """Poses of episode `number`, and the report."""
    episode = curriculum.plan_episodes(box)[number - 1]
    return place_cameras(curriculum, episode, box, ground_level_m, find_obstacle, seed)


def test_grids_are_those_of_skyfall_gs():
    jax, nyc = REFERENCE_JAX.look_at_points(BOX), REFERENCE_NYC.look_at_points(BOX)
    assert len(jax) == 9 and len(nyc) == 16
    np.testing.assert_allclose(np.unique(jax), [-128, 0, 128])
    np.testing.assert_allclose(np.unique(nyc.round(6)), [-153.6, -51.2, 51.2, 153.6])
    np.testing.assert_allclose(REFERENCE_JAX.look_at_points(BOX + [1000, 0, 0]).mean(0), [1000, 0], atol=1e-9)


def test_reference_curricula_have_all_episodes():
    jax, nyc = REFERENCE_JAX.plan_episodes(BOX), REFERENCE_NYC.plan_episodes(BOX)
    assert [(e.number, e.elevation_deg, e.radius_m) for e in jax][-1] == (5, 45.0, 250.0) and len(jax) == 5
    assert [e.elevation_deg for e in nyc] == [85, 75, 65, 55, 45, 25] and {e.radius_m for e in nyc} == {600.0}
    assert {(e.fov_deg, e.steps) for e in nyc} == {(20.0, 10_000)}
    assert len(place_episode(REFERENCE_JAX)) == 108 and len(place_episode(REFERENCE_NYC)) == 192


def test_cameras_are_those_of_skyfall_gs():
    """eye = target + r (cos a cos e, sin a cos e, sin e), a = 2 pi i / 6."""
    exact = replace(REFERENCE_JAX, azimuth_step=0.0, sample_jitter_deg=0.0)
    for number in (1, 5):
        episode = exact.plan_episodes(BOX)[number - 1]
        e, r = math.radians(episode.elevation_deg), episode.radius_m
        expected = {
            (round(x + r * math.cos(a) * math.cos(e), 4), round(y + r * math.sin(a) * math.cos(e), 4))
            for x in (-128, 0, 128) for y in (-128, 0, 128) for a in (2 * math.pi * i / 6 for i in range(6))
        }  # fmt: skip
        poses = place_episode(exact, number)
        assert {(round(p.eye_m[0], 4) + 0.0, round(p.eye_m[1], 4) + 0.0) for p in poses} == expected
        assert all(p.eye_m[2] == pytest.approx(r * math.sin(e)) for p in poses)
        assert all(a.eye_m == b.eye_m and a.seed != b.seed for a, b in zip(poses[::2], poses[1::2], strict=True))


def test_cameras_have_their_targets_at_the_image_center():
    assert pose_camera(place_episode(REFERENCE_JAX)[0], 60, 1024).intrinsics[0, 0] == pytest.approx(886.81, abs=0.005)
    assert pose_camera(place_episode(REFERENCE_JAX)[0], 20, 1024).intrinsics[0, 0] == pytest.approx(2903.7, abs=0.05)
    for pose in place_episode(DEFAULT, 3, SMALL_BOX)[::7]:
        camera = pose_camera(pose, 30, 256)
        np.testing.assert_allclose(camera.project(np.array(pose.target_m)), [127.5, 127.5], atol=1e-6)
        above = camera.project(np.array(pose.target_m) + [0, 0, 5.0])
        assert above[1] < 127 and above[0] == pytest.approx(127.5)  # z is up in the image
        np.testing.assert_allclose(np.linalg.inv(camera.camera_from_local)[:3, 3], pose.eye_m, atol=1e-6)
        assert np.linalg.det(camera.camera_from_local[:3, :3]) == pytest.approx(1)
        east = math.sin(math.radians(pose.azimuth_deg)) * math.cos(math.radians(pose.elevation_deg))
        assert pose.eye_m[0] - pose.target_m[0] == pytest.approx(east * math.dist(pose.eye_m, pose.target_m))


def test_default_views_cover_a_small_scene_down_to_20_degrees():
    episodes = DEFAULT.plan_episodes(SMALL_BOX)
    assert [e.elevation_deg for e in episodes] == [60, 40, 20] and DEFAULT.azimuths == 12
    points = np.array([[x, y, 0.0] for x in np.linspace(-100, 100, 9) for y in np.linspace(-80, 80, 9)])
    for episode in episodes:
        view_counts = np.zeros(len(points), int)
        for pose in place_episode(DEFAULT, episode.number, SMALL_BOX):
            pixel = pose_camera(pose, episode.fov_deg, 256).project(points)
            view_counts += ((pixel > 0) & (pixel < 255)).all(-1)
        assert view_counts.min() >= 3, episode


def test_directions_rotate_from_episode_to_episode():
    first, second, third = (sorted({p.azimuth_deg for p in place_episode(DEFAULT, n, SMALL_BOX)}) for n in (1, 2, 3))
    assert len(first) == 12
    for a, b in ((first, second), (second, third), (first, third)):
        gaps = np.abs(np.subtract.outer(a, b))
        assert np.minimum(gaps, 360 - gaps).min() > 5
    fixed = replace(DEFAULT, azimuth_step=0.0)
    first, third = ({p.azimuth_deg for p in place_episode(fixed, n, SMALL_BOX)} for n in (1, 3))
    assert first == third


def test_samples_differ_slightly_and_reproducibly():
    curriculum = replace(DEFAULT, samples_per_view=3, sample_jitter_deg=2.0)
    poses, again = place_episode(curriculum, 2, SMALL_BOX), place_episode(curriculum, 2, SMALL_BOX)
    assert poses == again and len({p.seed for p in poses}) == len(poses) == 9 * 12 * 3
    assert place_episode(curriculum, 2, SMALL_BOX, seed=1)[0].seed != poses[0].seed
    for first, *others in (poses[i : i + 3] for i in range(0, len(poses), 3)):
        assert first.elevation_deg == 40 and {p.view for p in others} == {first.view}
        for other in others:
            assert 0 < abs(other.elevation_deg - 40) <= 2 and 0 < abs(other.azimuth_deg - first.azimuth_deg) % 358 <= 2


def test_look_at_points_are_on_the_ground():
    hill = place_episode(DEFAULT, 1, SMALL_BOX, ground_level_m=lambda x, y: 7.0 + x / 10)
    plane = place_episode(DEFAULT, 1, SMALL_BOX)
    for a, b in zip(hill, plane, strict=True):
        assert a.target_m[2] == pytest.approx(7 + a.target_m[0] / 10)
        assert a.eye_m[2] - a.target_m[2] == pytest.approx(b.eye_m[2])


def test_obstructed_cameras_are_moved_or_omitted():
    radius = DEFAULT.plan_episodes(SMALL_BOX)[2].radius_m

    def is_below_100_m(eye, target):
        return "obstructed" if eye[2] < 100.0 else None

    moved, report = place_with_report(DEFAULT, 3, SMALL_BOX, find_obstacle=is_below_100_m)
    assert len(moved) == 108 and radius * math.sin(math.radians(20)) < 100
    assert report.summary() == "108 of 108 views; 108 cameras were moved up or back"
    factor = next(f for d, f in FALLBACK_OFFSETS if radius * f * math.sin(math.radians(20 + d)) >= 100)
    assert math.dist(moved[0].eye_m, moved[0].target_m) == pytest.approx(radius * factor)
    kept, report = place_with_report(
        DEFAULT, 3, SMALL_BOX, find_obstacle=lambda eye, target: None if target[0] > -1 else "obstructed"
    )
    assert len(kept) == 72 and [p.name for p in kept] == [f"{i:03d}" for i in range(72)]
    assert report.summary() == "72 of 108 views; left out: 36 obstructed" and report.view_count == 72
    min_height_m = radius * math.sin(math.radians(25)) * 1.2
    raised = place_episode(
        DEFAULT, 3, SMALL_BOX, find_obstacle=lambda eye, target: None if eye[2] > min_height_m else "obstructed"
    )
    assert {p.elevation_deg for p in raised} == {30.0}


def test_fewer_than_half_of_the_cameras_are_an_error_with_reasons_and_flags():
    def find_obstacle(eye, target):
        if target[0] < -1:
            return "obstructed"
        return None if target[0] > 1 else "close to or below the surface"

    with pytest.raises(TrainingError) as error:
        place_episode(DEFAULT, 3, SMALL_BOX, find_obstacle=find_obstacle)
    assert str(error.value) == (
        "Only 36 of 108 cameras of episode 3 (20 degrees, 252 m) have a free view; the others are 36 obstructed, "
        "36 close to or below the surface. Raise --pipeline.curriculum.elevations-deg or --pipeline.curriculum.radii-m."
    )


@pytest.mark.parametrize(
    ("side_m", "moved_jax", "moved_nyc"), [(80, 96, 192), (192, 96, 144), (256, 0, 144), (512, 0, 0)]
)
def test_published_presets_have_all_their_views_on_boxes_of_any_size(side_m, moved_jax, moved_nyc):
    """Targets outside the box move to its edge; Skyfall-GS' grids are 256 m and 307.2 m wide."""
    box = np.array([[-side_m / 2, -side_m / 2, 0.0], [side_m / 2, side_m / 2, 50.0]])
    for curriculum, count, moved in ((REFERENCE_JAX, 108, moved_jax), (REFERENCE_NYC, 192, moved_nyc)):
        for number in range(1, len(curriculum.elevations_deg) + 1):
            poses, report = place_with_report(curriculum, number, box)
            assert (len(poses), report.planned, report.moved_targets) == (count, count, moved)
            assert max(abs(v) for pose in poses for v in pose.target_m[:2]) <= side_m / 2
    text = place_with_report(REFERENCE_JAX, 1, box)[1].summary()
    edge = "; 96 look at the edge of the scene instead of a point outside of it" if moved_jax else ""
    assert text == f"108 of 108 views{edge}"


def test_targets_on_the_edge_of_the_box_stay_in_spite_of_rounding():
    box = np.array([[0.1, 0.1, 0.0], [256.1, 256.1 - 1e-9, 50.0]])
    poses, report = place_with_report(REFERENCE_JAX, 1, box + [4e5, 5e6, 0])
    assert len(poses) == 108 and report.moved_targets == 0
    assert move_into_box(256.9, 3.0, box) == (256.9, 3.0) and move_into_box(259.0, -7.0, box) == (256.1, 0.1)


def test_lists_of_wrong_length_are_refused_by_flag():
    with pytest.raises(TrainingError) as error:
        replace(REFERENCE_NYC, radii_m=(600.0,) * 5).check_lengths()
    message = "--pipeline.curriculum.radii-m has 5 values, and --pipeline.curriculum.elevations-deg has 6. Pass"
    assert message in str(error.value)
    with pytest.raises(TrainingError, match="fov-deg has 2 values"):
        replace(DEFAULT, fov_deg=(30.0, 40.0)).plan_episodes(SMALL_BOX)
    per_episode = replace(DEFAULT, steps=(1, 2, 3)).plan_episodes(SMALL_BOX)
    assert [e.steps for e in per_episode] == [1, 2, 3]


@pytest.mark.parametrize(
    "options",
    [{"elevations_deg": ()}, {"elevations_deg": (60.0, 0.0)}, {"elevations_deg": (math.nan,)}, {"radii_m": (-1.0,)},
     {"radii_m": ()}, {"fov_deg": (180.0,)}, {"steps": (0,)}, {"grid": 0}, {"grid_extent_m": 0.0}, {"azimuths": 0},
     {"azimuth_step": math.inf}, {"samples_per_view": 0}, {"sample_jitter_deg": -1.0}, {"size_px": 8}],
)  # fmt: skip
def test_options_out_of_range_are_refused_by_flag(options):
    flag = next(iter(options)).replace("_", "-")
    with pytest.raises(TrainingError, match=rf"--pipeline\.curriculum\.{flag} (is|has) .*\. Pass "):
        Curriculum(**options).plan_episodes(SMALL_BOX)


def test_farthest_depth_is_that_of_the_farthest_corner():
    poses = place_episode(DEFAULT, 3, SMALL_BOX)
    corners = np.array([[x, y, z] for x in SMALL_BOX[:, 0] for y in SMALL_BOX[:, 1] for z in SMALL_BOX[:, 2]])
    expected = max(math.dist(p.eye_m, c) for p in poses for c in corners)
    assert farthest_depth_m(poses, SMALL_BOX) == pytest.approx(expected)
