"""Look-at poses and orbits by the projection of points; the camera path by Nerfstudio's reader."""

import numpy as np
import pytest

from skyfall_ns.geo.camera_poses import camera_path, look_at, orbit_poses

TARGET = np.array([30.0, -20.0, 5.0])


def to_camera_coordinates(pose: np.ndarray, xyz: np.ndarray) -> np.ndarray:
    return (xyz - pose[:3, 3]) @ pose[:3, :3]


@pytest.mark.parametrize("eye", [(130.0, -20.0, 60.0), (30.0, -220.0, 5.0), (-10.0, 40.0, 1.0)])
def test_the_target_is_at_the_image_center_and_up_is_up(eye):
    pose = look_at(eye, TARGET)
    np.testing.assert_allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1.0)
    distance = np.linalg.norm(eye - TARGET)
    np.testing.assert_allclose(to_camera_coordinates(pose, TARGET), [0, 0, -distance], atol=1e-9)
    above = to_camera_coordinates(pose, TARGET + np.array([0, 0, 1]))
    assert above[0] == pytest.approx(0, abs=1e-12) and above[1] > 0


def test_a_nadir_camera_has_north_at_the_top():
    pose = look_at(TARGET + np.array([0, 0, 50]), TARGET)
    np.testing.assert_allclose(to_camera_coordinates(pose, TARGET + np.array([0, 2, 0])), [0, 2, -50], atol=1e-12)
    np.testing.assert_allclose(to_camera_coordinates(pose, TARGET + np.array([3, 0, 0])), [3, 0, -50], atol=1e-12)


def test_orbits_keep_distance_and_elevation():
    poses = orbit_poses(TARGET, 200.0, 35.0, 8)
    offsets = poses[:, :3, 3] - TARGET
    np.testing.assert_allclose(np.linalg.norm(offsets, axis=1), 200.0)
    np.testing.assert_allclose(np.degrees(np.arcsin(offsets[:, 2] / 200.0)), 35.0)
    azimuth = np.degrees(np.arctan2(offsets[:, 0], offsets[:, 1])) % 360
    np.testing.assert_allclose((azimuth - 179) % 360 - 1, 45.0 * np.arange(8), atol=1e-9)
    for pose in poses:
        assert np.allclose(to_camera_coordinates(pose, TARGET)[:2], 0, atol=1e-9)


def test_nerfstudio_reads_the_camera_path():
    """A point at half the field of view above the center is projected to the upper edge of the image."""
    from nerfstudio.cameras.camera_paths import get_path_from_json

    from skyfall_ns.dataparsers.camera_metadata import view_from_camera

    poses = orbit_poses((0.0, 0.0, 0.0), 4.0, 45.0, 6)
    path = camera_path(poses, 50.0, (640, 360), 24.0)
    cameras = get_path_from_json(path)
    assert path["seconds"] == 0.25 and len(cameras) == 6
    for index, pose in enumerate(poses):
        view = view_from_camera(cameras[index : index + 1])
        assert (view.width, view.height) == (640, 360)
        edge = pose[:3, :3] @ [0, 4 * np.tan(np.radians(25.0)), 0]
        for point, pixel in (((0, 0, 0), (320, 180)), (edge, (320, 0))):
            in_camera = view.camera_from_model.numpy() @ [*point, 1.0]
            colrow = (view.intrinsics.numpy() @ in_camera[:3])[:2] / in_camera[2]
            np.testing.assert_allclose(colrow, pixel, atol=1e-3)
