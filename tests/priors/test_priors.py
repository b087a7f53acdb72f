"""Depth priors: closed forms for plane and surface, tiny models of transformers and of MoGe."""

import math

import pytest
import torch
from helpers.depth_models import build_tiny_depth_anything, build_tiny_moge, record_moge_calls

from skyfall_ns.errors import MissingExtraError, TrainingError
from skyfall_ns.priors.base import comparable_depth, target_depth
from skyfall_ns.priors.learned import TransformersPriorConfig
from skyfall_ns.priors.moge import MogePriorConfig
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


def test_missing_package_gives_the_install_line(monkeypatch):
    with pytest.raises(TrainingError, match=r"not support bfloat16\. Pass"):
        MogePriorConfig(dtype="bfloat16").check()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        MissingExtraError, match=r"moge, which is not installed\. Run `pip install 'skyfall-ns\[depth\]'"
    ):
        MogePriorConfig().check()


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_moge_takes_the_true_field_of_view_and_its_mask_is_kept(version, monkeypatch, tmp_path):
    build_tiny_moge(tmp_path / "all", version)
    build_tiny_moge(tmp_path / "nothing", version, mask_bias=-9.0)
    calls = record_moge_calls(monkeypatch, version)
    for weights in (tmp_path / "all", tmp_path / "all/model.pt", tmp_path / "nothing"):
        with MogePriorConfig(version=version, weights=str(weights)).load(CPU) as prior:
            prediction = prior(random_image() * 3 - 1, make_camera())
        assert bool(prediction.valid.all()) == (weights.name != "nothing") == bool(prediction.valid.any())
        assert torch.isfinite(prediction.values).all() and prediction.kind == "affine_depth"
        assert not prediction.values.is_inference()  # such tensors cannot be part of a loss
    assert len(calls) == 3 and calls[0]["fov_x"] == pytest.approx(40.0) and calls[0]["dtype"] == torch.float32
    assert calls[0]["shape"] == (3, 64, 64) and calls[0]["low"] >= 0 and calls[0]["high"] <= 1


def test_moge_has_its_weights_in_the_requested_format_where_it_runs_in_it(tmp_path):
    build_tiny_moge(tmp_path)
    half = MogePriorConfig(weights=str(tmp_path), dtype="float16")
    with half.load(torch.device("meta")) as prior:
        assert {p.dtype for p in prior.model.parameters()} == {torch.float16}
    with pytest.warns(UserWarning, match="not run in float16 on a CPU"), half.load(CPU) as prior:
        assert {p.dtype for p in prior.model.parameters()} == {torch.float32}
        assert prior(random_image(), make_camera()).valid.all()


def test_moge_weights_of_another_version_are_refused_before_training(tmp_path):
    build_tiny_moge(tmp_path / "one", "v1")
    build_tiny_moge(tmp_path / "two", "v2")
    with pytest.raises(
        TrainingError, match=r"weights of MoGe 1, but the version is v2\. Pass --pipeline\.depth\.moge-v"
    ):
        MogePriorConfig("v2", str(tmp_path / "one")).check()
    with pytest.raises(TrainingError, match=r"MoGe 2 or later, but the version is v1\. Pass --pipeline\.depth\.moge-v"):
        MogePriorConfig("v1", str(tmp_path / "two")).check()
    with pytest.raises(TrainingError, match=r"does not have MoGe v3\. Pass --pipeline\.depth\.moge-version v1 or v2"):
        MogePriorConfig("v3", str(tmp_path / "two")).check()
    (tmp_path / "one/model.pt").write_bytes(b"no checkpoint")
    with pytest.raises(TrainingError, match=r"damaged, or not a checkpoint of MoGe\. Download"):
        MogePriorConfig("v1", str(tmp_path / "one")).check()


def test_moge_is_loaded_from_the_cache_of_the_hub_without_network(monkeypatch, tmp_path):
    build_tiny_moge(tmp_path)
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("used the network"))
    cached = str(tmp_path / "model.pt")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: cached)
    with MogePriorConfig(weights="somebody/moge").load(CPU) as prior:
        assert prior(random_image(), make_camera()).valid.all()


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
    config.write_text('{"model_type": "prompt_depth_anything"}')
    with pytest.raises(TrainingError, match=r"prompt_depth_anything, which needs a depth map as input\. Pass"):
        TransformersPriorConfig(weights=str(tmp_path / "metric"), kind="metric").check()
    config.write_text('{"model_type": "no-such-type"}')
    with pytest.raises(TrainingError, match=r"is not a model that transformers .* supports\. Pass other"):
        TransformersPriorConfig(weights=str(tmp_path / "metric")).check()


@pytest.mark.parametrize("weights", ["nobody/nothing-at-all", "no/such/folder/at-all", "."])
def test_missing_weights(weights):
    pytest.importorskip("transformers", reason="the extra `depth` is not installed")
    with pytest.raises(MissingExtraError, match=r"not on this machine, or incomplete\. Run `hf download"):
        TransformersPriorConfig(weights=weights).check()
