"""The lidar protocol: scores of the truth with known errors added."""

import numpy as np
import pytest
from affine import Affine

from skyfall_ns.errors import RasterError
from skyfall_ns.evaluation.lidar import error_statistics, read_lidar, score_lidar
from skyfall_ns.geo.raster import Raster, write_raster

CRS, SIZE, X, Y = "EPSG:32617", 160, 436078.0, 3357495.0


@pytest.fixture
def truth(tmp_path):
    z = np.kron(np.random.default_rng(0).uniform(0, 12, (16, 16)), np.ones((10, 10))).astype(np.float32)
    classes = np.full((SIZE, SIZE), 2, np.uint8)
    classes[:40], classes[40:60], classes[-20:] = 5, 6, 9
    write_raster(tmp_path / "dsm.tif", z[None])
    write_raster(tmp_path / "cls.tif", classes[None])
    (tmp_path / "georeference.txt").write_text(f"{X}\n{Y}\n{SIZE}.000\n0.5\n")
    return read_lidar(tmp_path / "dsm.tif", tmp_path / "cls.tif", tmp_path / "georeference.txt", CRS)


def make_prediction(values, east=0.0, north=0.0):
    transform = Affine(0.5, 0, X + east, 0, -0.5, Y + 0.5 * SIZE + north)
    return Raster(np.asarray(values, np.float64)[None], CRS, transform)


def test_a_shifted_truth_has_no_error(truth):
    score = score_lidar(make_prediction(truth.dsm.band_values() + 33.0, east=2.0, north=-3.0), truth)
    assert score.shift == (-6, -4) and score.report["correlation"] == pytest.approx(1)
    assert score.report["mean_z"]["all"]["mae_m"] == pytest.approx(0, abs=1e-6)
    assert score.report["median_z"]["all"]["within_1m"] == 1
    assert score.report["completeness"] == pytest.approx((156 / 160) * (134 / 140))  # before the shift, without water


def test_errors_with_mean_and_with_median_removed(truth):
    values = truth.dsm.band_values()
    values[40:50] += 20.0  # a sixteenth of the area, a fourteenth without water; no trees
    report = score_lidar(make_prediction(values), truth).report
    share = 10 / 140
    mean, median = report["mean_z"]["all"], report["median_z"]["all"]
    assert mean["mae_m"] == pytest.approx(2 * share * (1 - share) * 20)
    assert median["mae_m"] == pytest.approx(share * 20) and median["rmse_m"] == pytest.approx(20 * share**0.5)
    assert median["median_m"] == pytest.approx(0, abs=1e-6)
    assert report["median_z"]["no_trees"]["off_10m"] == pytest.approx(0.1)
    assert report["median_z"]["trees"]["mae_m"] == pytest.approx(0, abs=1e-6)
    assert report["median_z"]["buildings"]["mae_m"] == pytest.approx(10)


def test_water_does_not_count_and_missing_heights_are_incomplete(truth):
    values = truth.dsm.band_values()
    values[-20:] += 500.0
    values[:, :40] = np.nan
    report = score_lidar(make_prediction(values), truth).report
    assert report["mean_z"]["all"]["mae_m"] == pytest.approx(0, abs=1e-6)
    assert report["completeness"] == pytest.approx(0.75)


def test_error_statistics_of_outliers():
    statistics = error_statistics(np.array([0.5] * 98 + [-30.0, 30.0]))
    assert (
        statistics["p99_m"] == pytest.approx(30.0, abs=0.5)
        and statistics["off_10m"] == 0.02
        and statistics["within_1m"] == 0.98
    )


def test_damaged_truth_and_missing_overlap_are_refused(tmp_path, truth):
    with pytest.raises(RasterError, match="hardly overlap"):
        score_lidar(make_prediction(truth.dsm.band_values(), east=5000.0), truth)
    files = tmp_path / "dsm.tif", tmp_path / "cls.tif", tmp_path / "georeference.txt"
    files[2].write_text("1 2 3 0.5")
    with pytest.raises(RasterError, match=r"3 x 3 cells.*Copy"):
        read_lidar(*files, CRS)
    files[2].write_text("north")
    with pytest.raises(RasterError, match="does not hold x_min"):
        read_lidar(*files, CRS)
