"""True pictures and runs: frames, pixels and the scored part against closed forms; damaged truths are refused."""

import json

import numpy as np
import pytest

from skyfall_ns.errors import SceneError
from skyfall_ns.evaluation.views import ROOFS_M, Similarity, Truth, over_box
from skyfall_ns.geo.cameras import PinholeCamera
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.models.geometry.view import model_view

SCENE = LocalFrame("EPSG:32631", (374398.0, 4829124.0, 188.4))
BOX = np.array([[-96.0, -90.0, -10.0], [96.0, 102.0, 60.0]])
PLACE = np.array([1.4437, 43.6045, 190.0])


def looking(elevation_deg: float, distance_m: float, size=(96, 96), focal: float = 120.0) -> PinholeCamera:
    """From the south onto the frame's origin."""
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
        (LocalFrame.at(PLACE, "EPSG:32630"), 0.05),  # turned by degrees, wider than high
        (LocalFrame.at(PLACE, "topocentric"), 0.01),
    ],
)
def test_pictures_of_other_frames_show_the_same_points(target, tolerance_px):
    """By way of degrees and the file's camera, or by way of model space and the rasterizer's: half a pixel apart."""
    move, shift = Similarity.between(SCENE, target, BOX), (1.5, -0.5, 0.25)
    camera = looking(35.0, 230.0)
    local = np.random.default_rng(0).uniform(BOX[0], BOX[1], (200, 3))
    expected = camera.project(target.from_geodetic(SCENE.to_geodetic(local)) + shift)
    centre, scale = np.array([3.0, 5.0, 0.0]), 0.01
    view = model_view(move.then(shift).camera(camera), centre, scale)
    seen = ((local - centre) * scale) @ view.camera_from_model[:3, :3].numpy().T + view.camera_from_model[:3, 3].numpy()
    colrow = (seen / seen[:, 2:]) @ view.intrinsics[:2].numpy().T
    np.testing.assert_allclose(colrow - 0.5, expected, atol=tolerance_px)
    linear = view.camera_from_model[:3, :3].numpy()
    np.testing.assert_allclose(linear @ linear.T, np.eye(3), atol=1e-12)  # rasterizers want a rotation


def test_from_above_the_scored_part_is_the_footprint():
    """600 m above a square of 192 m: 192 * 120 / 600 pixels, the middle of the box six metres north of the eye."""
    mask = over_box(looking(90.0, 600.0), BOX)
    rows, columns = mask.any(1).nonzero()[0], mask.any(0).nonzero()[0]
    assert (columns[0], columns[-1]) == (29, 66)  # |column - 47.5| <= 19.2
    assert (rows[0], rows[-1]) == (28, 65)  # -102 / 5 <= row - 47.5 <= 90 / 5
    assert mask.sum() == 38 * 38


def test_from_the_side_roofs_before_the_box_are_left_out():
    camera, elevation = looking(30.0, 300.0, (9, 400), 300.0), np.radians(30.0)
    rows = over_box(camera, BOX)[:, 4].nonzero()[0]
    near, far = BOX[0, 1] + ROOFS_M / np.tan(elevation), BOX[1, 1]
    for y, row in ((near, rows[-1]), (far, rows[0])):
        exact = camera.project(np.array([0.0, y, 0.0]))[1]
        # rays steepen towards the eye, so that the near edge is a little nearer than by the middle's elevation
        assert abs(exact - row) < (1.0 if y == far else 6.0)
    behind = over_box(camera, BOX)[: rows[0]]
    assert not behind.any()


def test_nothing_is_scored_in_the_sky():
    assert not over_box(looking(-5.0, 300.0), BOX)[:48].any()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"holds no cameras\.json\. Pass a folder"),
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
        Truth.load(tmp_path)


def test_pictures_of_another_size_are_refused(city_scene, tmp_path):
    data = json.loads((city_scene / "truth/oblique/cameras.json").read_text())
    (tmp_path / "cameras.json").write_text(json.dumps(data))
    view = Truth.load(tmp_path).views[0]
    with pytest.raises(SceneError, match=r"e60_a030\.png is damaged or of another size than cameras\.json says\. Pass"):
        view.picture()
