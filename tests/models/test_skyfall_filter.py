"""The 3D filter in the model: minimum size of Gaussians in training, in exports, and after loading."""

import copy

import numpy as np
import pytest
import torch
from helpers.models import densify_often, last_gaussians, make_optimizers, train_step
from nerfstudio.scripts import exporter

from skyfall_ns.models.skyfall import SkyfallModel


@pytest.fixture
def filtered_pipeline(pipeline):
    """A pipeline whose model has the 3D filter."""
    config = copy.deepcopy(pipeline.config)
    config.model.filter_3d = True
    return config.setup(device="cpu")


def finest_gsd_m(model: SkyfallModel) -> float:
    """Meters per pixel across the line of sight of the sharpest image."""
    images = [model.normalized.scene.image_by_name(name) for name in model.normalized.image_names]
    return 1 / max(np.linalg.svd(i.camera.matrix[:, :3], compute_uv=False).max() for i in images)


def test_no_gaussian_is_thinner_than_images_resolve(model, pipeline, filtered_pipeline):
    filtered = filtered_pipeline.model.train()
    min_scale = np.sqrt(0.2) * finest_gsd_m(model) * model.normalized.scale
    filtered_scales = filtered.renderer.gaussians().scales
    assert model.renderer.gaussians().scales.min() < 0.5 * min_scale <= 1.001 * filtered_scales.min()
    torch.testing.assert_close(filtered.scales, model.scales)  # parameters are unchanged
    optimizers = make_optimizers(filtered)
    densify_often(filtered, grow_grad2d=0.0)
    count = filtered.num_points
    for step in range(400, 403):
        train_step(filtered, pipeline, step, optimizers)
    assert filtered.num_points > count and 1.001 * filtered.renderer.gaussians().scales.min() >= min_scale


def test_exported_gaussians_are_filtered(filtered_pipeline, tmp_path, monkeypatch):
    trained = filtered_pipeline
    trained.model.load_state_dict(last_gaussians(trained.model, 2000))
    trained.eval()
    monkeypatch.setattr(exporter, "eval_setup", lambda *_, **__: (None, trained, None, None))
    exporter.ExportGaussianSplat(load_config=tmp_path / "config.yml", output_dir=tmp_path).main()
    header, body = (tmp_path / "splat.ply").read_bytes().split(b"end_header\n", 1)
    names = [line.split()[-1].decode() for line in header.splitlines() if line.startswith(b"property float")]
    written = dict(zip(names, np.frombuffer(body, "<f4").reshape(-1, len(names)).T, strict=True))
    rendered = trained.model.renderer.gaussians()
    kept = rendered.opacities.detach().numpy() > 1 / 255  # Nerfstudio omits more transparent ones
    assert len(written["x"]) == kept.sum() > 1000
    np.testing.assert_allclose(1 / (1 + np.exp(-written["opacity"])), rendered.opacities.detach()[kept], rtol=1e-4)
    scales = np.exp(np.stack([written[f"scale_{i}"] for i in range(3)], 1))
    np.testing.assert_allclose(scales, rendered.scales.detach()[kept], rtol=1e-5)
    raw = trained.model.gauss_params["scales"].detach().exp().numpy()[kept]
    assert (scales > raw).all() and np.median(scales[:, 2] / raw[:, 2]) > 2


def test_filter_is_updated_after_loading(filtered_pipeline):
    model = filtered_pipeline.model.eval()
    before = model.renderer.gaussians()  # caches the radii of Gaussians that are about to be replaced
    model.load_state_dict(last_gaussians(model, 70))
    after = model.renderer.gaussians()
    torch.testing.assert_close(after.scales, before.scales[-70:])
    torch.testing.assert_close(after.opacities, before.opacities[-70:])
