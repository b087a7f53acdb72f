"""Pseudo cameras: the published schedule and intrinsics, poses, and reproducible draws."""

import math

import pytest
import torch

from skyfall_ns.priors.pseudo_cameras import PseudoPose, PseudoSchedule, draw_stack, pinhole_intrinsics


def test_published_schedule():
    schedule = PseudoSchedule()
    assert sum(schedule.has_view_at(step) for step in range(30_001)) == 1999
    assert schedule.elevation_and_radius(1000) == (80.0, 300.0)
    assert schedule.elevation_and_radius(21000) == (45.0, 250.0)
    assert schedule.elevation_and_radius(11000) == (62.5, 275.0)
    assert [schedule.ramp_weight(s) for s in (1000, 1250, 1500, 9000)] == [0.0, 0.5, 1.0, 1.0]


def test_published_focal_lengths():
    assert pinhole_intrinsics(60, 1024)[0, 0].item() == pytest.approx(886.81, abs=0.01)
    assert pinhole_intrinsics(20, 1024)[0, 0].item() == pytest.approx(2903.7, abs=0.1)


def test_poses_point_to_their_targets_from_the_scheduled_distance_and_elevation():
    poses = draw_stack(PseudoSchedule(), 11000, torch.Generator().manual_seed(0), num_images=5, ground_m=7.0)
    assert len(poses) == 24
    for pose in poses:
        eye, target = torch.tensor(pose.eye_m), torch.tensor(pose.target_m)
        ray = eye - target
        assert ray.norm().item() == pytest.approx(275.0, rel=1e-5)
        assert math.degrees(math.asin(ray[2] / ray.norm())) == pytest.approx(62.5, abs=1e-3)
        azimuth = math.degrees(math.atan2(ray[1], ray[0])) / 30
        assert azimuth == pytest.approx(round(azimuth), abs=1e-4)
        in_camera = pose.camera_from_local() @ torch.tensor([*pose.target_m, 1.0], dtype=torch.float64)
        torch.testing.assert_close(in_camera[:3], torch.tensor([0, 0, 275.0], dtype=torch.float64), atol=1e-3, rtol=0)
        assert 0 <= pose.image < 5 and pose.target_m[2] == 7.0
    assert torch.tensor([p.target_m[:2] for p in poses]).std().item() == pytest.approx(64, rel=0.3)


def test_a_vertical_view_has_north_up():
    matrix = PseudoPose((0, 0, 100), (0, 0, 0), 0).camera_from_local()
    torch.testing.assert_close(matrix[:3, :3] @ matrix[:3, :3].T, torch.eye(3, dtype=torch.float64))
    assert torch.linalg.det(matrix[:3, :3]).item() == pytest.approx(1.0)
    north = matrix[:3, :3] @ torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    assert north[1].item() == pytest.approx(-1.0)  # up in the image


def test_up_in_the_scene_is_up_in_the_image():
    matrix = PseudoPose((0, -100, 100), (0, 0, 0), 0).camera_from_local()
    assert (matrix[:3, :3] @ torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))[1] < 0


def test_equal_seeds_draw_equal_stacks():
    stacks = [draw_stack(PseudoSchedule(), 2000, torch.Generator().manual_seed(3), 4) for _ in range(2)]
    assert stacks[0] == stacks[1]
