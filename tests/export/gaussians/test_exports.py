"""Exported Gaussians, read by other programs: where they are, what they look like, and what files say about them."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.gaussian_files import read_gaussian_file
from helpers.untrained_run import save_untrained_run
from pyproj import Transformer

from skyfall_ns.geo.rpc import RPC
from skyfall_ns.pipelines.load_run import load_run
from skyfall_ns.scene.model_space import HALF_PIXEL
from skyfall_ns.scripts import export
from skyfall_ns.view import apply_quadratic_term, training_views

FORMATS = ("ply", "spz", "splat", "glb")


@pytest.fixture(scope="module")
def config(city_scene, tmp_path_factory) -> Path:
    """config.yml of a run without training steps."""
    pytest.importorskip("gsply", reason="the extra `export` is not installed")
    yield save_untrained_run(city_scene, tmp_path_factory.mktemp("runs"))
    torch.set_grad_enabled(True)  # loading a run disables it


@pytest.fixture(scope="module")
def renderer(config):
    return load_run(config).renderer


@pytest.fixture
def call_export(config, renderer, monkeypatch, capsys):
    """Run `skyfall-export` on the run, which is loaded once; exit code and standard error."""
    import skyfall_ns.export.gaussians.load_cloud as module

    monkeypatch.setattr(module, "load_run", lambda _: type("Model", (), {"renderer": renderer}))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["skyfall-export", *map(str, arguments), "--load-config", str(config)])
        try:
            export.main()
        except SystemExit as exit_error:
            return exit_error.code, capsys.readouterr().err
        return 0, capsys.readouterr().out

    return call


def placement_of(path: Path) -> dict:
    return json.loads((path.parent / "placement.json").read_text())["files"][path.name]


def lonlath_of(path: Path) -> np.ndarray:
    """Degrees and ellipsoidal heights of a file's Gaussians by its placement and pyproj alone."""
    entry = placement_of(path)
    xyz = np.array(entry["origin"]) + entry["unit_m"] * read_gaussian_file(path).xyz + entry["offset_m"]
    transformer = Transformer.from_crs(entry["crs"], "EPSG:4326", always_xy=True)
    lon, lat = transformer.transform(xyz[:, 0], xyz[:, 1])
    return np.stack([lon, lat, xyz[:, 2]], 1)


def visible_means(renderer) -> torch.Tensor:
    return renderer.means.detach().double()


def nearest(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Distance of each point to the nearest other one."""
    from scipy.spatial import cKDTree

    return cKDTree(others).query(points)[0]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("crs", ["local", "EPSG:2154"])
def test_files_project_through_the_adjusted_rpcs_to_the_pixels_of_the_model(kind, crs, call_export, renderer, tmp_path):
    path = tmp_path / f"new/city.{kind}"
    code, out = call_export(kind, "--output", path, "--crs", crs)
    assert code == 0 and f"{path}: " in out
    assert placement_of(path)["crs"] == (renderer.normalized.scene.frame.crs if crs == "local" else crs)
    lonlath = lonlath_of(path)
    assert len(lonlath) == len(renderer.means)
    for name, view in zip(renderer.normalized.image_names, training_views(renderer.normalized), strict=True):
        shifted = apply_quadratic_term(visible_means(renderer), view)
        pixels = (shifted @ view.camera_from_model[:2, :3].T + view.intrinsics[:2, 2] - HALF_PIXEL).numpy()
        projected = RPC.from_dict(renderer.normalized.scene.image_by_name(name).rpc).project(lonlath)
        if kind == "splat":  # sorted by visibility
            assert np.median(nearest(projected, pixels)) < 0.02
        else:
            distance = np.linalg.norm(projected - pixels, axis=1)
            assert np.median(distance) < 0.02 and distance.max() < 0.3


@pytest.mark.parametrize("kind", FORMATS)
def test_shapes_and_colors_are_those_that_are_rendered(kind, call_export, renderer, tmp_path):
    path = tmp_path / f"city.{kind}"
    call_export(kind, "--output", path, "--kernel-pixel", 0)
    found = read_gaussian_file(path)
    gaussians, scale = renderer.gaussians(), renderer.normalized.scale
    expected_scales = gaussians.scales.numpy() / scale
    if kind == "splat":
        found_rgb, expected = np.sort(found.rgb.mean(1)), np.sort(renderer.free_view_colors().numpy().mean(1))
        np.testing.assert_allclose(found_rgb, expected, atol=0.01)
        np.testing.assert_allclose(np.sort(found.scales.prod(1)), np.sort(expected_scales.prod(1)), rtol=1e-4)
        return
    tolerance = {"spz": 0.035}.get(kind, 1e-5)
    np.testing.assert_allclose(np.log(found.scales), np.log(expected_scales), atol=tolerance)
    np.testing.assert_allclose(found.opacity, gaussians.opacities.numpy(), atol=tolerance)
    np.testing.assert_allclose(found.rgb, renderer.free_view_colors().numpy(), atol=tolerance)
    if kind != "spz":
        np.testing.assert_allclose(np.linalg.norm(found.quats, axis=1), 1, atol=1e-6)
    reference = type(found)(found.xyz, torch.nn.functional.normalize(gaussians.quats, dim=-1).numpy(),
                            expected_scales, found.opacity, found.rgb)  # fmt: skip
    difference = np.linalg.norm(found.covariances() - reference.covariances(), axis=(1, 2))
    assert (difference / np.linalg.norm(reference.covariances(), axis=(1, 2))).max() < 3 * tolerance


def test_spz_version_2_differs_in_rotations_only(call_export, tmp_path):
    call_export("spz", "--output", tmp_path / "two.spz", "--spz-version", 2)
    call_export("spz", "--output", tmp_path / "three.spz")
    two, three = read_gaussian_file(tmp_path / "two.spz"), read_gaussian_file(tmp_path / "three.spz")
    for name in ("xyz", "scales", "opacity", "rgb"):
        np.testing.assert_array_equal(getattr(two, name), getattr(three, name))
    cosine = np.abs((two.quats * three.quats).sum(1) / np.linalg.norm(two.quats, axis=1))
    assert cosine.min() > 0.99


def test_another_crs_turns_and_scales_the_gaussians(call_export, tmp_path):
    """The covariances in a CRS whose north is another are those of the scene, turned as the centers are."""
    call_export("ply", "--output", tmp_path / "utm.ply", "--kernel-pixel", 0)
    call_export("ply", "--output", tmp_path / "laea.ply", "--kernel-pixel", 0, "--crs", "EPSG:3035")
    utm, laea = read_gaussian_file(tmp_path / "utm.ply"), read_gaussian_file(tmp_path / "laea.ply")
    centered = [points.xyz - points.xyz.mean(0) for points in (utm, laea)]
    u, _, vt = np.linalg.svd(centered[1].T @ centered[0])
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    assert 3 < abs(np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0]))) < 12
    expected = rotation @ utm.covariances() @ rotation.T
    unturned = np.abs(laea.covariances() - utm.covariances()).max()
    error = np.abs(laea.covariances() - expected).max()
    assert error < 0.01 * np.abs(expected).max() and error < 0.5 * unturned


def test_appearances(call_export, renderer, tmp_path):
    name = renderer.normalized.image_names[0]
    colors = {}
    for appearance in ("mean", name, f"{name}:sun"):
        path = tmp_path / f"{len(colors)}.ply"
        code, out = call_export("ply", "--output", path, "--appearance", appearance)
        assert code == 0, out
        colors[appearance] = read_gaussian_file(path).rgb
        assert placement_of(path)["appearance"] == appearance
        assert f"comment appearance {appearance}" in path.read_bytes()[:3000].decode("ascii", "ignore")
    uniform, sunny = colors[name], colors[f"{name}:sun"]
    assert np.quantile(sunny.mean(1), 0.1) < 0.8 * np.quantile(uniform.mean(1), 0.1)  # facades and shadows
    np.testing.assert_array_equal(np.argsort(uniform.mean(1))[-1], np.argsort(renderer.albedo().numpy().mean(1))[-1])


def test_two_files_of_one_directory_keep_their_placements(call_export, tmp_path):
    call_export("splat", "--output", tmp_path / "a.splat")
    call_export("splat", "--output", tmp_path / "b.splat", "--crs", "EPSG:2154")
    assert placement_of(tmp_path / "a.splat")["crs"] != placement_of(tmp_path / "b.splat")["crs"]
    entry = placement_of(tmp_path / "b.splat")
    point = np.array(entry["origin"]) + [20.0, -30.0, 10.0]
    lon, lat = Transformer.from_crs("EPSG:2154", "EPSG:4326", always_xy=True).transform(*point[:2])
    expected = Transformer.from_crs("EPSG:4979", "EPSG:4978", always_xy=True).transform(lon, lat, point[2])
    found = np.array(entry["ecef_from_file"]) @ [20.0, -30.0, 10.0, 1]
    np.testing.assert_allclose(found[:3], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--crs", "EPSG:32656"), "--crs EPSG:32656 is made for"),
        (("--crs", "EPSG:4326"), "not a projected system"),
        (("--crs", "EPSG:2154+5773"), "has a vertical component"),
        (("--vertical", "EGM2008"), "us_nga_egm08_25.tif"),
        (("--appearance", "summer"), "--appearance summer names no training image"),
        (("--kernel-pixel", "-1"), "--kernel-pixel -1 is no pixel size"),
        (("--output", "."), "--output . is a directory"),
    ],
)
def test_bad_flags_are_errors_of_two_sentences(flags, words, call_export, tmp_path):
    output = () if "--output" in flags else ("--output", tmp_path / "city.splat")
    code, err = call_export("splat", *output, *flags)
    assert code == 1 and words in err and err.removeprefix("Error: --output .").count(". ") == 1
    assert not list(tmp_path.iterdir())


def test_a_placement_of_another_program_is_kept(call_export, tmp_path):
    (tmp_path / "placement.json").write_text("{}")
    code, err = call_export("splat", "--output", tmp_path / "city.splat")
    assert code == 1 and "not a placement file of this program" in err and err.count(". ") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["placement.json"]


def test_a_generative_refiner_is_on_record_in_every_file(call_export, config, tmp_path, monkeypatch):
    episode = config.parent / "idu/episode_01"
    episode.mkdir(parents=True)
    (episode / "manifest.json").write_text(json.dumps({"refiner": {"name": "flowedit"}, "generative": True}))
    try:
        for kind in FORMATS:
            path = tmp_path / f"city.{kind}"
            _, out = call_export(kind, "--output", path)
            assert "generated by a diffusion model" in out
            assert placement_of(path)["generative"] is True and placement_of(path)["refiners"] == ["flowedit"]
        assert b"comment generative yes" in (tmp_path / "city.ply").read_bytes()[:3000]
        assert b'"generative":true' in (tmp_path / "city.glb").read_bytes()[:4000]
    finally:
        shutil.rmtree(config.parent / "idu")
