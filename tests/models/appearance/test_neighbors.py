"""Colors that no image determines follow their neighbors': the graph, the loss, and when the graph is found again."""

import pytest
import torch

from skyfall_ns.models.appearance.neighbors import COUNT, EVERY, STRIDE, Neighbors, nearest, roughness
from skyfall_ns.models.losses import excess

UP, EAST = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])


def test_the_nearest_others_are_found_also_in_one_place():
    g = torch.Generator().manual_seed(0)
    means = 20 * torch.rand(300, 3, generator=g)
    means[100:110] = means[100]  # more in one place than neighbors are asked for
    found = nearest(means, UP.expand(300, 3))
    apart = torch.cdist(means.double(), means.double()).fill_diagonal_(torch.inf)
    expected = apart.topk(COUNT, largest=False).values
    torch.testing.assert_close(apart.gather(1, found).sort(-1).values, expected)
    assert (found != torch.arange(300)[:, None]).all()


def test_walls_follow_walls_and_not_the_street_below():
    street = torch.stack([torch.arange(20.0) / 2, torch.zeros(20), torch.zeros(20)], -1)
    wall = torch.stack([torch.zeros(8), torch.zeros(8), 0.5 + torch.arange(8.0) / 2], -1)
    normals = torch.cat([UP.expand(20, 3), EAST.expand(8, 3)])
    found = nearest(torch.cat([street, wall]), normals)
    assert (found[20:22] >= 20).all() and (found[:20] < 20).all()


def test_roughness_pulls_who_is_asked_and_not_the_neighbors():
    values = torch.zeros(8, 2)
    values[4] = 1.0
    values.requires_grad_()
    neighbors = (torch.arange(8)[:, None] + torch.tensor([1, -1])) % 8
    loss = roughness(values, neighbors, step=STRIDE)  # the turn of 0 and 4
    loss.backward()
    assert loss.item() == pytest.approx(0.5)
    assert values.grad[4].min() > 0 and values.grad[[0, 1, 2, 3, 5, 6, 7]].abs().max() == 0
    assert roughness(values, neighbors, step=3).item() == pytest.approx(0.5 * 0.25)  # 3 has 4 beside it, 7 has not


def test_a_color_without_an_image_becomes_its_neighbors_and_one_with_an_image_stays():
    g = torch.Generator().manual_seed(1)
    means, shown = 10 * torch.rand(60, 3, generator=g), torch.rand(60, 3, generator=g)
    colors = shown.clone()
    colors[7] = torch.tensor([3.0, -2.0, 5.0])
    colors.requires_grad_()
    graph, adam = nearest(means, UP.expand(60, 3)), torch.optim.Adam([colors], lr=0.02)
    seen = torch.arange(60) != 7
    for step in range(1500):
        adam.zero_grad()
        ((colors - shown)[seen].abs().mean() + 0.1 * roughness(colors, graph, step)).backward()
        adam.step()
    torch.testing.assert_close(colors[7], colors[graph[7]].mean(0), atol=0.1, rtol=0)
    assert (colors - shown)[seen].abs().mean() < 0.05


def test_the_graph_is_found_again_when_gaussians_come_or_go_or_time_passes():
    neighbors, g = Neighbors(scale=0.01), torch.Generator().manual_seed(2)
    means = torch.rand(50, 3, generator=g)
    first = neighbors.of(means, UP.expand(50, 3), step=30)
    assert neighbors.of(means.flip(0), UP.expand(50, 3), step=29 + EVERY) is first
    later = neighbors.of(means.flip(0), UP.expand(50, 3), step=30 + EVERY)
    assert later is not first
    assert len(neighbors.of(means[:40], UP.expand(40, 3), step=31 + EVERY)) == 40
    neighbors.forget()
    assert torch.equal(neighbors.of(means, UP.expand(50, 3), step=0), first)


def test_nothing_is_brighter_than_white():
    colors = torch.tensor([[0.2, 1.0, 1.5], [0.9, 3.0, -1.0]], requires_grad=True)
    loss = excess(colors)
    loss.backward()
    assert loss.item() == pytest.approx((0.25 + 4.0) / 6)
    assert (colors.grad > 0).tolist() == [[False, False, True], [False, True, False]]
