"""3D filter: the reference's formula with its defect removed, and the defect itself as a check."""

import math

import pytest
import torch

from skyfall_ns.models.filter3d import apply_filter, sampling_distance, smoothing_radius

SATELLITE = (620_000.0, 2_000_000.0)  # distance m, focal px: GSD 0.31 m
PSEUDO = (250.0, 887.0)


def pinhole(distance: float, focal: float, size: int = 1024):
    camera = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    camera[2, 3] = distance
    k = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float64)
    return camera, k, size, size, "pinhole"


def test_min_is_over_cameras_of_the_same_camera():
    means = torch.zeros(1, 3, dtype=torch.float64)
    radius = smoothing_radius([sampling_distance(means, *pinhole(*c)) for c in (SATELLITE, PSEUDO)])
    assert radius.item() == pytest.approx(math.sqrt(0.2) * min(0.31, 250 / 887), rel=1e-9)
    defect = math.sqrt(0.2) * PSEUDO[0] / SATELLITE[1]
    assert defect < 1e-3 * radius.item()  # the reference's mix of two cameras switches the filter off


def test_parallel_view_gives_the_gsd():
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3, :3] = torch.tensor([[2.0, 0, 0], [0, -2.0, 0], [0, 0, -1]])
    camera[2, 3] = 100
    k = torch.eye(3, dtype=torch.float64)
    k[:2, 2] = 50
    means = torch.tensor([[0.0, 0, 0], [1000.0, 0, 0]], dtype=torch.float64)
    distance = sampling_distance(means, camera, k, 100, 100, "parallel")
    assert distance[0].item() == pytest.approx(0.5)
    assert distance[1].isinf()


def test_unseen_gaussians_get_the_largest_seen():
    radius = smoothing_radius([torch.tensor([1.0, 3.0, torch.inf])])
    torch.testing.assert_close(radius, math.sqrt(0.2) * torch.tensor([1.0, 3.0, 3.0]))


def test_filter_keeps_the_peak_mass():
    scales, opacities, radius = torch.rand(5, 3) + 0.1, torch.rand(5), torch.rand(5)
    wider, lower = apply_filter(scales, opacities, radius)
    torch.testing.assert_close(lower * wider.prod(-1), opacities * scales.prod(-1))
    torch.testing.assert_close(wider**2 - scales**2, (radius**2)[:, None].expand(5, 3))
