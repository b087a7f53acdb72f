"""3D filter: the formula of the reference without its defect, and the defect for comparison."""

import math

import pytest
import torch

from skyfall_ns.models.geometry.filter_3d import (
    UPDATE_EVERY,
    SmoothingFilter,
    apply_filter,
    sampling_distance,
    smoothing_radius,
)
from skyfall_ns.view import nadir_view

SATELLITE = (620_000.0, 2_000_000.0)  # distance m, focal px: GSD 0.31 m
PSEUDO = (250.0, 887.0)


def pinhole_view(distance: float, focal: float, size: int = 1024):
    camera = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64))
    camera[2, 3] = distance
    k = torch.tensor([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], dtype=torch.float64)
    return camera, k, size, size, "pinhole"


def test_the_finest_distance_is_that_of_a_single_camera():
    means = torch.zeros(1, 3, dtype=torch.float64)
    radius = smoothing_radius([sampling_distance(means, *pinhole_view(*c)) for c in (SATELLITE, PSEUDO)])
    assert radius.item() == pytest.approx(math.sqrt(0.2) * min(0.31, 250 / 887), rel=1e-9)
    assert reference_radius([SATELLITE, PSEUDO]) < 1e-3 * radius.item()


def reference_radius(cameras: list[tuple[float, float]]) -> float:
    """Skyfall-GS' formula: the nearest depth of one camera over the longest focal length of another."""
    return math.sqrt(0.2) * min(z for z, _ in cameras) / max(f for _, f in cameras)


def test_radii_of_jax_167():
    """The example of SatelliteSfM: 0.310 to 0.361 m per pixel, focal lengths up to 5.6e6 px, depths that differ by a
    factor of five: 0.139 m of smoothing, of which the reference leaves 0.032 m, and 0.02 mm beside refined views."""
    far = 5.6e6 * 0.361
    satellites = [(0.0716 * 5.6e6, 0.0716 * 5.6e6 / 0.310), (far, 5.6e6)]
    means = torch.zeros(1, 3, dtype=torch.float64)
    radius = smoothing_radius([sampling_distance(means, *pinhole_view(*c)) for c in satellites]).item()
    assert radius == pytest.approx(0.139, abs=5e-4)
    assert reference_radius(satellites) == pytest.approx(0.032, abs=5e-4)
    assert reference_radius([*satellites, PSEUDO]) == pytest.approx(2e-5, rel=5e-2)
    with_refined = smoothing_radius([sampling_distance(means, *pinhole_view(*c)) for c in (*satellites, PSEUDO)]).item()
    assert with_refined == pytest.approx(math.sqrt(0.2) * 250 / 887, rel=1e-9)


def test_the_sampling_distance_of_a_parallel_view_is_the_gsd():
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3, :3] = torch.tensor([[2.0, 0, 0], [0, -2.0, 0], [0, 0, -1]])
    camera[2, 3] = 100
    k = torch.eye(3, dtype=torch.float64)
    k[:2, 2] = 50
    means = torch.tensor([[0.0, 0, 0], [1000.0, 0, 0]], dtype=torch.float64)
    distance = sampling_distance(means, camera, k, 100, 100, "parallel")
    assert distance[0].item() == pytest.approx(0.5)
    assert distance[1].isinf()


def test_invisible_gaussians_get_the_largest_radius():
    radius = smoothing_radius([torch.tensor([1.0, 3.0, torch.inf])])
    torch.testing.assert_close(radius, math.sqrt(0.2) * torch.tensor([1.0, 3.0, 3.0]))


def test_the_filter_preserves_opacity_times_volume():
    scales, opacities, radius = torch.rand(5, 3) + 0.1, torch.rand(5), torch.rand(5)
    widened, lowered = apply_filter(scales, opacities, radius)
    torch.testing.assert_close(lowered * widened.prod(-1), opacities * scales.prod(-1))
    torch.testing.assert_close(widened**2 - scales**2, (radius**2)[:, None].expand(5, 3))


def test_radii_are_cached_until_gaussians_or_steps_change():
    views = [nadir_view(-1.0, 1.0, 0.005, 400, 400), nadir_view(-1.0, 0.0, 0.002, 500, 500)]  # the finer: south-west
    means = torch.nn.Parameter(torch.tensor([[-0.5, -0.5, 0.0], [0.5, 0.5, 0.0]]))
    fine, coarse = (math.sqrt(0.2) * cell for cell in (0.002, 0.005))
    smoothing = SmoothingFilter(views)

    def radii(parameter: torch.Tensor, step: int) -> list[float]:
        return smoothing.smoothing_radii(parameter, step).tolist()

    assert radii(means, 7) == pytest.approx([fine, coarse])
    with torch.no_grad():
        means[:] = means.flip(0)  # optimizers move Gaussians in place
    assert radii(means, 7 + UPDATE_EVERY - 1) == pytest.approx([fine, coarse])
    assert radii(means, 7 + UPDATE_EVERY) == pytest.approx([coarse, fine])
    moved = torch.nn.Parameter(means.detach().flip(0))  # strategies replace the parameter
    assert radii(moved, 7 + UPDATE_EVERY) == pytest.approx([fine, coarse])
    with torch.no_grad():
        moved[:] = moved.flip(0)
    smoothing.clear_cache()
    assert radii(moved, 7 + UPDATE_EVERY) == pytest.approx([coarse, fine])
