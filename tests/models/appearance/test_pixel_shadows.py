"""Shadows of pixels: as sharp as trigonometry has them where splats are coarse, and those of splats at edges."""

import torch

from skyfall_ns.models.appearance.lighting import Look
from skyfall_ns.models.appearance.pixel_shadows import ROUGH_M, sharpened, smoothness
from skyfall_ns.models.appearance.shadow_map import draw_sun_map
from skyfall_ns.models.geometry.view import nadir_view
from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer

SCALE, CELL_M, SIZE = 0.01, 0.25, 160  # model units per metre; pixels of 0.25 m over 40 m
SUN = (0.0, -(0.5**0.5), 0.5**0.5)  # from the south at 45 degrees
LOOK = Look(torch.zeros(3), torch.zeros(3), torch.full((3,), 0.2).log(), None, SUN)


def slab_over_plane():
    """Ground of coarse splats, one every 2 m, and a fine slab of 12 x 4 m, 8 m above it: its shadow lies 8 m north."""
    axis = torch.arange(-25, 25, 2.0)
    x, y = (v.flatten() for v in torch.meshgrid(axis, axis, indexing="xy"))
    ground = torch.stack([x, y, torch.zeros_like(x)], -1)
    fine = torch.meshgrid(torch.arange(-6, 6, 0.25) + 0.125, torch.arange(-12, -8, 0.25) + 0.125, indexing="xy")
    slab = torch.stack([*(v.flatten() for v in fine), torch.full((fine[0].numel(),), 8.0)], -1)
    sizes = torch.cat([torch.full((len(ground),), 1.3), torch.full((len(slab),), 0.16)])
    scales = torch.stack([sizes, sizes, torch.full_like(sizes, 0.02)], -1) * SCALE
    quats = torch.tensor([1.0, 0, 0, 0]).expand(len(sizes), 4)
    return Gaussians(torch.cat([ground, slab]) * SCALE, quats, scales, torch.full((len(sizes),), 0.97))


def drawn_light(splats, finer):
    draw, view = pick_rasterizer("cpu"), nadir_view(-20 * SCALE, 20 * SCALE, CELL_M * SCALE, SIZE, SIZE)
    sun_map = draw_sun_map(SUN, splats.means, SCALE, lambda heights, view: draw(splats, heights, view))
    lit = sun_map.lit(splats.means)
    light = ((0.2 + SUN[2] * lit) / (0.2 + SUN[2]))[:, None].expand(-1, 3)
    drawn = draw(splats, torch.cat([light, lit[:, None]], -1), view)
    light = drawn.color[..., :3]
    if finer:
        light = sharpened(light, drawn.color[..., 3], drawn, view, sun_map, LOOK)
    return light[..., 0] / drawn.alpha


def test_shadows_of_coarse_splats_end_where_they_should():
    splats = slab_over_plane()
    y, x = torch.meshgrid(
        20 - (torch.arange(SIZE) + 0.5) * CELL_M, (torch.arange(SIZE) + 0.5) * CELL_M - 20, indexing="ij"
    )
    clear_of_slab = ~((x.abs() < 7) & (y > -13) & (y < -7))
    outer = (x.abs() < 6.5) & (y > -4.5) & (y < 0.5)
    inner = (x.abs() < 5.5) & (y > -3.5) & (y < -0.5)
    shade = 0.2 / (0.2 + SUN[2])
    errors = {}
    for finer in (False, True):
        light = drawn_light(splats, finer)
        dark, bright = light[inner], light[clear_of_slab & ~outer]
        errors[finer] = (dark - shade).abs().mean(), (bright - 1).abs().mean()
    assert errors[True][0] < 0.06 and errors[True][1] < 0.01
    assert errors[False][0] > 3 * errors[True][0]


def test_where_it_should_be_brighter_what_throws_the_shadow_becomes_fainter():
    splats = slab_over_plane()
    opacities = splats.opacities.clone().requires_grad_()
    light = drawn_light(Gaussians(splats.means, splats.quats, splats.scales, opacities), True)
    light[83:93, 60:100].sum().backward()  # in the middle of the shadow
    slab = splats.means[:, 2] > 4 * SCALE
    assert opacities.grad is not None
    assert opacities.grad[slab].min() < -0.1 and (opacities.grad[slab] <= 1e-4).all()


def test_what_bends_keeps_the_light_of_splats():
    heights = torch.zeros(12, 12)
    heights[:, 6:] = 10.0
    smooth = smoothness(heights)
    assert (smooth[:, :4] == 1).all() and (smooth[:, 8:] == 1).all() and (smooth[:, 5:7] == 0).all()
    slope = torch.arange(12.0)[None].expand(12, 12) * 3
    assert (smoothness(slope)[:, 2:-2] == 1).all()
    assert smoothness(torch.tensor([[0.0, ROUGH_M / 4, 0.0]])).max() == 0.5
