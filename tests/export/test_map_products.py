"""Orthophoto, colors of the DSM and point cloud, read by other programs and projected through the adjusted RPCs."""

import json
import shutil
import sys
from pathlib import Path

import laspy
import numpy as np
import pytest
import rasterio
import torch
from helpers.untrained_run import save_untrained_run
from pyproj import CRS, Transformer
from scipy.ndimage import map_coordinates

from skyfall_ns.geo.rpc import RPC
from skyfall_ns.pipelines import load_run
from skyfall_ns.scene.scene import Scene
from skyfall_ns.scripts import export


@pytest.fixture(scope="module")
def config(city_scene, tmp_path_factory) -> Path:
    """config.yml of a run without training steps."""
    yield save_untrained_run(city_scene, tmp_path_factory.mktemp("runs"))
    torch.set_grad_enabled(True)  # loading a run disables it


@pytest.fixture(scope="module")
def model(config):
    return load_run.load_run(config)


@pytest.fixture
def call_export(config, model, monkeypatch, capsys):
    """Run `skyfall-export` on the run, which is loaded once; exit code and output or errors."""
    monkeypatch.setattr(load_run, "load_run", lambda _: model)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["skyfall-export", *map(str, arguments), "--load-config", str(config)])
        try:
            export.main()
        except SystemExit as exit_error:
            return exit_error.code, capsys.readouterr().err
        return 0, capsys.readouterr().out

    return call


def geodetic(crs: str, x, y, z) -> np.ndarray:
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    return np.stack([lon, lat, z], -1)


def image_correlation(scene: Scene, lonlath: np.ndarray, brightness: np.ndarray, shift_px: float = 0.0) -> float:
    """Correlation between colors of points and the image in which the adjusted RPC projects them."""
    image = scene.images[0]
    with rasterio.open(scene.directory / image.path) as file:
        pixels = image.tone.apply_curve(np.moveaxis(file.read(), 0, -1)).mean(-1)
    colrow = RPC.from_dict(image.rpc).project(lonlath) + shift_px
    inside = (colrow > 1).all(1) & (colrow < np.array(pixels.shape[::-1]) - 2).all(1)
    sampled = map_coordinates(pixels, colrow[inside][:, ::-1].T, order=1)
    return float(np.corrcoef(sampled, brightness[inside])[0, 1])


@pytest.mark.parametrize("crs", ["EPSG:32631", "EPSG:2154"])
def test_the_orthophoto_has_the_colors_of_the_images_at_their_places(crs, call_export, model, city_scene, tmp_path):
    """Through the heights of the DSM, whose cells are the same, its pixels are where the RPC says."""
    scene = Scene.from_directory(city_scene)
    name = scene.images[0].name
    code, out = call_export("ortho", "--output", tmp_path / "ortho.tif", "--resolution", 0.5, "--crs", crs,
                            "--appearance", f"{name}:sun")  # fmt: skip
    assert code == 0 and crs in out
    call_export("dsm", "--output", tmp_path / "dsm.tif", "--resolution", 0.5, "--crs", crs,
                "--colors", tmp_path / "colors.tif", "--appearance", f"{name}:sun")  # fmt: skip
    with rasterio.open(tmp_path / "ortho.tif") as file, rasterio.open(tmp_path / "dsm.tif") as dsm:
        assert file.crs.to_epsg() == int(crs[5:]) and file.transform == dsm.transform and file.shape == dsm.shape
        assert file.dtypes == ("uint8",) * 4 and file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert [c.name for c in file.colorinterp] == ["red", "green", "blue", "alpha"]
        assert file.tags()["GENERATIVE"] == "no" and scene.images[0].source in file.tags()["ATTRIBUTION"]
        bands, heights = file.read(), dsm.read(1, masked=True)
        rows, columns = np.nonzero(~np.ma.getmaskarray(heights) & (bands[3] == 255))
        x, y = rasterio.transform.xy(file.transform, rows, columns)
    with rasterio.open(tmp_path / "colors.tif") as file:
        np.testing.assert_array_equal(file.read(), bands)
    lonlath = geodetic(crs, np.array(x), np.array(y), heights.data[rows, columns].astype(float))
    brightness = bands[:3, rows, columns].mean(0)
    correlation = image_correlation(scene, lonlath, brightness)
    shifted = [image_correlation(scene, lonlath, brightness, shift) for shift in (-2.0, 2.0)]
    assert correlation > 0.75 and max(shifted) < correlation - 0.02


@pytest.mark.parametrize("crs", [None, "EPSG:2154"])
def test_points_are_on_the_pixels_of_the_model(crs, call_export, model, city_scene, tmp_path):
    path = tmp_path / "new/points.laz"
    code, out = call_export("points", "--output", path, *(("--crs", crs) if crs else ()))
    assert code == 0 and "ellipsoidal heights" in out
    cloud = laspy.read(path)
    assert (
        str(cloud.header.version) == "1.4" and cloud.header.are_points_compressed and cloud.header.global_encoding.wkt
    )
    crs_read = cloud.header.parse_crs()
    assert crs_read.to_epsg() == int((crs or "EPSG:32631")[5:])
    xyz = np.stack([cloud.x, cloud.y, cloud.z], 1)
    lonlath = geodetic(crs_read, *xyz.T)
    scene = Scene.from_directory(city_scene)
    local = scene.frame.from_geodetic(lonlath)
    for image in scene.images:
        distance = np.linalg.norm(RPC.from_dict(image.rpc).project(lonlath) - image.camera.project(local), axis=1)
        assert np.median(distance) < 0.3
    assert image_correlation(scene, lonlath, np.array(cloud.green, float)) > 0.6
    source = np.array(cloud["source"])
    assert (source == 1).mean() > 0.5
    np.testing.assert_array_equal(np.array(cloud.classification), np.array([1, 64, 65])[source])
    vlrs = [vlr for vlr in cloud.header.vlrs if vlr.user_id == "skyfall-ns"]
    assert scene.images[0].source in vlrs[0].record_data.decode()


def write_geoid_grid(path: Path, height_m: float) -> None:
    """A global geoid of constant height in PROJ's GeoTIFF format."""
    tags = {"TYPE": "VERTICAL_OFFSET_GEOGRAPHIC_TO_VERTICAL", "target_crs_epsg_code": "5773", "AREA_OR_POINT": "Point"}
    shape = (181, 361)
    transform = rasterio.Affine(1, 0, -180.5, 0, -1, 90.5)
    with rasterio.open(path, "w", driver="GTiff", width=shape[1], height=shape[0], count=1, dtype="float32",
                       crs="EPSG:4979", transform=transform) as file:  # fmt: skip
        file.write(np.full((1, *shape), height_m, np.float32))
        file.update_tags(**tags)
        file.update_tags(1, DESCRIPTION="geoid_undulation", UNITTYPE="metre")
        file.units = ("metre",)
        file.descriptions = ("geoid_undulation",)


@pytest.mark.slow
@pytest.mark.process
def test_heights_above_a_geoid_whose_grid_is_installed(city_scene, config, tmp_path):
    """With a grid of a constant undulation, all heights are lower by it, and files name the vertical CRS."""
    from helpers.commands import BIN, subprocess

    data = tmp_path / "proj"
    data.mkdir()
    write_geoid_grid(data / "us_nga_egm96_15.tif", 48.5)
    source = (
        "import sys, pyproj; pyproj.datadir.append_data_dir(sys.argv.pop(1)); sys.argv[0] = 'skyfall-export'\n"
        "from skyfall_ns.scripts.export import main; main()"
    )
    found = {}
    for vertical in ("ellipsoid", "EGM96"):
        command = [BIN / "python", "-c", source, data, "points", "--load-config", config,
                   "--output", tmp_path / f"{vertical}.laz", "--vertical", vertical]  # fmt: skip
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        found[vertical] = laspy.read(tmp_path / f"{vertical}.laz")
    np.testing.assert_allclose(np.array(found["ellipsoid"].z) - np.array(found["EGM96"].z), 48.5, atol=0.002)
    compound = CRS.from_wkt(found["EGM96"].header.parse_crs().to_wkt())
    assert compound.is_compound and compound.sub_crs_list[1].to_epsg() == 5773


@pytest.mark.parametrize(
    ("kind", "flags", "words"),
    [
        ("ortho", ("--crs", "EPSG:32656"), "--crs EPSG:32656 is made for"),
        ("ortho", ("--resolution", 0), "--resolution 0.0 is not a sensible cell size"),
        ("ortho", ("--appearance", "summer"), "--appearance summer names no training image"),
        ("dsm", ("--crs", "EPSG:32656"), "--crs EPSG:32656 is made for"),
        ("dsm", ("--vertical", "EGM2008"), "us_nga_egm08_25.tif"),
        ("points", ("--crs", "EPSG:4326"), "not a projected system"),
        ("points", ("--vertical", "EGM96"), "us_nga_egm96_15.tif"),
    ],
)
def test_bad_flags_are_errors_of_two_sentences(kind, flags, words, call_export, tmp_path):
    code, err = call_export(kind, "--output", tmp_path / "file", *flags)
    assert code == 1 and words in err and err.count(". ") == 1
    assert not list(tmp_path.iterdir())


def test_generated_content_is_on_record(call_export, config, tmp_path):
    episode = config.parent / "idu/episode_01"
    episode.mkdir(parents=True)
    (episode / "manifest.json").write_text(json.dumps({"refiner": {"name": "instruct"}, "generative": True}))
    try:
        for kind, name in (("ortho", "o.tif"), ("dsm", "d.tif"), ("points", "p.laz")):
            _, out = call_export(kind, "--output", tmp_path / name)
            assert "generated by a diffusion model" in out
            if kind == "points":
                records = [vlr.record_data.decode() for vlr in laspy.read(tmp_path / name).header.vlrs
                           if vlr.user_id == "skyfall-ns"]  # fmt: skip
                assert "generated by a diffusion model" in records[0]
            else:
                with rasterio.open(tmp_path / name) as file:
                    assert file.tags()["GENERATIVE"] == "yes"
    finally:
        shutil.rmtree(config.parent / "idu")
