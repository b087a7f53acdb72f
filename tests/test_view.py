"""Views: satellite rows, half pixels, axes, and the quadratic term of satellite cameras."""

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from skyfall_ns.dataparsers.camera_metadata import view_from_camera
from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer
from skyfall_ns.scene.model_space import DEPTH_OFFSET, satellite_rows
from skyfall_ns.view import View, apply_quadratic_term, nadir_view, parallel_view, unproject_depth


def affine_camera():
    rng = np.random.default_rng(0)
    matrix = np.array([[190.0, 10.0, 60.0, 25.0], [5.0, -195.0, -30.0, 26.0]])
    return AffineCamera(matrix, 0.3 * rng.normal(size=(2, 6)), (50, 52))


def satellite_view():
    rows, quadratic = (torch.from_numpy(v) for v in satellite_rows(affine_camera()))
    return parallel_view(rows.reshape(3, 4), quadratic.reshape(2, 6), 50, 52)


def project_to_file_pixels(means, view: View):
    """Pixels and depths of means; the center of the first pixel is (0, 0) as in files."""
    projected = means @ view.camera_from_model[:3, :3].T + view.camera_from_model[:3, 3]
    return projected[:, :2] + view.intrinsics[:2, 2] - 0.5, projected[:, 2]


def test_displaced_means_have_the_pixels_of_the_quadratic_camera():
    means = torch.rand(100, 3, dtype=torch.float64) * 0.3
    pixels, depth = project_to_file_pixels(apply_quadratic_term(means, satellite_view()), satellite_view())
    np.testing.assert_allclose(pixels.numpy(), affine_camera().project(means.numpy()), atol=1e-9)
    assert (depth > 0).all()


def test_the_quadratic_term_has_gradients_and_is_skipped_in_affine_views():
    means = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: apply_quadratic_term(m, satellite_view()), (means,))
    rows = torch.from_numpy(satellite_rows(affine_camera())[0]).reshape(3, 4)
    assert apply_quadratic_term(means, parallel_view(rows, None, 5, 5)) is means


def test_unprojected_depths_project_to_their_pixels():
    """The round trip of both projections; the quadratic term of 0.02 px is inverted."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[
        0
    ]
    pose[:3, 3] = torch.tensor([0.1, -0.2, 3.0])
    intrinsics = torch.tensor([[60.0, 0, 24], [0, 70, 26], [0, 0, 1]], dtype=torch.float64)
    for view, within_px in ((satellite_view(), 1e-3), (View(pose, intrinsics, 50, 52, "pinhole"), 1e-9)):
        depth = DEPTH_OFFSET + torch.rand(view.height, view.width, dtype=torch.float64) * 0.2
        points = unproject_depth(view, depth).reshape(-1, 3)
        projected = (
            apply_quadratic_term(points, view) @ view.camera_from_model[:3, :3].T + view.camera_from_model[:3, 3]
        )
        if view.projection == "pinhole":
            pixels = projected @ view.intrinsics.T / projected[:, 2:]
        else:
            pixels = projected + torch.nn.functional.pad(view.intrinsics[:2, 2], (0, 1))
        y, x = torch.meshgrid(torch.arange(52) + 0.5, torch.arange(50) + 0.5, indexing="ij")
        expected = torch.stack([x, y], -1).reshape(-1, 2).double()
        assert (pixels[:, :2] - expected).abs().max() < within_px
        assert (projected[:, 2] - depth.flatten()).abs().max() < 1e-3


def test_the_depth_of_a_nadir_view_is_the_height():
    view = nadir_view(x_min=-1.0, y_max=2.0, cell=0.5, width=4, height=6)
    means = torch.tensor([[-0.75, 1.75, 0.3]], dtype=torch.float64)  # the middle of the first cell
    pixels, depth = project_to_file_pixels(means, view)
    torch.testing.assert_close(pixels, torch.zeros(1, 2, dtype=torch.float64))
    assert depth.item() == pytest.approx(DEPTH_OFFSET - 0.3)


def test_pinholes_are_converted_from_opengl():
    pose = torch.eye(4)[:3].clone()
    pose[2, 3] = 5.0  # looking down -z from z = 5
    nerfstudio_camera = Cameras(pose[None], 100.0, 100.0, 32.0, 24.0, 64, 48, camera_type=CameraType.PERSPECTIVE)
    view = view_from_camera(nerfstudio_camera[0:1])
    assert view.projection == "pinhole"
    point = view.camera_from_model @ torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(point[:3], torch.tensor([0.0, -1.0, 5.0], dtype=torch.float64))  # up is -y


def test_a_gaussian_appears_at_the_pixel_of_the_adjusted_rpc(city_scene):
    """A Gaussian at a known lon, lat, height: its centroid in every view, against the RPC, within 0.05 px."""
    from skyfall_ns.dataparsers.skyfall_dataparser import SkyfallDataParserConfig
    from skyfall_ns.geo.rpc import RPC
    from skyfall_ns.scene.scene import Scene

    scene = Scene.from_directory(city_scene)
    frame = scene.frame
    for split in ("train", "test"):
        outputs = SkyfallDataParserConfig(data=city_scene).setup().get_dataparser_outputs(split)
        normalized = outputs.metadata["normalized_scene"]
        local = np.array([7.3, -11.8, 9.0])
        lonlath = frame.to_geodetic(local)
        mean = torch.from_numpy((local - normalized.center_m) * normalized.scale).float()[None]
        size = 1.5 * normalized.scale
        for index, image in enumerate(outputs.metadata["scene_images"]):
            satellite = view_from_camera(outputs.cameras[index : index + 1])
            gaussian = Gaussians(
                apply_quadratic_term(mean, satellite),
                torch.tensor([[1.0, 0, 0, 0]]),
                torch.full((1, 3), size),
                torch.ones(1),
            )
            alpha = pick_rasterizer("cpu")(gaussian, torch.ones(1, 3), satellite).alpha.detach().double().numpy()
            rows, columns = np.mgrid[: alpha.shape[0], : alpha.shape[1]]
            center = np.array([(alpha * columns).sum(), (alpha * rows).sum()]) / alpha.sum()
            expected = RPC.from_dict(image.rpc).project(lonlath)
            assert np.abs(center - expected).max() < 0.05, image.name
