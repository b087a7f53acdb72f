"""Neighbors of Gaussians: the search, the loss, and the cache."""

import pytest
import torch

from skyfall_ns.models.appearance.neighbors import (
    NUM_NEIGHBORS,
    UPDATE_EVERY,
    NeighborGraph,
    find_nearest_neighbors,
    neighbor_loss,
)
from skyfall_ns.models.losses import excess_over_white

UP, EAST = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
LEVEL = torch.tensor([1.0, 0.0, 0.0, 0.0])  # quaternion of a Gaussian whose normal is up


def test_neighbors_are_the_nearest_others_even_where_gaussians_coincide():
    g = torch.Generator().manual_seed(0)
    means = 20 * torch.rand(300, 3, generator=g)
    means[100:110] = means[100]  # more Gaussians in one place than neighbors
    indices = find_nearest_neighbors(means, UP.expand(300, 3))
    distances = torch.cdist(means.double(), means.double()).fill_diagonal_(torch.inf)
    expected = distances.topk(NUM_NEIGHBORS, largest=False).values
    torch.testing.assert_close(distances.gather(1, indices).sort(-1).values, expected)
    assert (indices != torch.arange(300)[:, None]).all()


def test_neighbors_of_walls_are_walls_and_not_the_street_below():
    street = torch.stack([torch.arange(20.0) / 2, torch.zeros(20), torch.zeros(20)], -1)
    wall = torch.stack([torch.zeros(8), torch.zeros(8), 0.5 + torch.arange(8.0) / 2], -1)
    normals = torch.cat([UP.expand(20, 3), EAST.expand(8, 3)])
    indices = find_nearest_neighbors(torch.cat([street, wall]), normals)
    assert (indices[20:22] >= 20).all() and (indices[:20] < 20).all()


def test_the_loss_has_gradients_of_the_sampled_gaussians_only():
    values = torch.zeros(8, 2)
    values[4] = 1.0
    values.requires_grad_()
    neighbors = (torch.arange(8)[:, None] + torch.tensor([1, -1])) % 8
    loss = neighbor_loss(values, neighbors)
    loss.backward()
    assert loss.item() == pytest.approx((1 + 2 * 0.25) / 8)  # the mean of the neighbors of 3 and 5 is a half
    assert values.grad[4].min() > 0 and values.grad[[3, 5]].max() < 0
    assert values.grad[[0, 1, 2, 6, 7]].abs().max() == 0


def test_only_colors_that_no_image_determines_become_those_of_their_neighbors():
    g = torch.Generator().manual_seed(1)
    means, target = 10 * torch.rand(60, 3, generator=g), torch.rand(60, 3, generator=g)
    colors = target.clone()
    colors[7] = torch.tensor([3.0, -2.0, 5.0])
    colors.requires_grad_()
    indices, optimizer = find_nearest_neighbors(means, UP.expand(60, 3)), torch.optim.Adam([colors], lr=0.02)
    visible = torch.arange(60) != 7
    for _ in range(1500):
        optimizer.zero_grad()
        ((colors - target)[visible].abs().mean() + 0.1 * neighbor_loss(colors, indices)).backward()
        optimizer.step()
    torch.testing.assert_close(colors[7], colors[indices[7]].mean(0), atol=0.1, rtol=0)
    assert (colors - target)[visible].abs().mean() < 0.05


def test_neighbors_are_searched_again_when_the_number_of_gaussians_changes_or_after_some_steps():
    graph, g = NeighborGraph(scale=0.01), torch.Generator().manual_seed(2)
    means = torch.rand(50, 3, generator=g)
    first = graph.neighbor_indices(means, LEVEL.expand(50, 4), step=30)
    assert graph.neighbor_indices(means.flip(0), LEVEL.expand(50, 4), step=29 + UPDATE_EVERY) is first
    later = graph.neighbor_indices(means.flip(0), LEVEL.expand(50, 4), step=30 + UPDATE_EVERY)
    assert later is not first
    assert len(graph.neighbor_indices(means[:40], LEVEL.expand(40, 4), step=31 + UPDATE_EVERY)) == 40
    graph.clear_cache()
    assert torch.equal(graph.neighbor_indices(means, LEVEL.expand(50, 4), step=0), first)


def test_the_excess_over_white_has_gradients_above_white_only():
    colors = torch.tensor([[0.2, 1.0, 1.5], [0.9, 3.0, -1.0]], requires_grad=True)
    loss = excess_over_white(colors)
    loss.backward()
    assert loss.item() == pytest.approx((0.25 + 4.0) / 6)
    assert (colors.grad > 0).tolist() == [[False, False, True], [False, True, False]]
