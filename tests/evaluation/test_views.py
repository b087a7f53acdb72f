"""Scores against ground-truth images: frames, pixels and the scored area in closed form; damaged truths are refused."""

import json

import numpy as np
import pytest

from skyfall_ns.errors import SceneError
from skyfall_ns.evaluation.views import ROOF_HEIGHT_M, GroundTruth, Similarity, footprint_mask
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.view import view_from_pinhole

SCENE = LocalFrame("EPSG:32631", (374398.0, 4829124.0, 188.4))
BOX = np.array([[-96.0, -90.0, -10.0], [96.0, 102.0, 60.0]])
PLACE = np.array([1.4437, 43.6045, 190.0])


def camera_from_south(elevation_deg: float, distance_m: float, size=(96, 96), focal: float = 120.0) -> PinholeCamera:
    """A camera that points from the south at the frame's origin."""
    e = np.radians(elevation_deg)
    rotation = np.array([[1, 0, 0], [0, -np.sin(e), -np.cos(e)], [0, np.cos(e), -np.sin(e)]])
    camera = np.eye(4)
    camera[:3, :3], camera[2, 3] = rotation, distance_m
    middle = [(n - 1) / 2 for n in size]
    return PinholeCamera(camera, np.array([[focal, 0, middle[0]], [0, focal, middle[1]], [0, 0, 1.0]]), size)


@pytest.mark.parametrize(
    ("target", "tolerance_px"),
    [
        (SCENE, 1e-9),
        (LocalFrame("EPSG:32631", (374300.0, 4829200.0, 150.0)), 1e-9),
        (LocalFrame.at_point(PLACE, "EPSG:32630"), 0.05),  # turned by degrees, wider than high
        (LocalFrame.at_point(PLACE, "topocentric"), 0.01),
    ],
)
def test_images_of_other_frames_show_the_same_points(target, tolerance_px):
    """Through degrees and the file's camera, and through model space and the rasterizer's: half a pixel apart."""
    alignment, shift = Similarity.fit_between(SCENE, target, BOX), (1.5, -0.5, 0.25)
    camera = camera_from_south(35.0, 230.0)
    local = np.random.default_rng(0).uniform(BOX[0], BOX[1], (200, 3))
    expected = camera.project(target.from_geodetic(SCENE.to_geodetic(local)) + shift)
    center, scale = np.array([3.0, 5.0, 0.0]), 0.01
    view = view_from_pinhole(alignment.with_shift(shift).camera_in_source(camera), center, scale)
    in_camera = ((local - center) * scale) @ view.camera_from_model[:3, :3].numpy().T + view.camera_from_model[
        :3, 3
    ].numpy()
    colrow = (in_camera / in_camera[:, 2:]) @ view.intrinsics[:2].numpy().T
    np.testing.assert_allclose(colrow - 0.5, expected, atol=tolerance_px)
    linear = view.camera_from_model[:3, :3].numpy()
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-12)  # rasterizers expect a rotation


def test_from_above_the_scored_area_is_the_footprint():
    """600 m above a square of 192 m: 192 * 120 / 600 pixels, the center of the box six meters north of the camera."""
    mask = footprint_mask(camera_from_south(90.0, 600.0), BOX)
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    assert (columns[0], columns[-1]) == (29, 66)  # |column - 47.5| <= 19.2
    assert (rows[0], rows[-1]) == (28, 65)  # -102 / 5 <= row - 47.5 <= 90 / 5
    assert mask.sum() == 38 * 38


def test_from_the_side_roofs_in_front_of_the_box_are_left_out():
    camera, elevation = camera_from_south(30.0, 300.0, (9, 400), 300.0), np.radians(30.0)
    rows = footprint_mask(camera, BOX)[:, 4].nonzero()[0]
    near, far = BOX[0, 1] + ROOF_HEIGHT_M / np.tan(elevation), BOX[1, 1]
    for y, row in ((near, rows[-1]), (far, rows[0])):
        exact = camera.project(np.array([0.0, y, 0.0]))[1]
        # rays get steeper toward the camera, so the near edge is a little nearer than the central elevation gives
        assert abs(exact - row) < (1.0 if y == far else 6.0)
    above_footprint = footprint_mask(camera, BOX)[: rows[0]]
    assert not above_footprint.any()


def test_no_pixel_of_the_sky_is_scored():
    assert not footprint_mask(camera_from_south(-5.0, 300.0), BOX)[:48].any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"has no cameras\.json\. Pass a directory"),
        ("{", r"cameras\.json is damaged \(JSONDecodeError.*\)\. Pass"),
        ("[]", r"cameras\.json is damaged \(TypeError.*\)\. Pass"),
        ('{"frame": {"crs": "EPSG:32631", "origin": [0, 0, 0]}, "views": []}', r"lists no views\. Pass"),
        ('{"frame": {"crs": "EPSG:32631", "origin": [0, 0, 0]}, "views": [{"file": "a"}]}', r"KeyError: 'size'"),
    ],
)
def test_damaged_truths_are_refused(text, words, tmp_path):
    if text is not None:
        (tmp_path / "cameras.json").write_text(text)
    with pytest.raises(SceneError, match=words):
        GroundTruth.from_directory(tmp_path)


def test_images_of_another_size_are_refused(city_scene, tmp_path):
    data = json.loads((city_scene / "truth/oblique/cameras.json").read_text())
    (tmp_path / "cameras.json").write_text(json.dumps(data))
    view = GroundTruth.from_directory(tmp_path).views[0]
    with pytest.raises(SceneError, match=r"e60_a030\.png is damaged or of another size than cameras\.json says\. Pass"):
        view.read_image()
