"""Initial Gaussians: discs on the surface, upright on walls, spheres without a normal."""

import math
from types import SimpleNamespace

import torch

from skyfall_ns.geo.surface_points import WALL_SPACING_FACTOR
from skyfall_ns.models.appearance.spherical_harmonics import SH_C0
from skyfall_ns.models.config import SkyfallModelOptions
from skyfall_ns.models.initialization import DISC_THICKNESS, disc_shapes, init_gaussians, init_parameters


def rotation_matrices(quats):
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]  # fmt: skip
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def test_discs_follow_their_normals_and_points_without_one_become_spheres():
    slope = torch.nn.functional.normalize(torch.tensor([-0.3, 0.2, 1.0]), dim=0)
    normals = torch.stack([torch.tensor([0.0, 0, 1]), torch.tensor([0.6, -0.8, 0]), slope, torch.zeros(3)])
    rgb = torch.tensor([[0, 128, 255]] * 4, dtype=torch.uint8)
    parameters = init_gaussians(torch.rand(4, 3), rgb, disc_shapes(normals.double().numpy(), 0.25), 0.6)
    rotations, scales = rotation_matrices(parameters["quats"]), parameters["scales"].exp()
    torch.testing.assert_close(rotations[:3, :, 2], normals[:3], atol=1e-5, rtol=0)
    assert rotations[:3, 2, 0].abs().max() < 1e-5  # the first axis is horizontal
    torch.testing.assert_close(scales[0], torch.tensor([0.25, 0.25, 0.25 * DISC_THICKNESS]))
    torch.testing.assert_close(scales[1], torch.tensor([0.25, 0.25 * WALL_SPACING_FACTOR, 0.25 * DISC_THICKNESS]))
    assert rotations[1, 2, 1].abs() > 0.999  # the long axis on a wall is upright
    torch.testing.assert_close(scales[3], torch.full((3,), 0.25))
    torch.testing.assert_close(parameters["opacities"].sigmoid(), torch.full((4, 1), 0.6))
    torch.testing.assert_close(0.5 + SH_C0 * parameters["features_dc"], rgb / 255)


def test_spheres_have_the_root_mean_square_distance_of_the_three_nearest_points():
    """As in 3D Gaussian splatting; two points in one place have the smallest size."""
    xyz = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 2], [9, 9, 9], [9, 9, 9], [9, 9, 9], [9, 9, 9]])
    normals, rgb = torch.tensor([[0.0, 0, 1]]).expand(8, 3), torch.zeros(8, 3, dtype=torch.uint8)
    normalized = SimpleNamespace(image_names=("a",) * 9, point_spacing_m=1.0, scale=0.01, band_count=3)
    options = SkyfallModelOptions(init_shape="sphere", init_scale=2.0, appearance="light")
    parameters = init_parameters(xyz, rgb, normals, normalized, options)
    scales = parameters["scales"].exp()
    torch.testing.assert_close(scales[0], torch.full((3,), 2 * math.sqrt((1 + 4 + 4) / 3)))
    torch.testing.assert_close(scales[1], torch.full((3,), 2 * math.sqrt((1 + 5 + 5) / 3)))
    assert (scales[4:] < 1e-5).all() and (scales[4:] > 0).all()
    torch.testing.assert_close(parameters["quats"][0], torch.tensor([1.0, 0, 0, 0]))
