"""Spherical harmonics of degree one against gsplat's, and view directions against geometry."""

import torch
from gsplat.cuda._torch_impl import _spherical_harmonics

from skyfall_ns.models.appearance.spherical_harmonics import SH_C0, eval_sh1, view_directions
from skyfall_ns.view import View, nadir_view


def test_colors_equal_those_of_gsplat():
    torch.manual_seed(0)
    directions = torch.nn.functional.normalize(torch.randn(50, 3), dim=-1)
    coefficients = torch.randn(50, 4, 3)
    expected = _spherical_harmonics(1, directions, coefficients)
    ours = SH_C0 * coefficients[:, 0] + eval_sh1(coefficients[:, 1:], directions)
    torch.testing.assert_close(ours, expected)


def test_view_directions_point_down_in_a_nadir_view_and_away_from_a_pinhole():
    means = torch.randn(7, 3)
    down = view_directions(means, nadir_view(-1.0, 1.0, 0.1, 20, 20))
    torch.testing.assert_close(down, torch.tensor([0.0, 0, -1]).expand(7, 3))
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3, 3] = torch.tensor([0.0, 0, 5])  # its center is at z = -5
    directions = view_directions(means, View(camera, torch.eye(3, dtype=torch.float64), 10, 10, "pinhole"))
    expected = torch.nn.functional.normalize(means - torch.tensor([0.0, 0, -5]), dim=-1)
    torch.testing.assert_close(directions, expected)
