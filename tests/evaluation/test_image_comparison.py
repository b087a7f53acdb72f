"""Image metrics against plain float64 implementations, on random networks; and `skyfall-eval images`."""

import json
import sys

import cv2
import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from skyfall_ns.evaluation.image_metrics import (
    frechet_distance,
    luma_ssim,
    maximum_mean_discrepancy,
    patch_corners,
    psnr_db,
)
from skyfall_ns.evaluation.image_networks import CLIP_MEAN, CLIP_STD, clip_embeddings
from skyfall_ns.scripts import evaluate


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Directory of a tiny random CLIP image encoder."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(hidden_size=16, intermediate_size=32, projection_dim=6, num_hidden_layers=2,
                                           num_attention_heads=2, image_size=32, patch_size=8)  # fmt: skip
    directory = tmp_path_factory.mktemp("clip")
    transformers.CLIPVisionModelWithProjection(config).save_pretrained(directory)
    return directory


def test_clip_metrics_equal_plain_float64_ones(clip):
    from transformers import CLIPVisionModelWithProjection

    network = CLIPVisionModelWithProjection.from_pretrained(clip).eval()
    rng = np.random.default_rng(0)
    sets = [torch.from_numpy(rng.uniform(0, 1, (40, 32, 32, 3)) ** power) for power in (1.0, 1.6)]
    found = [clip_embeddings(network, values) for values in sets]
    double = CLIPVisionModelWithProjection.from_pretrained(clip).eval().double()
    mean, std = (torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (CLIP_MEAN, CLIP_STD))
    with torch.no_grad():
        plain = [double(pixel_values=(v.permute(0, 3, 1, 2) - mean) / std).image_embeds.numpy() for v in sets]
    np.testing.assert_allclose(found[0], plain[0], atol=1e-5)
    a, b = plain
    covariances = [(x - x.mean(0)).T @ (x - x.mean(0)) / (len(x) - 1) for x in (a, b)]
    fid = (
        ((a.mean(0) - b.mean(0)) ** 2).sum()
        + np.trace(sum(covariances))
        - 2 * np.trace(sqrtm(covariances[0] @ covariances[1]).real)
    )
    assert frechet_distance(*found) == pytest.approx(fid, abs=1e-5)

    def kernel(x, y):
        x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
        return np.mean([[np.exp(-((p - q) ** 2).sum() / 200) for q in y] for p in x])

    cmmd = 1000 * (kernel(a, a) + kernel(b, b) - 2 * kernel(a, b))
    assert maximum_mean_discrepancy(*found) == pytest.approx(cmmd, abs=1e-5) and cmmd > 1e-3
    assert maximum_mean_discrepancy(found[0], found[0]) == pytest.approx(0, abs=1e-9)


def test_kernels_in_blocks_equal_whole_ones(monkeypatch):
    from skyfall_ns.evaluation import image_metrics

    a, b = (np.random.default_rng(seed).normal(size=(50, 4)) for seed in (0, 1))
    whole = maximum_mean_discrepancy(a, b)
    monkeypatch.setattr(image_metrics, "ROWS_PER_BATCH", 7)
    assert maximum_mean_discrepancy(a, b) == pytest.approx(whole, abs=1e-9)


def test_ssim_and_psnr_equal_independent_ones():
    """SSIM by scikit-image's formula on luma, without its border; PSNR of a known error."""
    skimage = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(0)
    target = cv2.GaussianBlur(rng.uniform(0, 1, (48, 64, 3)), (0, 0), 2)
    pred = np.clip(target + 0.03 * rng.normal(size=target.shape), 0, 1)
    y = [255 * image @ [0.299, 0.587, 0.114] for image in (pred, target)]
    options = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    _, full = skimage.structural_similarity(*y, full=True, **options)
    found = luma_ssim(torch.from_numpy(pred), torch.from_numpy(target))
    assert found == pytest.approx(full[5:-5, 5:-5].mean(), abs=1e-4)
    gray = torch.full((8, 8, 3), 0.5)
    assert psnr_db(gray + 0.1, gray) == pytest.approx(20.0, abs=1e-4)


def test_patches_of_the_published_script():
    assert len(patch_corners(1024, 1024, 512, True)) == 16 * 16
    assert len(patch_corners(540, 960, 512, True)) == 10 * 150
    assert patch_corners(1024, 1024, 512, False) == [(0, 0), (0, 512), (512, 0), (512, 512)]
    assert patch_corners(400, 1024, 512, True) == []


@pytest.fixture
def call(monkeypatch, capsys):
    def run_main(*arguments):
        monkeypatch.setattr(sys, "argv", ["skyfall-eval", "images", *map(str, arguments)])
        try:
            evaluate.main()
        except SystemExit as exit_error:
            return exit_error.code, capsys.readouterr().err
        return 0, capsys.readouterr().out

    return run_main


def write_images(directory, noise, count=3, size=(96, 64)):
    directory.mkdir()
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    for index in range(count):
        image = 128 + 60 * np.sin(x / 7 + index)[..., None] * np.cos(y / 5)[..., None] * np.ones(3)
        image += noise * np.random.default_rng(index).normal(size=image.shape)
        cv2.imwrite(str(directory / f"{index:03d}.png"), image.clip(0, 255).astype(np.uint8))
    return directory


def test_methods_are_ranked_and_reports_written(call, clip, tmp_path):
    truth = write_images(tmp_path / "truth", 0)
    near, far = write_images(tmp_path / "near", 4), write_images(tmp_path / "far", 40)
    files = [tmp_path / f"r.{suffix}" for suffix in ("json", "csv", "md", "html")]
    code, out = call("--gt", truth, "--methods", f"near={near}", f"far={far}", "--patch", 32, "--protocol", "fast",
                     "--clip-fid-model", clip, "--cmmd-model", clip, "--json", files[0], "--csv", files[1],
                     "--markdown", files[2], "--html", files[3])  # fmt: skip
    assert code == 0 and "CLIP-FID" in out
    report = json.loads(files[0].read_text())["methods"]
    for key, sign in (("psnr", 1), ("ssim", 1), ("clip_fid", -1), ("cmmd", -1)):
        assert sign * report["near"]["mean"][key] > sign * report["far"]["mean"][key]
    assert report["near"]["mean"]["psnr"] == pytest.approx(np.mean([f["psnr"] for f in report["near"]["frames"]]))
    assert len(files[1].read_text().splitlines()) == 7 and files[2].read_text().startswith("| method |")
    page = files[3].read_text()
    assert page.count("<img") == 9 and len(list((tmp_path / "r_images").glob("*.png"))) == 9


def test_a_missing_network_drops_its_metric_with_one_line(call, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "none"))
    truth = write_images(tmp_path / "truth", 0)
    code, out = call("--gt", truth, "--pred", truth, "--clip-fid-model", tmp_path / "a", "--cmmd-model", tmp_path / "b")
    assert code == 0 and out.count("Left out: ") == 3
    assert "Left out: CLIP-FID needs" in out and "Left out: LPIPS needs" in out
    assert "| method | PSNR (dB) | SSIM |" in out


@pytest.mark.parametrize("case", ["unequal", "none", "file", "small", "name", "frames"])
def test_bad_input_is_an_error_of_two_sentences(case, call, clip, tmp_path):
    truth, pred = write_images(tmp_path / "truth", 0), write_images(tmp_path / "pred", 1, 2 if case == "unequal" else 3)
    (tmp_path / "empty").mkdir()
    flags = ["--gt", truth, "--pred", pred, "--patch", 32, "--clip-fid-model", clip]
    words = {
        "unequal": "has 2 images and the truth 3", "none": "has no images", "file": "neither a directory",
        "small": "smaller than --patch 512", "name": "is not NAME=PATH", "frames": "fewer than --frames 9",
    }[case]  # fmt: skip
    if case == "none":
        flags[3] = tmp_path / "empty"
    elif case == "file":
        flags[3] = tmp_path / "truth/000.png"
    elif case == "small":
        flags[5] = 512
    elif case == "name":
        flags[2:4] = ["--methods", "near"]
    elif case == "frames":
        flags += ["--frames", 9]
    code, err = call(*flags, "--json", tmp_path / "r.json")
    assert code == 1 and words in err and err.rstrip().count(". ") == 1 and not (tmp_path / "r.json").exists()
