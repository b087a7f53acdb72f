"""Discs lie on the surface, walls stand upright, and points without a normal are balls."""

import torch

from skyfall_ns.geo.surface_points import WALL_SPACINGS
from skyfall_ns.models.appearance.spherical_harmonics import SH_C0
from skyfall_ns.models.initialization import THICKNESS, start_splats


def axes(quats):
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]  # fmt: skip
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def test_discs_follow_their_normals():
    slope = torch.nn.functional.normalize(torch.tensor([-0.3, 0.2, 1.0]), dim=0)
    normals = torch.stack([torch.tensor([0.0, 0, 1]), torch.tensor([0.6, -0.8, 0]), slope, torch.zeros(3)])
    rgb = torch.tensor([[0, 128, 255]] * 4, dtype=torch.uint8)
    start = start_splats(torch.rand(4, 3), rgb, normals, 0.25, 0.6)
    turned, scales = axes(start["quats"]), start["scales"].exp()
    torch.testing.assert_close(turned[:3, :, 2], normals[:3], atol=1e-5, rtol=0)
    assert turned[:3, 2, 0].abs().max() < 1e-5  # the first axis is level
    torch.testing.assert_close(scales[0], torch.tensor([0.25, 0.25, 0.25 * THICKNESS]))
    torch.testing.assert_close(scales[1], torch.tensor([0.25, 0.25 * WALL_SPACINGS, 0.25 * THICKNESS]))
    assert turned[1, 2, 1].abs() > 0.999  # a wall's long axis is upright
    torch.testing.assert_close(scales[3], torch.full((3,), 0.25))
    torch.testing.assert_close(start["opacities"].sigmoid(), torch.full((4, 1), 0.6))
    torch.testing.assert_close(0.5 + SH_C0 * start["features_dc"], rgb / 255)
