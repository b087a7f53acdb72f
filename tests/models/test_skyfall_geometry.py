"""Geometry of the model: the surface loss, height maps, free cameras, and gradients from shadows."""

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from skyfall_ns.models.geometry.height_map import (
    DEPTH_TOLERANCE_M,
    render_height_map,
)
from skyfall_ns.view import nadir_view


def test_surface_loss_pulls_heights_to_the_surface(model):
    with torch.no_grad():
        model.means[:, 2] += 1.0 * model.normalized.scale
    lifted = model.regularization.surface_losses()["surface"].item()
    for _ in range(40):
        model.zero_grad()
        model.regularization.surface_losses()["surface"].backward()
        with torch.no_grad():
            model.means[:, 2] -= 0.03 * model.normalized.scale * model.means.grad[:, 2].sign()
    assert model.regularization.surface_losses()["surface"].item() < 0.5 * lifted
    assert len(model.normalized.image_names) < model.config.dense_view_threshold
    assert lifted == pytest.approx(0.2 * model.config.sparse_view_scale, rel=0.3)  # loss of one meter


def test_weight_0_turns_the_surface_loss_off(model):
    model.config.surface_weight = 0.0
    assert model.regularization.surface_losses() == {}


def test_heights_are_meters_and_independent_of_tiles(model):
    surface = model.normalized.surface
    whole = model.renderer.render_heights(surface.grid)
    tiled = render_height_map(model.renderer.gaussians(), model.normalized, surface.grid, tile=50)
    np.testing.assert_array_equal(np.isfinite(tiled), np.isfinite(whole))
    difference = np.abs(tiled - whole)[np.isfinite(whole)]
    assert (difference < 2e-3).mean() > 0.9995  # the other pixels are at the threshold between two depths:
    assert (difference < DEPTH_TOLERANCE_M / 10).mean() > 0.9999
    assert difference.max() < DEPTH_TOLERANCE_M  # the largest difference, also of medians of such pixels
    error = np.abs(whole - surface.height_m)[np.isfinite(whole) & np.isfinite(surface.height_m)]
    assert np.median(error) < 0.3  # Gaussians start on the surface


def test_distant_pinhole_agrees_with_the_nadir_view(model):
    """A pinhole camera far above the scene, with its field of view, sees what the parallel nadir view sees."""
    model.eval()
    with torch.no_grad():
        model.opacities.fill_(5.0)
        model.scales.add_(0.5)
    distance, cell, n = 200.0, 0.01, 48  # 20 km up; 1 m per pixel
    pose = torch.eye(4)[:3].clone()
    pose[2, 3] = distance
    camera = Cameras(pose[None], distance / cell, distance / cell, n / 2, n / 2, n, n)
    with torch.no_grad():
        outputs = model.get_outputs(camera)
        parallel = model.renderer.render(
            nadir_view(-n / 2 * cell, n / 2 * cell, cell, n, n),
            appearance=model.appearance_model.free_view_appearance(),
        )
    inside = parallel.alpha > 0.8
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(outputs["accumulation"][..., 0], parallel.alpha, atol=0.05, rtol=0)
    colors = outputs["rgb"] - (1 - outputs["accumulation"]) * outputs["background"]
    assert (colors - parallel.color)[inside].abs().mean() < 0.01


def test_gradients_of_shadows_reach_what_casts_them(model):
    """Only in a step that renders the shadow map, and scaled by the gradient scale of the view."""
    model.config.shadows_every = 5

    def opacity_gradient(step, gradient_scale=1.0):
        model.step = step
        shadow_map = model.renderer.shadow_map(model.appearance_model.image_appearance(0), 0, gradient_scale)
        visibility = shadow_map.sun_visibility(model.means)
        if not visibility.requires_grad:
            return None
        return torch.autograd.grad(visibility.sum(), model.gauss_params["opacities"])[0]

    model.renderer.shadow_maps.clear_cache()
    full_gradient = opacity_gradient(0)
    assert full_gradient.abs().max() > 0
    assert opacity_gradient(4) is None
    torch.testing.assert_close(opacity_gradient(5, gradient_scale=0.25), 0.25 * full_gradient)
