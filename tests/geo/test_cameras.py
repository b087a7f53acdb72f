"""Satellite cameras: exact recovery, residuals on real RPCs, the displacement that makes the camera affine."""

import numpy as np
import pytest

from skyfall_ns.geo.cameras import AffineCamera, PinholeCamera, camera_from_dict, fit_camera
from skyfall_ns.geo.frame import LocalFrame
from skyfall_ns.geo.rpc_readers import read_rpc

BOX = np.array([[-130.0, -130, -30], [130, 130, 70]])


class CameraAsRPC:
    """A substitute for an RPC: a camera whose lon and lat are local meters."""

    def __init__(self, camera):
        self.project = camera.project


class IdentityFrame:
    """A substitute for a frame: the identity."""

    def to_geodetic(self, xyz):
        return xyz


def make_camera(seed=0, curved=True):
    rng = np.random.default_rng(seed)
    matrix = np.array([[1.9, 0.1, 0.6, 250.0], [0.05, -1.95, -0.3, 260.0]]) + 0.01 * rng.normal(size=(2, 4))
    return AffineCamera(matrix, 1e-6 * rng.normal(size=(2, 6)) if curved else None, (500, 520))


@pytest.mark.parametrize("model", ["affine", "quadratic"])
def test_cameras_of_each_model_are_recovered_exactly(model):
    truth = make_camera(curved=model == "quadratic")
    box = BOX + np.array([40.0, -25.0, 5.0])  # not around the origin: the terms mix
    fitted = fit_camera(CameraAsRPC(truth), IdentityFrame(), box, truth.size, model)
    assert fitted.model == model
    assert fitted.fit_px[1] < 1e-8
    np.testing.assert_allclose(fitted.matrix, truth.matrix, atol=1e-9)
    if model == "quadratic":
        np.testing.assert_allclose(fitted.quadratic, truth.quadratic, atol=1e-12)


def test_fit_residuals_of_real_rpcs(real_data):
    files = sorted(real_data.glob("*/images/*.tif"))
    assert len(files) >= 6
    for path in files:
        rpc = read_rpc(path)
        ground = 710.0 if "kahramanmaras" in str(path) else 60.0
        frame = LocalFrame.at_point(rpc.localize(np.array([250.0, 480.0]), ground))
        affine, quadratic = (fit_camera(rpc, frame, BOX, (500, 900), m) for m in ("affine", "quadratic"))
        assert affine.fit_px[1] <= 0.15, path
        assert quadratic.fit_px[1] <= 0.001, path
        assert 0.25 < quadratic.gsd_m() < 0.7


def test_the_affine_part_projects_displaced_points_to_the_quadratic_pixel():
    camera = make_camera()
    xyz = np.random.default_rng(1).uniform(*BOX, (100, 3))
    displaced = xyz + camera.quadratic_displacement_m(xyz)
    affine = displaced @ camera.matrix[:, :3].T + camera.matrix[:, 3]
    np.testing.assert_allclose(affine, camera.project(xyz), atol=1e-10)


def test_the_view_direction_does_not_change_pixels_and_points_up():
    camera = make_camera(curved=False)
    up = camera.view_direction()
    assert np.linalg.norm(up) == pytest.approx(1) and up[2] > 0.9
    np.testing.assert_allclose(camera.project(50 * up), camera.project(np.zeros(3)), atol=1e-9)


def test_gsd_of_a_nadir_view():
    camera = AffineCamera(np.array([[2.0, 0, 0, 0], [0, -2.0, 0, 0]]), None, (10, 10))
    assert camera.gsd_m() == pytest.approx(0.5)


def test_the_camera_in_model_space_is_the_same_view():
    camera, center, scale = make_camera(), np.array([12.0, -40.0, 3.0]), 0.01
    xyz = np.random.default_rng(2).uniform(*BOX, (50, 3))
    np.testing.assert_allclose(
        camera.to_model_space(center, scale).project((xyz - center) * scale), camera.project(xyz), atol=1e-9
    )


def test_pinhole_projection():
    camera = PinholeCamera(np.eye(4), np.array([[100.0, 0, 50], [0, 100, 40], [0, 0, 1]]), (100, 80))
    np.testing.assert_allclose(camera.project(np.array([1.0, 2, 10])), [60, 60])
    assert np.isnan(camera.project(np.array([0, 0, -1.0]))).all()


def test_dictionary_round_trip_and_rejection():
    pinhole = PinholeCamera(np.eye(4), np.eye(3), (3, 4))
    for camera in (make_camera(), make_camera(curved=False), pinhole):
        restored = camera_from_dict(camera.to_dict())
        xyz = np.array([[1.0, 2, 3]])
        np.testing.assert_array_equal(restored.project(xyz), camera.project(xyz))
        assert restored.size == camera.size
    for damaged in ({"model": "fisheye"}, {"matrix": [[1, 2], [3, 4]]}, {"matrix": [[np.nan] * 4] * 2}):
        with pytest.raises(ValueError, match="camera"):
            camera_from_dict(make_camera().to_dict() | damaged)
