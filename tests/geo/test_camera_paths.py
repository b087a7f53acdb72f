"""Shapes of camera paths, the published orbits by their known matrices, and files of other programs."""

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from skyfall_ns.errors import SkyfallError
from skyfall_ns.geo import camera_path_files, camera_paths
from skyfall_ns.geo.camera_path_files import kml_tour, path_with_georeference, read_camera_path, read_geojson_line
from skyfall_ns.geo.frame import LocalFrame

BOX = np.array([[-100.0, -60.0, -5.0], [100.0, 60.0, 40.0]])


def forward(pose: np.ndarray) -> np.ndarray:
    return -pose[:3, 2]


def test_the_published_orbit_has_the_first_matrix_of_its_file():
    """Frame 0 of JAX/004/r612_e78_fov20.json (Skyfall-GS): target (0, 0, 58.4), eye (125, 0, 658.4)."""
    pose = camera_paths.poses_around((0.0, 0.0, 58.4), camera_paths.published_samples("r612_e78"))[0]
    expected = [[0, -0.97898, 0.20395, 125.0], [1, 0, 0, 0], [0, 0.20395, 0.97898, 658.4], [0, 0, 0, 1]]
    np.testing.assert_allclose(pose, expected, atol=1e-5)


@pytest.mark.parametrize(("name", "radius", "elevation"), [
    ("r612_e78", 612.88, 78.23), ("r488_e50", 488.46, 50.15), ("r352_e27", 352.44, 27.36), ("r328_e17", 328.59, 17.72),
])  # fmt: skip
def test_published_orbits_have_their_names_and_turn_counterclockwise(name, radius, elevation):
    poses = camera_paths.poses_around((0.0, 0.0, 0.0), camera_paths.published_samples(name, 300))
    eye = poses[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(eye, axis=1), radius, atol=0.01)
    np.testing.assert_allclose(np.degrees(np.arcsin(eye[:, 2] / radius)), elevation, atol=0.02)
    turn = np.degrees(np.unwrap(np.arctan2(eye[:, 1], eye[:, 0])))
    np.testing.assert_allclose(np.diff(turn), 1.2, atol=1e-9)


def test_a_spiral_ends_near_and_low():
    samples = camera_paths.spiral_samples((400.0, 200.0), (70.0, 20.0), 1.5, 31)
    eye = camera_paths.poses_around((5.0, 6.0, 7.0), samples)[:, :3, 3] - [5.0, 6.0, 7.0]
    np.testing.assert_allclose(np.linalg.norm(eye[[0, -1]], axis=1), [400, 200])
    np.testing.assert_allclose(np.degrees(np.arcsin(eye[[0, -1], 2] / [400, 200])), [70, 20])
    azimuth = np.degrees(np.unwrap(np.arctan2(eye[:, 0], eye[:, 1])))
    np.testing.assert_allclose(azimuth[-1] - azimuth[0], 540.0)


def test_a_grid_covers_the_box_from_its_height():
    poses = camera_paths.grid_poses(BOX, 50.0, 150.0, 90.0)
    eye = poses[:, :3, 3]
    assert len(poses) == 5 * 3 and np.allclose(eye[:, 2], 150.0)
    np.testing.assert_allclose(eye[:, :2].min(0), [-100, -50])
    assert all(np.allclose(forward(pose), [0, 0, -1], atol=1e-5) for pose in poses)
    assert np.linalg.norm(np.diff(eye, axis=0), axis=1).max() <= 50.0 + 1e-9  # row by row, without jumps
    tilted = camera_paths.grid_poses(BOX, 50.0, 150.0, 30.0)[0]
    np.testing.assert_allclose(forward(tilted), [0, np.cos(np.radians(30)), -0.5], atol=1e-9)


def test_a_flight_follows_its_line_at_a_constant_speed():
    poses = camera_paths.flight_poses(np.array([[0, 0, 50.0], [100, 0, 50.0], [100, 300, 90.0]]), 41, 20.0)
    speed = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=1)
    assert np.quantile(speed, 0.1) == pytest.approx(np.quantile(speed, 0.9), rel=1e-6)
    np.testing.assert_allclose(forward(poses[0]), [np.cos(np.radians(20)), 0, -np.sin(np.radians(20))], atol=1e-9)
    np.testing.assert_allclose(forward(poses[-1]), [0, np.cos(np.radians(20)), -np.sin(np.radians(20))], atol=1e-9)
    poses = camera_paths.flight_poses(np.array([[0, 0, 50.0], [100, 0, 50.0]]), 3, 0.0, np.array([50.0, 80.0, 0.0]))
    for pose in poses:
        to_target = np.array([50.0, 80.0, 0.0]) - pose[:3, 3]
        np.testing.assert_allclose(forward(pose), to_target / np.linalg.norm(to_target), atol=1e-9)


def test_cameras_that_do_not_see_a_box_are_found():
    over, beside = np.array([0, 0, 300.0]), np.array([5000.0, 0, 300.0])
    down = [camera_paths.pitched_pose(eye, np.array([0.0, 1.0]), 90.0) for eye in (over, beside)]
    away = camera_paths.pitched_pose(np.array([0, 500.0, 50.0]), np.array([0.0, 1.0]), 0.0)
    seen = camera_paths.frames_that_see(np.stack([*down, away]), 40.0, 16 / 9, BOX)
    assert seen.tolist() == [True, False, False]


@pytest.fixture
def written(tmp_path):
    frame = LocalFrame("EPSG:32631", (374000.0, 4829000.0, 190.0))
    local = camera_paths.poses_around((10.0, 20.0, 0.0), camera_paths.published_samples("r352_e27", 8))
    model = local.copy()
    model[:, :3, 3] = (model[:, :3, 3] + [-3.0, 4.0, 0.0]) * 0.01
    data = path_with_georeference(model, 20.0, (64, 48), 12.0, frame, 0.01, np.array([-3.0, 4.0, 0.0]), True)
    path = tmp_path / "path.json"
    path.write_text(json.dumps(data))
    return path, frame, local


def test_a_georeferenced_path_is_read_back_in_meters(written):
    path, frame, local = written
    cameras = read_camera_path(path)
    assert cameras.frame == frame and cameras.size == (64, 48) and cameras.fps == 12.0
    np.testing.assert_allclose(cameras.local_poses(), local, atol=1e-9)


def test_nerfstudio_reads_a_georeferenced_path(written):
    from nerfstudio.cameras.camera_paths import get_path_from_json

    assert len(get_path_from_json(json.loads(written[0].read_text()))) == 8


def test_a_kml_tour_is_at_the_cameras_and_looks_at_the_target(written):
    _, frame, local = written
    root = ET.fromstring(kml_tour(local, frame, 4.0, "a & b").split("\n", 1)[1])
    space = {"k": "http://www.opengis.net/kml/2.2"}
    cameras = root.findall(".//k:Camera", space)
    assert len(cameras) == 8
    target = frame.to_geodetic(np.array([10.0, 20.0, 0.0]))
    enu = LocalFrame("topocentric", tuple(target.tolist()))
    for camera, pose in zip(cameras, local, strict=True):
        lon, lat, altitude, heading, tilt = (
            float(camera.find(f"k:{name}", space).text)
            for name in ("longitude", "latitude", "altitude", "heading", "tilt")
        )
        eye = enu.from_geodetic(np.array([lon, lat, frame.to_geodetic(pose[:3, 3])[2]]))
        assert altitude == pytest.approx(pose[2, 3], abs=1e-3)
        direction = np.array([np.sin(np.radians(heading)), np.cos(np.radians(heading))]) * np.sin(np.radians(tilt))
        direction = np.array([*direction, -np.cos(np.radians(tilt))])
        np.testing.assert_allclose(direction, -eye / np.linalg.norm(eye), atol=2e-3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"keyframes": [], "camera_path": []}', "has no keyframe, and a path needs two"),
        ('{"keyframes": [{}], "camera_path": []}', "has 1 keyframe, and a path needs two"),
        ('{"camera_path": [], "render_width": 4, "render_height": 4}', "has no frames"),
        ('{"frames": []}', "is not a camera path"),
        ("no json", "is not JSON"),
        ("[1]", "holds no JSON object"),
    ],
)
def test_paths_without_frames_are_errors_of_two_sentences(text, words, tmp_path):
    path = tmp_path / "path.json"
    path.write_text(text)
    with pytest.raises(SkyfallError, match=words) as raised:
        read_camera_path(path)
    assert str(raised.value).removeprefix(str(path)).count(". ") == 1


def test_lines_of_geojson(tmp_path):
    line = {"type": "LineString", "coordinates": [[1.0, 43.0], [1.1, 43.1, 250.0]]}
    collection = {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": line}]}
    for data in (line, collection, {"type": "Feature", "geometry": line}):
        (tmp_path / "line.geojson").write_text(json.dumps(data))
        assert read_geojson_line(tmp_path / "line.geojson") == [[1.0, 43.0], [1.1, 43.1, 250.0]]
    (tmp_path / "line.geojson").write_text('{"type": "Point", "coordinates": [1, 2]}')
    with pytest.raises(SkyfallError, match=r"has no LineString of at least two positions\. Draw"):
        read_geojson_line(tmp_path / "line.geojson")


def test_the_format_of_skyfall_gs():
    poses = camera_paths.poses_around((0.0, 0.0, 58.4), camera_paths.published_samples("r612_e78", 4))
    data = camera_path_files.skyfall_gs_path(poses, np.array([0.0, 0.0, 58.4]), 20.0, (1024, 1024), 30.0)
    assert data["_radius"] == pytest.approx(612.8825336, abs=1e-6)
    assert data["_elevation"] == pytest.approx(78.23171107, abs=1e-6)
    assert data["camera_path"][0]["fov"] == 20.0 and data["camera_type"] == "perspective"
