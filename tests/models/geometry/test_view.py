"""Views: satellite rows, half pixels, axes, and the bend that makes quadratic cameras exact."""

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from skyfall_ns.geo.cameras import AffineCamera
from skyfall_ns.models.geometry.view import View, bend, nadir_view, parallel_view, points_of, view_of
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer
from skyfall_ns.scene.model_space import DEPTH_OFFSET, satellite_rows


def camera():
    rng = np.random.default_rng(0)
    matrix = np.array([[190.0, 10.0, 60.0, 25.0], [5.0, -195.0, -30.0, 26.0]])
    return AffineCamera(matrix, 0.3 * rng.normal(size=(2, 6)), (50, 52))


def view():
    rows, quadratic = (torch.from_numpy(v) for v in satellite_rows(camera()))
    return parallel_view(rows.reshape(3, 4), quadratic.reshape(2, 6), 50, 52)


def colrow(means, view: View):
    """Pixels as files count them: the first centre is (0, 0)."""
    seen = means @ view.camera_from_model[:3, :3].T + view.camera_from_model[:3, 3]
    return seen[:, :2] + view.intrinsics[:2, 2] - 0.5, seen[:, 2]


def test_bent_means_land_on_the_quadratic_cameras_pixels():
    means = torch.rand(100, 3, dtype=torch.float64) * 0.3
    pixels, depth = colrow(bend(means, view()), view())
    np.testing.assert_allclose(pixels.numpy(), camera().project(means.numpy()), atol=1e-9)
    assert (depth > 0).all()


def test_bend_has_gradients_and_leaves_affine_views_alone():
    means = torch.rand(5, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda m: bend(m, view()), (means,))
    rows = torch.from_numpy(satellite_rows(camera())[0]).reshape(3, 4)
    assert bend(means, parallel_view(rows, None, 5, 5)) is means


def test_pixels_and_depths_are_points():
    """The round trip of both projections; the bend of 0.02 px is undone."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[
        0
    ]
    pose[:3, 3] = torch.tensor([0.1, -0.2, 3.0])
    intrinsics = torch.tensor([[60.0, 0, 24], [0, 70, 26], [0, 0, 1]], dtype=torch.float64)
    for seen, within_px in ((view(), 1e-3), (View(pose, intrinsics, 50, 52, "pinhole"), 1e-9)):
        depth = DEPTH_OFFSET + torch.rand(seen.height, seen.width, dtype=torch.float64) * 0.2
        points = points_of(seen, depth).reshape(-1, 3)
        placed = bend(points, seen) @ seen.camera_from_model[:3, :3].T + seen.camera_from_model[:3, 3]
        if seen.projection == "pinhole":
            pixels = placed @ seen.intrinsics.T / placed[:, 2:]
        else:
            pixels = placed + torch.nn.functional.pad(seen.intrinsics[:2, 2], (0, 1))
        y, x = torch.meshgrid(torch.arange(52) + 0.5, torch.arange(50) + 0.5, indexing="ij")
        expected = torch.stack([x, y], -1).reshape(-1, 2).double()
        assert (pixels[:, :2] - expected).abs().max() < within_px
        assert (placed[:, 2] - depth.flatten()).abs().max() < 1e-3


def test_nadir_depth_is_height():
    top = nadir_view(x_min=-1.0, y_max=2.0, cell=0.5, width=4, height=6)
    means = torch.tensor([[-0.75, 1.75, 0.3]], dtype=torch.float64)  # the middle of the first cell
    pixels, depth = colrow(means, top)
    torch.testing.assert_close(pixels, torch.zeros(1, 2, dtype=torch.float64))
    assert depth.item() == pytest.approx(DEPTH_OFFSET - 0.3)


def test_pinholes_flip_from_opengl():
    pose = torch.eye(4)[:3].clone()
    pose[2, 3] = 5.0  # looking down -z from z = 5
    host = Cameras(pose[None], 100.0, 100.0, 32.0, 24.0, 64, 48, camera_type=CameraType.PERSPECTIVE)
    seen = view_of(host[0:1])
    assert seen.projection == "pinhole"
    point = seen.camera_from_model @ torch.tensor([0.0, 1.0, 0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(point[:3], torch.tensor([0.0, -1.0, 5.0], dtype=torch.float64))  # up is -y


def test_one_gaussian_appears_where_the_adjusted_rpc_says(city_scene):
    """A splat at a known lon, lat, height: its brightest spot in every view, against the RPC, within 0.05 px."""
    from skyfall_ns.dataparsers.skyfall_dataparser import SkyfallDataParserConfig
    from skyfall_ns.geo.frame import LocalFrame
    from skyfall_ns.geo.rpc import RPC
    from skyfall_ns.scene.scene import Scene

    scene = Scene.load(city_scene)
    frame = LocalFrame.from_dict(scene.frame)
    for split in ("train", "test"):
        outputs = SkyfallDataParserConfig(data=city_scene).setup().get_dataparser_outputs(split)
        on_model = outputs.metadata["scene_on_model"]
        local = np.array([7.3, -11.8, 9.0])
        lonlath = frame.to_geodetic(local)
        mean = torch.from_numpy((local - on_model.centre_m) * on_model.scale).float()[None]
        size = 1.5 * on_model.scale
        for index, image in enumerate(outputs.metadata["scene_images"]):
            satellite = view_of(outputs.cameras[index : index + 1])
            splat = Gaussians(
                bend(mean, satellite), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), size), torch.ones(1)
            )
            alpha = pick_rasterizer("cpu")(splat, torch.ones(1, 3), satellite).alpha.detach().double().numpy()
            rows, columns = np.mgrid[: alpha.shape[0], : alpha.shape[1]]
            centre = np.array([(alpha * columns).sum(), (alpha * rows).sum()]) / alpha.sum()
            expected = RPC.from_dict(image.rpc).project(lonlath)
            assert np.abs(centre - expected).max() < 0.05, image.name
