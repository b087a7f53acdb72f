"""Satellite cameras: exact recovery, residuals on real RPCs, the shift that makes the quadratic camera affine."""

import numpy as np
import pytest

from skyfall_ns.geo.cameras import AffineCamera, PinholeCamera, camera_from_dict, fit_camera
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.rpc import RPC

BOX = np.array([[-130.0, -130, -30], [130, 130, 70]])


class Exactly:
    """A stand-in for an RPC: pixels by a camera, lon and lat being local metres."""

    def __init__(self, camera):
        self.project = camera.project


class Same:
    """A stand-in for a frame that changes nothing."""

    def to_geodetic(self, xyz):
        return xyz


def random_camera(seed=0, curved=True):
    rng = np.random.default_rng(seed)
    matrix = np.array([[1.9, 0.1, 0.6, 250.0], [0.05, -1.95, -0.3, 260.0]]) + 0.01 * rng.normal(size=(2, 4))
    return AffineCamera(matrix, 1e-6 * rng.normal(size=(2, 6)) if curved else None, (500, 520))


@pytest.mark.parametrize("model", ["affine", "quadratic"])
def test_recovers_its_own_kind_exactly(model):
    truth = random_camera(curved=model == "quadratic")
    box = BOX + np.array([40.0, -25.0, 5.0])  # not around the origin: the terms mix
    fitted = fit_camera(Exactly(truth), Same(), box, truth.size, model)
    assert fitted.model == model
    assert fitted.fit_px[1] < 1e-8
    np.testing.assert_allclose(fitted.matrix, truth.matrix, atol=1e-9)
    if model == "quadratic":
        np.testing.assert_allclose(fitted.quadratic, truth.quadratic, atol=1e-12)


def test_real_rpcs(real_data):
    files = sorted(real_data.glob("*/images/*.tif"))
    assert len(files) >= 6
    for path in files:
        rpc = RPC.from_file(path)
        ground = 710.0 if "kahramanmaras" in str(path) else 60.0
        frame = LocalFrame.at(rpc.localize(np.array([250.0, 480.0]), ground))
        affine, quadratic = (fit_camera(rpc, frame, BOX, (500, 900), m) for m in ("affine", "quadratic"))
        assert affine.fit_px[1] <= 0.15, path
        assert quadratic.fit_px[1] <= 0.001, path
        assert 0.25 < quadratic.gsd_m() < 0.7


def test_shift_makes_the_affine_part_answer_the_quadratic_pixel():
    camera = random_camera()
    xyz = np.random.default_rng(1).uniform(*BOX, (100, 3))
    moved = xyz + camera.shift_m(xyz)
    affine = moved @ camera.matrix[:, :3].T + camera.matrix[:, 3]
    np.testing.assert_allclose(affine, camera.project(xyz), atol=1e-10)


def test_view_direction_moves_no_pixel_and_points_up():
    camera = random_camera(curved=False)
    up = camera.view_direction()
    assert np.linalg.norm(up) == pytest.approx(1) and up[2] > 0.9
    np.testing.assert_allclose(camera.project(50 * up), camera.project(np.zeros(3)), atol=1e-9)


def test_gsd_of_a_nadir_view():
    camera = AffineCamera(np.array([[2.0, 0, 0, 0], [0, -2.0, 0, 0]]), None, (10, 10))
    assert camera.gsd_m() == pytest.approx(0.5)


def test_model_space_is_the_same_view():
    camera, centre, scale = random_camera(), np.array([12.0, -40.0, 3.0]), 0.01
    xyz = np.random.default_rng(2).uniform(*BOX, (50, 3))
    np.testing.assert_allclose(
        camera.after(centre, scale).project((xyz - centre) * scale), camera.project(xyz), atol=1e-9
    )


def test_pinhole():
    camera = PinholeCamera(np.eye(4), np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]), (100, 80))
    np.testing.assert_allclose(camera.project(np.array([1.0, 2, 10])), [60, 60])
    assert np.isnan(camera.project(np.array([0, 0, -1.0]))).all()


def test_dictionaries():
    pinhole = PinholeCamera(np.eye(4), np.eye(3), (3, 4))
    for camera in (random_camera(), random_camera(curved=False), pinhole):
        again = camera_from_dict(camera.to_dict())
        xyz = np.array([[1.0, 2, 3]])
        np.testing.assert_array_equal(again.project(xyz), camera.project(xyz))
        assert again.size == camera.size
    for broken in ({"model": "fisheye"}, {"matrix": [[1, 2], [3, 4]]}, {"matrix": [[np.nan] * 4] * 2}):
        with pytest.raises(ValueError, match="camera"):
            camera_from_dict(random_camera().to_dict() | broken)
