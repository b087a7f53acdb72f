"""The CPU rasterizer against a dense float64 reference: images and all gradients, both projections, edge cases."""

import math
from dataclasses import dataclass

import numba
import pytest
import torch
from helpers import dense_rasterizer as dense

from skyfall_ns.models.rasterizers import Gaussians, pick_rasterizer
from skyfall_ns.models.rasterizers.types import DEEP_T, MEDIAN_T

FIELDS = ("means", "quats", "scales", "opacities")


@dataclass(frozen=True)
class View:
    camera_from_model: torch.Tensor
    intrinsics: torch.Tensor
    width: int
    height: int
    projection: str


def parallel_view(width=50, height=37, px=6.0):
    """A sheared satellite-like view of a scene of about +-4 units."""
    camera = torch.eye(4, dtype=torch.float64)
    camera[:3, :3] = torch.tensor([[px, 0.4, 1.3], [0.2, -px, 2.1], [0.05, 0.1, -1.0]])
    camera[2, 3] = 10.0
    k = torch.eye(3, dtype=torch.float64)
    k[0, 2], k[1, 2] = width / 2 + 0.3, height / 2 - 0.2
    return View(camera, k, width, height, "parallel")


def pinhole_view(width=45, height=52, focal=60.0):
    angle = 0.6
    camera = torch.eye(4, dtype=torch.float64)
    camera[1:3, 1:3] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    camera[:3, 3] = torch.tensor([0.2, -0.1, 8.0])
    k = torch.tensor([[focal, 0, width / 2 + 1], [0, 1.1 * focal, height / 2], [0, 0, 1]], dtype=torch.float64)
    return View(camera, k, width, height, "pinhole")


def random_scene(n=60, seed=0, channels=3, size=0.35):
    g = torch.Generator().manual_seed(seed)
    means = 3.0 * (2 * torch.rand(n, 3, generator=g, dtype=torch.float64) - 1)
    quats = torch.randn(n, 4, generator=g, dtype=torch.float64)
    scales = size * (0.2 + torch.rand(n, 3, generator=g, dtype=torch.float64))
    opacities = 0.05 + 0.9 * torch.rand(n, generator=g, dtype=torch.float64)
    colors = torch.rand(n, channels, generator=g, dtype=torch.float64)
    return Gaussians(means, quats, scales, opacities), colors


def leaf_tensors(gaussians, colors, dtype):
    tensors = [getattr(gaussians, f) for f in FIELDS] + [colors]
    return [t.to(dtype).clone().requires_grad_() for t in tensors]


def rasterize_both(gaussians, colors, view, seed=1):
    """((color, depth, alpha), gradients, means2d gradient, absgrad) of the CPU rasterizer and of the reference, and the
    mask of safe pixels."""
    g = torch.Generator().manual_seed(seed)
    shape = (view.height, view.width)
    weights = [torch.randn(*shape, colors.shape[1], generator=g, dtype=torch.float64)]
    weights += [torch.randn(*shape, generator=g, dtype=torch.float64) for _ in range(2)]
    reference = leaf_tensors(gaussians, colors, torch.float64)
    *images, means2d, per_pixel, safe = dense.render_dense(Gaussians(*reference[:4]), reference[4], view)
    weights = [w * (safe[..., None] if w.ndim == 3 else safe) for w in weights]
    _weighted_sum(images, weights).backward()
    expected = [t.grad for t in reference]
    absolute = per_pixel.grad.abs().sum((1, 2))
    ours = leaf_tensors(gaussians, colors, torch.float32)
    result = pick_rasterizer("cpu")(Gaussians(*ours[:4]), ours[4], view, absgrad=colors.shape[1] <= 4)
    _weighted_sum([result.color, result.depth, result.alpha], weights).backward()
    gradients = [t.grad for t in ours]
    info = result.info["means2d"]
    return (
        (
            [result.color, result.depth, result.alpha],
            gradients,
            info.grad[0],
            getattr(info, "absgrad", absolute[None])[0],
        ),
        (images, expected, means2d.grad, absolute),
        safe,
    )


def _weighted_sum(images, weights):
    # bounded depth weight: depth is divided by alpha and would drown the rest at faint pixels
    color, depth, alpha = images
    faint = (alpha.detach() > 0.05).to(alpha.dtype)
    return (color * weights[0]).sum() + (0.1 * faint * depth * weights[1]).sum() + (alpha * weights[2]).sum()


def relative_error(got, expected):
    return ((got - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).item()


CASES = {
    "parallel": (parallel_view(), random_scene()),
    "pinhole": (pinhole_view(), random_scene(seed=1)),
    "many": (parallel_view(), random_scene(n=400, seed=2)),
    "one channel": (parallel_view(), random_scene(channels=1, seed=3)),
    "four channels": (pinhole_view(), random_scene(channels=4, seed=4)),
    "seven channels": (parallel_view(), random_scene(channels=7, seed=5)),
    "odd size": (parallel_view(width=33, height=67), random_scene(seed=6)),
    "large Gaussians": (parallel_view(), random_scene(n=25, seed=7, size=3.0)),
    "small Gaussians": (parallel_view(), random_scene(n=80, seed=8, size=0.05)),
}


@pytest.mark.parametrize("name", CASES)
def test_images_and_gradients_equal_the_dense_reference(name):
    view, (gaussians, colors) = CASES[name]
    ours, reference, safe = rasterize_both(gaussians, colors, view)
    assert safe.float().mean() > 0.9
    for got, expected, tolerance in zip(ours[0], reference[0], (5e-6, 2e-4, 5e-6), strict=True):
        assert (got - expected)[safe].abs().max() < tolerance
    for field, got, expected in zip((*FIELDS, "colors"), ours[1], reference[1], strict=True):
        assert relative_error(got, expected) < 3e-4, field
    assert relative_error(ours[2], reference[2]) < 3e-4
    assert relative_error(ours[3], reference[3]) < 3e-4


def test_opacities_at_the_cap_needles_and_discs_equal_the_dense_reference():
    gaussians, colors = random_scene(n=30, seed=9)
    scales = gaussians.scales.clone()
    scales[:10] = torch.tensor([2.0, 0.01, 0.01])
    scales[10:20] = torch.tensor([0.8, 0.8, 0.002])
    gaussians = Gaussians(gaussians.means, gaussians.quats, scales, torch.ones(30, dtype=torch.float64))
    ours, reference, safe = rasterize_both(gaussians, colors, parallel_view())
    assert (ours[0][0] - reference[0][0])[safe].abs().max() < 2e-5
    for got, expected in zip(ours[1], reference[1], strict=True):
        assert relative_error(got, expected) < 2e-3


@pytest.mark.parametrize("projection", [parallel_view, pinhole_view])
def test_projection_equals_the_torch_code_of_gsplat(projection):
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    view, (gaussians, colors) = projection(), random_scene(n=300, seed=11)
    covars, _ = _quat_scale_to_covar_preci(gaussians.quats, gaussians.scales, compute_preci=False)
    radii, means2d, _, _, _ = _fully_fused_projection(
        gaussians.means, covars, view.camera_from_model[None], view.intrinsics[None], view.width, view.height,
        eps2d=0.1, near_plane=0.01, calc_compensations=True,
        camera_model="ortho" if view.projection == "parallel" else "pinhole",
    )  # fmt: skip
    info = pick_rasterizer("cpu")(Gaussians(*(getattr(gaussians, f).float() for f in FIELDS)), colors, view).info
    assert torch.equal(info["radii"][0] > 0, radii[0] > 0)
    assert (info["radii"] - radii).abs().max() <= 1
    visible = radii[0] > 0
    assert (info["means2d"][0].detach() - means2d[0])[visible].abs().max() < 1e-4


def test_one_gaussian_equals_the_closed_form():
    view = parallel_view(width=40, height=40)
    linear = view.camera_from_model[:2, :3]
    quat, scale = torch.tensor([[0.9, 0.1, -0.3, 0.2]], dtype=torch.float64), torch.tensor([[0.3, 0.5, 0.1]])
    R = dense.rotation_matrices(quat)[0]
    S = R @ torch.diag(scale[0].double() ** 2) @ R.T
    cov0 = linear @ S @ linear.T
    cov = cov0 + 0.1 * torch.eye(2, dtype=torch.float64)
    peak = 0.8 * torch.sqrt(torch.det(cov0) / torch.det(cov))
    gaussians = Gaussians(torch.zeros(1, 3), quat.float(), scale, torch.tensor([0.8]))
    alpha = pick_rasterizer("cpu")(gaussians, torch.ones(1, 3), view).alpha.double()
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(40) + 0.5, indexing="ij")
    d = torch.stack([x, y], -1).double() - view.intrinsics[:2, 2]
    expected = peak * torch.exp(-0.5 * (d @ torch.linalg.inv(cov) * d).sum(-1))
    core = expected > 0.01
    assert (alpha - expected)[core].abs().max() < 2e-6
    assert core.sum() > 50


def test_order_of_gaussians_does_not_matter():
    view, (gaussians, colors) = parallel_view(), random_scene(n=200, seed=12)
    tensors = leaf_tensors(gaussians, colors, torch.float32)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    rasterize = pick_rasterizer("cpu")
    first = rasterize(Gaussians(*tensors[:4]), tensors[4], view)
    second = rasterize(Gaussians(*(t[order] for t in tensors[:4])), tensors[4][order], view)
    assert torch.equal(first.color, second.color)


def test_results_are_identical_for_any_number_of_threads():
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("this machine has one core")
    view, (gaussians, colors) = parallel_view(width=200, height=150, px=25.0), random_scene(n=2000, seed=13)
    results, before = [], numba.get_num_threads()
    try:
        for threads in (1, 2):
            numba.set_num_threads(threads)
            tensors = leaf_tensors(gaussians, colors, torch.float32)
            image = pick_rasterizer("cpu")(Gaussians(*tensors[:4]), tensors[4], view)
            (image.color.sum() + image.depth.sum()).backward()
            results.append([image.color, image.depth, *(t.grad for t in tensors)])
    finally:
        numba.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@pytest.mark.parametrize("n", [0, 5])
def test_images_without_visible_gaussians_are_empty(n):
    gaussians, colors = random_scene(n=max(n, 1))
    tensors = [t[:n] for t in leaf_tensors(gaussians, colors, torch.float32)]
    away = Gaussians(tensors[0] + 1e4, *tensors[1:4])
    result = pick_rasterizer("cpu")(away, tensors[4], parallel_view())
    result.color.sum().backward()
    assert result.color.shape == (37, 50, 3)
    assert not result.color.any() and not result.alpha.any() and not result.depth.any()


def test_colors_of_fewer_gaussians_are_refused():
    gaussians, colors = random_scene(n=20, seed=16)
    with pytest.raises(ValueError, match="colors has 19 rows for 20 Gaussians"):
        pick_rasterizer("cpu")(gaussians, colors[1:], parallel_view())


def test_gsplats_strategy_accepts_the_densification_statistics():
    from gsplat.strategy import DefaultStrategy

    gaussians, colors = random_scene(n=100, seed=14)
    tensors = leaf_tensors(gaussians, colors, torch.float32)
    names = ("means", "quats", "scales", "opacities")
    params = torch.nn.ParameterDict({k: torch.nn.Parameter(t.detach()) for k, t in zip(names, tensors, strict=False)})
    optimizers = {k: torch.optim.Adam([p], lr=1e-3) for k, p in params.items()}
    strategy = DefaultStrategy(refine_start_iter=0, refine_every=1, grow_grad2d=1e-9, absgrad=True)
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state(scene_scale=1.0)
    drawn = Gaussians(params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid())
    result = pick_rasterizer("cpu")(drawn, tensors[4], parallel_view(), absgrad=True)
    strategy.step_pre_backward(params, optimizers, state, 5, result.info)
    result.color.sum().backward()
    strategy.step_post_backward(params, optimizers, state, 5, result.info)
    assert len(params["means"]) > 100


def test_a_depth_that_its_caller_overwrites_has_the_same_gradient():
    gradients = []
    for overwrite in (False, True):
        tensors = leaf_tensors(*random_scene(seed=15), torch.float32)
        depth = pick_rasterizer("cpu")(Gaussians(*tensors[:4]), tensors[4], parallel_view()).depth
        total = depth.sum()
        if overwrite:
            depth.detach().fill_(1e6)
        total.backward()
        gradients.append(tensors[0].grad)
    assert torch.equal(*gradients)


def test_results_without_gradients_do_not_require_them():
    gaussians, colors = random_scene()
    with torch.no_grad():
        result = pick_rasterizer("cpu")(gaussians, colors, parallel_view())
    assert not result.color.requires_grad


def test_transmittance_depths_are_where_the_light_stops():
    """Three wide discs of alpha 0.6, 0.4 and 0.9: the transmittance is 0.4, 0.24 and 0.024 after them."""
    view = parallel_view()
    z = torch.tensor([1.0, 0.0, -1.0])  # depth falls with height
    means = torch.stack([torch.zeros(3), torch.zeros(3), z], -1)
    sheets = Gaussians(
        means, torch.tensor([[1.0, 0, 0, 0]] * 3), torch.full((3, 3), 50.0), torch.tensor([0.6, 0.4, 0.9])
    )
    with torch.no_grad():
        rendering = pick_rasterizer("cpu")(sheets, torch.zeros(3, 0), view)
        faint = Gaussians(means[:1], sheets.quats[:1], sheets.scales[:1], sheets.opacities[:1])
        last = pick_rasterizer("cpu")(faint, torch.zeros(1, 0), view)
    depths = means @ view.camera_from_model[2, :3].float() + 10.0
    everywhere = [depth.expand(view.height, view.width) for depth in depths]
    torch.testing.assert_close(rendering.transmittance_depths, torch.stack([everywhere[0], everywhere[2]]))
    max_gap = float(depths[2] - depths[0])
    torch.testing.assert_close(rendering.surface_depth(1.01 * max_gap, 0.01), everywhere[0])
    torch.testing.assert_close(rendering.surface_depth(0.99 * max_gap, 0.01), everywhere[2])
    torch.testing.assert_close(rendering.surface_depth(0.99 * max_gap, 2.0), rendering.depth)
    torch.testing.assert_close(last.surface_depth(0.1, 0.01), everywhere[0])
    assert 0.4 < MEDIAN_T < 1 and 0.2 < DEEP_T < 0.4
