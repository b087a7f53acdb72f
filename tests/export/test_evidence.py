"""Source and sigma of exported heights: on the DSM's grid in any CRS; refused for scenes without a dense surface."""

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from pyproj import Transformer

from skyfall_ns.errors import SkyfallError
from skyfall_ns.export.dsm_export import DsmExport
from skyfall_ns.export.surface_lookup import sample_surface
from skyfall_ns.geo.grid import Grid
from skyfall_ns.method_configs import skyfall
from skyfall_ns.pipelines import load_run
from skyfall_ns.scene.height_grid import SurfaceLayers
from skyfall_ns.scene.scene import Scene


def write_config(directory: Path) -> Path:
    """config.yml of a run of stage 1; the run itself is replaced."""
    path = directory / "config.yml"
    path.write_text("pipeline: {datamanager: {}}\n")
    return path


@pytest.fixture(scope="module")
def model(city_scene):
    """The model of a run before its first step."""
    config = copy.deepcopy(skyfall.config.pipeline)
    config.datamanager.data = city_scene
    return config.setup(device="cpu", test_mode="inference").model.eval()


@pytest.fixture
def export(model, tmp_path, monkeypatch):
    """Call `skyfall-export dsm` on the run: heights, mask and sigma (masked arrays), and their files."""

    def call_export(run=model, **flags) -> SimpleNamespace:
        monkeypatch.setattr(load_run, "load_run", lambda _: run)
        files = {name: tmp_path / f"{name}.tif" for name in ("output", "mask", "sigma")}
        DsmExport(write_config(tmp_path), **files, **flags).run()
        return SimpleNamespace(**{name: read_band(path) for name, path in files.items()}, files=files)

    return call_export


def read_band(path: Path) -> np.ma.MaskedArray:
    with rasterio.open(path) as file:
        return file.read(1, masked=True)


def sample_layer(layer: Path, reference: Path) -> np.ndarray:
    """A layer of the scene at the cells of another raster, read without this package; NaN outside."""
    with rasterio.open(reference) as file, rasterio.open(layer) as source:
        x, y = rasterio.transform.xy(file.transform, *np.indices(file.shape).reshape(2, -1))
        x, y = Transformer.from_crs(file.crs, source.crs, always_xy=True).transform(x, y)
        values = source.read(1).astype(float)
        row, column = rasterio.transform.rowcol(source.transform, x, y)
        row, column = np.array(row), np.array(column)
        inside = (row >= 0) & (row < source.height) & (column >= 0) & (column < source.width)
        found = np.where(inside, values[np.where(inside, row, 0), np.where(inside, column, 0)], np.nan)
        return found.reshape(file.shape)


@pytest.mark.parametrize("flags", [{}, {"resolution": 0.3}, {"resolution": 2.0}, {"crs": "EPSG:2154"},
                                   {"crs": "EPSG:3035", "resolution": 1.0}])  # fmt: skip
def test_the_mask_is_the_source_of_the_surface_in_any_crs_and_size(city_scene, export, flags):
    exported = export(**flags)
    has_height = ~np.ma.getmaskarray(exported.output)
    expected = np.where(has_height, sample_layer(city_scene / "surface_source.tif", exported.files["output"]), 0)
    assert exported.mask.dtype == np.uint8 and exported.mask.shape == exported.output.shape
    assert (exported.mask == 1).sum() > 0.5 * has_height.sum() > 100
    assert (exported.mask != expected).mean() < 0.002  # cells whose center lies on a border
    with rasterio.open(exported.files["mask"]) as mask, rasterio.open(exported.files["output"]) as dsm:
        assert (mask.crs, mask.transform) == (dsm.crs, dsm.transform)


def test_sigma_is_at_least_that_of_the_surface(city_scene, export):
    exported = export(resolution=0.5)
    surface_sigma = sample_layer(city_scene / "surface_sigma.tif", exported.files["output"])
    has_sigma = ~np.ma.getmaskarray(exported.sigma)
    np.testing.assert_array_equal(has_sigma, (exported.mask != 0).filled() & np.isfinite(surface_sigma))
    assert (exported.sigma.data[has_sigma] >= surface_sigma[has_sigma] - 1e-4).all()
    with rasterio.open(exported.files["sigma"]) as file:
        assert file.dtypes == ("float32",) and file.nodata == -9999.0


def test_unmatched_cells_are_left_out_for_surveys(export):
    fill, nodata = export(), export(unmatched="nodata")
    matched = (fill.mask == 1).filled()
    np.testing.assert_array_equal(~np.ma.getmaskarray(nodata.output), matched)
    np.testing.assert_array_equal(nodata.output.data[matched], fill.output.data[matched])
    np.testing.assert_array_equal(nodata.mask, fill.mask)
    assert not (~np.ma.getmaskarray(nodata.sigma) & ~matched).any()
    assert (~np.ma.getmaskarray(fill.output)).sum() > matched.sum() > 0


def test_fill_exports_all_heights_that_the_run_renders(model, export, tmp_path, monkeypatch):
    filled = export().output
    DsmExport(write_config(tmp_path), tmp_path / "plain.tif").run()
    plain = read_band(tmp_path / "plain.tif")
    np.testing.assert_array_equal(plain.filled(), filled.filled())
    assert (~np.ma.getmaskarray(filled)).mean() > 0.9


def test_sigma_is_the_displacement_where_training_moved_heights(model, export):
    """Where the Gaussians are raised by three meters, sigma is three meters; elsewhere it does not change."""
    raised = copy.deepcopy(model)
    east = raised.gauss_params["means"].data[:, 0] > 0
    raised.gauss_params["means"].data[east, 2] += 3.0 * model.normalized.scale
    before, after = export(), export(raised)
    middle = before.sigma.shape[1] // 2
    west, east = (slice(None), slice(0, middle - 20)), (slice(None), slice(middle + 20, None))
    assert abs(np.ma.median(after.sigma[west]) - np.ma.median(before.sigma[west])) < 0.02
    assert np.ma.median(before.sigma[east]) < 1.0
    assert np.ma.median(after.sigma[east]) == pytest.approx(3.0, abs=0.3)


def make_surface(height, sigma, source) -> SurfaceLayers:
    layers = [np.asarray(v, np.float32) for v in (height, np.ones_like(height))]
    grid = Grid(10.0, 20.0, 2.0, *layers[0].shape[::-1])
    return SurfaceLayers(*layers, np.asarray(source, np.uint8), np.asarray(sigma, np.float32), grid)


def test_samples_of_a_surface():
    """Cells of two meters, with centers at x = 11, 13, 15 and y = 19, 17."""
    nan = np.nan
    model_surface = make_surface([[1.0, 2, nan], [3, 9, 5]], [[0.1, 0.3, nan], [0.5, 0.7, 0.9]], [[1, 2, 0], [1, 1, 2]])
    x = np.array([11.0, 11.5, 12.0, 12.0, 14.5, 14.0, 9.0, 40.0])
    y = np.array([19.0, 19.0, 18.0, 18.5, 19.0, 17.0, 19.0, 19.0])
    samples = sample_surface(model_surface, x, y)
    assert samples.source[[0, 1, 4, 6, 7]].tolist() == [1, 1, 0, 0, 0]
    np.testing.assert_allclose(samples.sigma_m, [0.1, 0.15, 0.4, 0.3, nan, 0.8, nan, nan], rtol=1e-5)
    np.testing.assert_array_equal(samples.height_m[[0, 1, 4, 6, 7]], [1, 1, nan, nan, nan])


@pytest.mark.parametrize(("flags", "named"), [
    ({"unmatched": "nodata"}, "--unmatched nodata"), ({"mask": Path("m.tif")}, "--mask"),
    ({"sigma": Path("s.tif")}, "--sigma"),
])  # fmt: skip
def test_scenes_without_a_surface_have_no_evidence(city_scene, model, flags, named, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = replace(Scene.from_directory(city_scene), surface=None)
    renderer = SimpleNamespace(normalized=replace(model.normalized, surface=None, scene=scene))
    monkeypatch.setattr(load_run, "load_run", lambda _: SimpleNamespace(renderer=renderer))
    with pytest.raises(SkyfallError, match=rf"^{named} needs a dense surface, and .* has none .*\. Process") as raised:
        DsmExport(tmp_path / "config.yml", tmp_path / "dsm.tif", **flags).run()
    assert str(raised.value).count(". ") == 1 and not list(tmp_path.glob("*.tif"))


@pytest.mark.parametrize("flag", ["output", "mask", "sigma"])
def test_outputs_are_checked_before_the_run_is_loaded(flag, tmp_path, monkeypatch):
    def fail_to_load(_):
        raise AssertionError("loaded")

    monkeypatch.setattr(load_run, "load_run", fail_to_load)
    files = {name: tmp_path / f"{name}.tif" for name in ("output", "mask", "sigma")}
    (tmp_path / "file").touch()
    other = "output" if flag != "output" else "mask"
    bad = {
        tmp_path: rf"--{flag} .* is a directory\. Give the name of a file in it\.",
        tmp_path / "file" / "x.tif": rf"--{flag} .*x.tif cannot be written \(.+\)\. Choose a directory",
        files[other]: r"name the same file, .*\. Give each a name of its own\.",
    }
    for path, message in bad.items():
        with pytest.raises(SkyfallError, match=message):
            DsmExport(tmp_path / "config.yml", **{**files, flag: path}).run()
    with pytest.raises(AssertionError, match="loaded"):
        DsmExport(tmp_path / "config.yml", **files).run()
