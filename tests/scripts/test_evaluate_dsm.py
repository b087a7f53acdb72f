"""Protocols of `skyfall-eval dsm`, tables of several scenes, and changes between DSMs."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from pyproj import Transformer

from skyfall_ns.geo.raster import write_raster
from skyfall_ns.scripts import evaluate

UTM = "EPSG:32637"
SHARED = Path(__file__).parents[3] / "shared"


def write_dsm(path: Path, heights: np.ndarray, crs=UTM, west=5e5, north=4e6, tags=None) -> Path:
    write_raster(path, heights[None].astype(np.float32), crs=crs, transform=Affine(0.5, 0, west, 0, -0.5, north),
                 nodata=-1, tags=tags)  # fmt: skip
    return path


def make_heights(rows=100, columns=120) -> np.ndarray:
    x, y = np.meshgrid(np.arange(columns), np.arange(rows))
    return 100 + 3 * np.sin(x / 9) * np.cos(y / 7) + 6 * ((x // 17 + y // 23) % 2)


@pytest.fixture
def call(monkeypatch, capsys):
    def run_main(*arguments):
        monkeypatch.setattr(sys, "argv", ["skyfall-eval", *map(str, arguments)])
        try:
            evaluate.main()
        except SystemExit as exit_error:
            return exit_error.code, capsys.readouterr().err
        return 0, capsys.readouterr().out

    return run_main


def test_the_protocol_of_papers_is_that_of_the_independent_script(call, tmp_path):
    """Scores of a disturbed truth of JAX_068 equal those of another implementation to a centimeter."""
    truth = SHARED / "data/jax_068_dev/truth"
    if not (truth / "JAX_068_DSM.tif").is_file() or not (SHARED / "tools/score_jax.py").is_file():
        pytest.skip("the set jax_068_dev and its score script are not there")
    specification = importlib.util.spec_from_file_location("score_jax", SHARED / "tools/score_jax.py")
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    x_min, y_min, cells, size = map(float, (truth / "JAX_068_DSM.txt").read_text().split())
    with rasterio.open(truth / "JAX_068_DSM.tif") as file:
        heights = file.read(1).astype(float)
    noise = np.random.default_rng(0).normal(0, 0.8, heights.shape)
    pred = heights - 27.3 + noise
    pred[40:80, 60:100] = np.nan
    write_raster(tmp_path / "pred.tif", pred[None].astype(np.float32), crs="EPSG:32617", nodata=np.nan,
                 transform=Affine(size, 0, x_min + 2.3, 0, -size, y_min + cells * size - 1.1))  # fmt: skip
    expected = script.score(str(tmp_path / "pred.tif"), truth.parent)
    code, out = call("dsm", tmp_path / "pred.tif", truth / "JAX_068_DSM.tif", "--protocol", "dsmr", "--classes",
                     truth / "JAX_068_CLS.tif", "--ref-crs", "EPSG:32617", "--json", tmp_path / "s.json")  # fmt: skip
    assert code == 0, out
    found = json.loads((tmp_path / "s.json").read_text())
    for ours, theirs in (("all", "mean_z"), ("no_trees", "no_trees")):
        for key, name in (("mae_m", "mae"), ("rmse_m", "rmse")):
            assert found["mean_z"][ours][key] == pytest.approx(expected[theirs][name], abs=0.01)
    assert found["completeness"] == pytest.approx(expected["completeness"], abs=1e-6)
    down, right = found["shift_cells"]
    assert (right * size, -down * size) == pytest.approx((expected["dx_m"], expected["dy_m"]))
    assert "correlation" in out


def test_classes_are_left_out(call, tmp_path):
    heights, pred = make_heights(), make_heights()
    classes = np.full(heights.shape, 2, np.uint8)
    classes[:30] = 9
    pred[:30] += 50.0
    write_raster(tmp_path / "cls.tif", classes[None])
    ref, pred_path = write_dsm(tmp_path / "ref.tif", heights), write_dsm(tmp_path / "pred.tif", pred)
    for protocol in ("shift", "dsmr"):
        arguments = ("dsm", pred_path, ref, "--protocol", protocol, "--json", tmp_path / "s.json")
        call(*arguments, "--classes", tmp_path / "cls.tif")
        report = json.loads((tmp_path / "s.json").read_text())
        scores = report["registered"] if protocol == "shift" else report["mean_z"]["all"]
        assert scores["mae_m"] < 0.05
        call(*arguments)
        report = json.loads((tmp_path / "s.json").read_text())
        assert (report["registered"] if protocol == "shift" else report["mean_z"]["all"])["mae_m"] > 5


def test_sigma_is_compared_with_the_errors(call, tmp_path):
    rng = np.random.default_rng(1)
    sigma = np.where(np.arange(120) < 60, 0.2, 1.5) * np.ones((100, 1))
    ref = write_dsm(tmp_path / "ref.tif", make_heights())
    pred = write_dsm(tmp_path / "pred.tif", make_heights() + rng.normal(size=sigma.shape) * sigma)
    code, out = call(
        "dsm", pred, ref, "--sigma", write_dsm(tmp_path / "sigma.tif", sigma), "--json", tmp_path / "s.json"
    )
    report = json.loads((tmp_path / "s.json").read_text())["sigma"]
    assert code == 0 and "within 1 sigma" in out
    assert report["within_1_sigma"] == pytest.approx(0.683, abs=0.03)
    assert report["within_2_sigma"] == pytest.approx(0.954, abs=0.02)
    medians = {entry["from_m"]: entry["median_m"] for entry in report["by_sigma"]}
    assert medians[0.0] == pytest.approx(0.6745 * 0.2, rel=0.15) and medians[1.0] == pytest.approx(
        0.6745 * 1.5, rel=0.1
    )


def test_only_the_overlap_of_a_large_reference_is_read(call, tmp_path, monkeypatch):
    heights = make_heights(900, 1000)
    ref = write_dsm(tmp_path / "ref.tif", heights)
    pred = write_dsm(tmp_path / "pred.tif", heights[300:400, 500:600], west=5e5 + 250, north=4e6 - 150)
    from skyfall_ns.evaluation import dsm_inputs

    shapes = []
    original = dsm_inputs.datum_notes
    monkeypatch.setattr(dsm_inputs, "datum_notes", lambda *a: shapes.append(a[1].bands.shape) or original(*a))
    code, _ = call("dsm", pred, ref, "--json", tmp_path / "s.json")
    assert code == 0 and shapes == [(1, 180, 180)]
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["registered"]["mae_m"] < 0.01 and np.abs(report["shift_m"]).max() < 0.05


def test_datums_and_units_that_differ_are_noted(call, tmp_path):
    ref = write_dsm(tmp_path / "ref.tif", make_heights(), crs=f"{UTM}+5773", tags={"UNITS": "foot"})
    pred = write_dsm(tmp_path / "pred.tif", make_heights(), tags={"HEIGHTS": "ellipsoidal (WGS84), meters"})
    _, out = call("dsm", pred, ref)
    assert "above the ellipsoid" in out and "above EGM96 height" in out and "heights are in foot" in out
    _, out = call("dsm", pred, pred)
    assert "Note" not in out


def test_several_scenes_in_one_table(call, tmp_path):
    heights = make_heights(50, 60)
    ref = write_dsm(tmp_path / "ref.tif", heights)
    preds = [write_dsm(tmp_path / f"{n}.tif", heights + n * np.random.default_rng(n).normal(size=heights.shape))
             for n in (1, 2)]  # fmt: skip
    for suffix in ("md", "csv", "json"):
        code, out = call("dsms", "--pred", *preds, "--ref", ref, ref, "--output", tmp_path / f"t.{suffix}",
                         "--protocol", "dsmr")  # fmt: skip
        assert code == 0 and out.count("\n") >= 5
    rows = json.loads((tmp_path / "t.json").read_text())["scenes"]
    assert rows[2]["dsm"] == "mean" and rows[2]["mae_m"] == pytest.approx((rows[0]["mae_m"] + rows[1]["mae_m"]) / 2)
    assert rows[1]["mae_m"] == pytest.approx(2 * rows[0]["mae_m"], rel=0.1)
    assert (tmp_path / "t.csv").read_text().startswith("dsm,reference,mae_m")
    code, err = call("dsms", "--pred", *preds, "--ref", ref, "--output", tmp_path / "x.md")
    assert code == 1 and "--pred has 2 files and --ref 1. Give" in err


def test_a_hill_that_grew_has_its_volume(call, tmp_path):
    before, after = make_heights(), make_heights()
    after[20:40, 30:70] += 4.0  # 20 x 40 cells of 0.25 m²
    after[60:70, 30:40] -= 2.0
    first, second = write_dsm(tmp_path / "a.tif", before), write_dsm(tmp_path / "b.tif", after)
    sigmas = [write_dsm(tmp_path / f"s{n}.tif", np.full(before.shape, s)) for n, s in enumerate((0.3, 0.4))]
    lon_lat = Transformer.from_crs(UTM, "EPSG:4326", always_xy=True)
    corners = [(5e5 + x * 0.5, 4e6 - y * 0.5) for x, y in ((25, 15), (75, 15), (75, 45), (25, 45), (25, 15))]
    ring = [list(lon_lat.transform(*corner)) for corner in corners]
    polygon = {
        "type": "Feature",
        "properties": {"name": "hill"},
        "geometry": {"type": "Polygon", "coordinates": [ring]},
    }
    (tmp_path / "p.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [polygon]}))
    code, out = call("change", first, second, "--sigmas", *sigmas, "--polygons", tmp_path / "p.geojson",
                     "--json", tmp_path / "c.json", "--output", tmp_path / "c.tif")  # fmt: skip
    assert code == 0 and "hill" in out
    report = json.loads((tmp_path / "c.json").read_text())
    hill = report["polygons"]["hill"]
    assert hill["rise_m3"] == pytest.approx(800.0, rel=1e-3) and hill["fall_m3"] == pytest.approx(0, abs=1)
    assert report["all"]["significant_fall_m3"] == pytest.approx(50.0, rel=1e-3)
    cells = hill["cells"]
    assert cells == 50 * 30
    assert hill["net_sigma_independent_m3"] == pytest.approx(0.5 * cells**0.5 * 0.25, rel=1e-3)
    assert hill["net_sigma_common_m3"] == pytest.approx(0.5 * cells * 0.25, rel=1e-3)
    with rasterio.open(tmp_path / "c.tif") as file:
        np.testing.assert_allclose(file.read(1)[30, 50], 4.0, atol=1e-5)
        np.testing.assert_allclose(file.read(2)[30, 50], 0.5, atol=1e-5)


@pytest.mark.parametrize(
    ("case", "words"),
    [("elsewhere", "do not overlap"), ("no crs", "no coordinate reference system"), ("polygons", "has no polygon"),
     ("geographic", "not a projected system")],
)  # fmt: skip
def test_bad_input_of_change_is_an_error_of_two_sentences(case, words, call, tmp_path):
    first = write_dsm(tmp_path / "a.tif", make_heights(), crs="EPSG:4326" if case == "geographic" else UTM,
                      west=30 if case == "geographic" else 5e5, north=40 if case == "geographic" else 4e6)  # fmt: skip
    second = write_dsm(tmp_path / "b.tif", make_heights(), None if case == "no crs" else UTM,
                       9e5 if case == "elsewhere" else 5e5)  # fmt: skip
    (tmp_path / "p.json").write_text('{"type": "Point", "coordinates": [0, 0]}')
    polygons = ("--polygons", tmp_path / "p.json") if case == "polygons" else ()
    code, err = call("change", first, second, *polygons, "--json", tmp_path / "c.json")
    assert code == 1 and words in err and err.count(". ") == 1 and not (tmp_path / "c.json").exists()
