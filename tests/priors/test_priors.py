"""Depth priors: closed forms for plane and surface, a tiny model of transformers, a stub with the interface of MoGe."""

import math
from pathlib import Path

import pytest
import torch
from helpers.depth_models import build_tiny_depth_anything, install_stub_moge

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.priors.base import comparable_depth, target_depth
from skyfall_ns.priors.learned import MogePriorConfig, TransformersPriorConfig
from skyfall_ns.priors.plane import PlanePriorConfig
from skyfall_ns.priors.surface import HeightField, SurfacePriorConfig, camera_rays, march_rays
from skyfall_ns.view import View

CPU = torch.device("cpu")


def make_camera(elevation_deg: float = 60.0, radius: float = 100.0, size: int = 64, fov_deg: float = 40) -> View:
    """A camera south of the origin that points to it."""
    e = math.radians(elevation_deg)
    eye = radius * torch.tensor([0.0, -math.cos(e), math.sin(e)], dtype=torch.float64)
    forward = -eye / eye.norm()
    right = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    down = torch.linalg.cross(forward, right)
    view = torch.eye(4, dtype=torch.float64)
    view[:3, :3] = torch.stack([right, down, forward])
    view[:3, 3] = -view[:3, :3] @ eye
    f = size / (2 * math.tan(math.radians(fov_deg) / 2))
    k = torch.tensor([[f, 0, size / 2], [0, f, size / 2], [0, 0, 1]], dtype=torch.float64)
    return View(view, k, size, size, "pinhole")


def flat_field(height: float = 0.0, cells: int = 400, cell: float = 1.0) -> HeightField:
    return HeightField(
        torch.full((cells, cells), height, dtype=torch.float64), -cells * cell / 2, cells * cell / 2, cell
    )


def random_image(size: int = 64) -> torch.Tensor:
    return torch.rand(size, size, 3, generator=torch.Generator().manual_seed(0))


def test_surface_of_a_plane_equals_the_plane_prior():
    view = make_camera()
    with PlanePriorConfig(height=3.0).load(CPU) as plane, SurfacePriorConfig(flat_field(3.0)).load(CPU) as surface:
        exact, marched = plane(random_image(), view), surface(random_image(), view)
    assert marched.valid.all()
    assert (exact.values - marched.values).abs().max() < 0.05
    assert exact.values[32, 32].item() == pytest.approx(100 - 3 / math.sin(math.radians(60)), abs=1.0)


def test_a_tower_occludes_what_is_behind_it():
    field = flat_field()
    field.height[190:210, 190:210] = 30.0  # 20 m wide, 30 m high, on the origin
    view = make_camera(elevation_deg=20, radius=150)
    depth, ground = march_rays(field, view), march_rays(flat_field(), view)
    center = (32, 32)
    face = 150 - 10 / math.cos(math.radians(20))  # the axis hits the southern wall, 10 m before the origin
    assert depth[center].item() == pytest.approx(face, abs=1.0)
    both = torch.isfinite(ground) & torch.isfinite(depth)
    assert (ground - depth)[both].min() > -0.2


def test_holes_are_invalid():
    field = flat_field()
    field.height[:, :200] = torch.nan  # the western half
    with SurfacePriorConfig(field).load(CPU) as surface:
        valid = surface(random_image(), make_camera()).valid
    assert not valid[:, :30].any()
    assert valid[:, 34:].all()


def test_rays_that_enter_from_a_hole_or_from_outside_are_invalid():
    """A block has no wall where rays enter it from cells without heights."""
    field = flat_field(cells=40)
    field.height[20:] = torch.nan  # the southern half, from which the camera looks
    field.height[:20] = 10.0
    view = make_camera(elevation_deg=20)
    depth, whole = march_rays(field, view), march_rays(flat_field(height=10.0, cells=40), view)
    hit = torch.isfinite(depth)
    assert hit.any() and hit.sum() < torch.isfinite(whole).sum()
    torch.testing.assert_close(depth[hit], whole[hit], atol=1e-3, rtol=0)  # on the roof, never on a wall


@pytest.mark.parametrize("elevation_deg", [15.0, 45.0, 80.0, 89.99])
def test_marching_is_exact_on_a_slope(elevation_deg):
    field = flat_field(cells=200)
    x = torch.arange(200) - 99.5
    field.height[:] = 0.1 * x
    view = make_camera(elevation_deg)
    depth = march_rays(field, view)
    center, directions = camera_rays(view)
    point = center + depth[..., None] * directions
    error = (point[..., 2] - 0.1 * point[..., 0])[torch.isfinite(depth)]
    assert torch.isfinite(depth)[40:].all() and error.abs().max() < 0.11  # half a cell of slope, and a step


def test_a_missing_surface_is_an_error_before_training():
    with pytest.raises(TrainingError, match=r"no dense surface.*--points dense"):
        SurfacePriorConfig(None).check()


def test_disparity_is_compared_with_disparity():
    depth = torch.rand(8, 8, dtype=torch.float64) * 50 + 100
    from skyfall_ns.priors.base import DepthPrediction

    prediction = DepthPrediction(7.0 / depth + 2.0, torch.ones(8, 8, dtype=torch.bool), "affine_disparity")
    pair = torch.stack([comparable_depth(depth, prediction.kind).flatten(), target_depth(prediction).flatten()])
    assert torch.corrcoef(pair)[0, 1].item() == pytest.approx(1.0, abs=1e-9)


def test_missing_package_gives_the_install_line():
    with pytest.raises(MissingExtraError, match=r"moge.*pip install git"):
        MogePriorConfig().check()
    with pytest.raises(TrainingError, match=r"not support bfloat16\. Pass"):
        MogePriorConfig(dtype="bfloat16").check()


def test_moge_takes_the_true_field_of_view_and_its_mask_is_kept(monkeypatch, tmp_path):
    moge = install_stub_moge(monkeypatch, "v3")
    weights = tmp_path / "model.pt"
    weights.touch()
    for named in (weights, tmp_path):  # the file, or its directory
        with MogePriorConfig(version="v3", weights=str(named)).load(CPU) as prior:
            prediction = prior(random_image() * 3 - 1, make_camera())
        assert Path(moge.weights) == weights
    assert moge.calls[0]["fov_x"] == pytest.approx(40.0) and not moge.calls[0]["use_fp16"]
    assert moge.calls[0]["shape"] == (3, 64, 64) and moge.calls[0]["low"] >= 0 and moge.calls[0]["high"] <= 1
    assert not prediction.valid[:10].any() and prediction.valid[10:].all() and torch.isfinite(prediction.values).all()


def test_a_tiny_real_transformers_model_runs(tmp_path):
    build_tiny_depth_anything(tmp_path)
    with TransformersPriorConfig(weights=str(tmp_path)).load(CPU) as prior:
        prediction = prior(random_image(), make_camera())
    assert prediction.values.shape == (64, 64) and prediction.kind == "affine_disparity" and prediction.valid.all()


def test_the_kind_of_prediction_is_known_or_an_error(tmp_path):
    build_tiny_depth_anything(tmp_path / "metric", depth_estimation_type="metric", max_depth=80)
    assert TransformersPriorConfig(weights=str(tmp_path / "metric")).prediction_kind() == "metric"
    config = tmp_path / "metric/config.json"
    config.write_text('{"model_type": "dpt"}')  # DPT models predict depth or disparity
    with pytest.raises(TrainingError, match=r"a model of type dpt, .* unknown .*\. Pass --pipeline\.depth\.kind"):
        TransformersPriorConfig(weights=str(tmp_path / "metric")).check()
    TransformersPriorConfig(weights=str(tmp_path / "metric"), kind="metric").check()
    config.write_text('{"model_type": "no-such-type"}')
    with pytest.raises(TrainingError, match=r"is not a model that transformers .* supports\. Pass other"):
        TransformersPriorConfig(weights=str(tmp_path / "metric")).check()


@pytest.mark.parametrize("weights", ["nobody/nothing-at-all", "no/such/folder/at-all", "."])
def test_missing_weights(weights):
    pytest.importorskip("transformers", reason="the extra `depth` is not installed")
    with pytest.raises(MissingExtraError, match=r"not on this machine, or incomplete\. Run `hf download"):
        TransformersPriorConfig(weights=weights).check()
