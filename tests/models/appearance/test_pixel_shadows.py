"""Shadows per pixel: exact where Gaussians are coarse, and those of Gaussians at depth edges."""

import torch

from skyfall_ns.models.appearance.lighting import ImageAppearance
from skyfall_ns.models.appearance.pixel_shadows import MAX_CURVATURE_M, apply_pixel_shadows, surface_smoothness
from skyfall_ns.models.appearance.shadow_map import render_shadow_map
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer
from skyfall_ns.view import nadir_view

SCALE, CELL_M, SIZE = 0.01, 0.25, 160  # model units per meter; pixels of 0.25 m over 40 m
SUN = (0.0, -(0.5**0.5), 0.5**0.5)  # from the south at 45 degrees
APPEARANCE = ImageAppearance(torch.zeros(3), torch.zeros(3), torch.full((3,), 0.2).log(), None, SUN)


def slab_over_plane():
    """Ground of coarse Gaussians, one every 2 m, and a fine slab of 12 x 4 m, 8 m above it: its shadow lies 8 m
    north."""
    axis = torch.arange(-25, 25, 2.0)
    x, y = (v.flatten() for v in torch.meshgrid(axis, axis, indexing="xy"))
    ground = torch.stack([x, y, torch.zeros_like(x)], -1)
    fine = torch.meshgrid(torch.arange(-6, 6, 0.25) + 0.125, torch.arange(-12, -8, 0.25) + 0.125, indexing="xy")
    slab = torch.stack([*(v.flatten() for v in fine), torch.full((fine[0].numel(),), 8.0)], -1)
    sizes = torch.cat([torch.full((len(ground),), 1.3), torch.full((len(slab),), 0.16)])
    scales = torch.stack([sizes, sizes, torch.full_like(sizes, 0.02)], -1) * SCALE
    quats = torch.tensor([1.0, 0, 0, 0]).expand(len(sizes), 4)
    return Gaussians(torch.cat([ground, slab]) * SCALE, quats, scales, torch.full((len(sizes),), 0.97))


def render_light(gaussians, per_pixel):
    rasterize, view = pick_rasterizer("cpu"), nadir_view(-20 * SCALE, 20 * SCALE, CELL_M * SCALE, SIZE, SIZE)
    shadow_map = render_shadow_map(
        SUN, gaussians.means, SCALE, lambda heights, view: rasterize(gaussians, heights, view)
    )
    sun_visibility = shadow_map.sun_visibility(gaussians.means)
    light = ((0.2 + SUN[2] * sun_visibility) / (0.2 + SUN[2]))[:, None].expand(-1, 3)
    rendering = rasterize(gaussians, torch.cat([light, sun_visibility[:, None]], -1), view)
    light = rendering.color[..., :3]
    if per_pixel:
        light = apply_pixel_shadows(light, rendering.color[..., 3], rendering, view, shadow_map, APPEARANCE)
    return light[..., 0] / rendering.alpha


def test_shadows_on_coarse_gaussians_have_exact_edges():
    gaussians = slab_over_plane()
    y, x = torch.meshgrid(
        20 - (torch.arange(SIZE) + 0.5) * CELL_M, (torch.arange(SIZE) + 0.5) * CELL_M - 20, indexing="ij"
    )
    clear_of_slab = ~((x.abs() < 7) & (y > -13) & (y < -7))
    outer = (x.abs() < 6.5) & (y > -4.5) & (y < 0.5)
    inner = (x.abs() < 5.5) & (y > -3.5) & (y < -0.5)
    shade = 0.2 / (0.2 + SUN[2])
    errors = {}
    for per_pixel in (False, True):
        light = render_light(gaussians, per_pixel)
        dark, bright = light[inner], light[clear_of_slab & ~outer]
        errors[per_pixel] = (dark - shade).abs().mean(), (bright - 1).abs().mean()
    assert errors[True][0] < 0.06 and errors[True][1] < 0.01
    assert errors[False][0] > 3 * errors[True][0]


def test_a_brighter_shadow_lowers_the_opacity_of_what_casts_it():
    gaussians = slab_over_plane()
    opacities = gaussians.opacities.clone().requires_grad_()
    light = render_light(Gaussians(gaussians.means, gaussians.quats, gaussians.scales, opacities), True)
    light[83:93, 60:100].sum().backward()  # in the middle of the shadow
    slab = gaussians.means[:, 2] > 4 * SCALE
    assert opacities.grad is not None
    assert opacities.grad[slab].min() < -0.1 and (opacities.grad[slab] <= 1e-4).all()


def test_pixels_at_depth_edges_keep_the_light_of_gaussians():
    heights = torch.zeros(12, 12)
    heights[:, 6:] = 10.0
    smoothness = surface_smoothness(heights)
    assert (smoothness[:, :4] == 1).all() and (smoothness[:, 8:] == 1).all() and (smoothness[:, 5:7] == 0).all()
    slope = torch.arange(12.0)[None].expand(12, 12) * 3
    assert (surface_smoothness(slope)[:, 2:-2] == 1).all()
    assert surface_smoothness(torch.tensor([[0.0, MAX_CURVATURE_M / 4, 0.0]])).max() == 0.5
