"""Compensated Gaussians, drawn as viewers draw them, resemble the rendering of the run more than others do."""

import numpy as np
import pytest
import torch
from helpers.dense_rasterizer import project_gaussians

from skyfall_ns.export.gaussians.cloud import GaussianCloud
from skyfall_ns.export.gaussians.screen_kernel import VIEWER_EPS_2D, compensate_kernel
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer
from skyfall_ns.view import nadir_view

PIXEL_M, SIZE = 0.25, 48


def make_cloud(generator: np.random.Generator) -> GaussianCloud:
    """Discs of a surface of 12 m, 0.5 m apart, in a checkerboard of colors."""
    x, y = (axis.ravel() for axis in np.meshgrid(np.arange(0, 12, 0.3), np.arange(0, 12, 0.3)))
    n = len(x)
    quats = np.concatenate([np.ones((n, 1)), 0.05 * generator.normal(size=(n, 3))], 1)
    rgb = np.repeat(0.2 + 0.6 * ((x // 3 + y // 3) % 2)[:, None], 3, 1)
    scales = np.tile([0.22, 0.18, 0.04], (n, 1))
    return GaussianCloud(np.stack([x, y, np.zeros(n)], 1), quats / np.linalg.norm(quats, axis=1, keepdims=True), scales,
                         np.full(n, 0.6), rgb)  # fmt: skip


def to_gaussians(cloud: GaussianCloud) -> Gaussians:
    return Gaussians(*(torch.tensor(values, dtype=torch.float32)
                       for values in (cloud.means_m, cloud.quats, cloud.scales_m, cloud.opacities)))  # fmt: skip


def draw_as_viewers_do(cloud: GaussianCloud, view) -> np.ndarray:
    """Footprints widened by VIEWER_EPS_2D without a change of opacity (the first renderer of 3DGS)."""
    means, cov, _, depth, _ = project_gaussians(to_gaussians(cloud), view)
    conic = torch.linalg.inv(cov + (VIEWER_EPS_2D - 0.1) * torch.eye(2))
    y, x = torch.meshgrid(torch.arange(SIZE) + 0.5, torch.arange(SIZE) + 0.5, indexing="ij")
    color, transmittance = torch.zeros(SIZE, SIZE), torch.ones(SIZE, SIZE)
    for i in torch.argsort(depth, stable=True).tolist():
        d = torch.stack([x, y], -1) - means[i]
        alpha = (cloud.opacities[i] * torch.exp(-0.5 * (d @ conic[i] * d).sum(-1))).clamp(max=0.99)
        color += alpha * transmittance * cloud.rgb[i, 0]
        transmittance = transmittance * (1 - alpha)
    return color.numpy()


@torch.no_grad()
@pytest.mark.slow
def test_viewers_show_the_scene_as_trained():
    cloud = make_cloud(np.random.default_rng(0))
    view = nadir_view(0.0, 12.0, PIXEL_M, SIZE, SIZE)
    trained = pick_rasterizer("cpu")(to_gaussians(cloud), torch.tensor(cloud.rgb, dtype=torch.float32), view)
    inner = slice(4, -4)
    target = trained.color[inner, inner, 0].numpy()
    raw = np.abs(draw_as_viewers_do(cloud, view)[inner, inner] - target).mean()
    compensated = np.abs(draw_as_viewers_do(compensate_kernel(cloud, PIXEL_M), view)[inner, inner] - target).mean()
    assert compensated < 0.5 * raw and compensated < 2 / 255


def test_nothing_changes_for_pixels_much_smaller_than_the_gaussians():
    cloud = make_cloud(np.random.default_rng(0))
    compensated = compensate_kernel(cloud, 0.001)
    np.testing.assert_allclose(compensated.scales_m, cloud.scales_m, rtol=1e-3)
    np.testing.assert_allclose(compensated.opacities, cloud.opacities, rtol=1e-4)
